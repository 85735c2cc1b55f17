"""The configuration of a run: RecBole's Config with this package's property files and checks.

Settings come from these places, later ones over earlier ones: RecBole's overall and model properties; this package's
(overall, model, dataset, tuned, protocol); the user's files; the dictionary or the command line. A key that nothing
reads is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_symcere import compat, distributed
from recbole_symcere.errors import ConfigError
from recbole_symcere.metrics import known_metrics
from recbole_symcere.model.parts import import_modules
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.model.registry import (
    RECBOLE_PROPERTIES,
    VARIANT_OF,
    get_model,
    model_file,
    model_with_setting,
    read_model_file,
    variants,
    with_hooks,
)
from recbole_symcere.properties import (
    PREPARE,
    SafeLoader,
    Setting,
    load_yaml,
    merge_settings,
    nearest,
    properties_folder,
    tuned_file,
    tuned_settings,
)
from recbole_symcere.questions import check_questions
from recbole_symcere.recbole_settings import (
    EVAL_ARGS_KEYS,
    INTERVALS,
    NEGATIVE_SAMPLING_KEYS,
    check_evaluation,
    check_filters,
    check_is_read,
    check_own_parts,
    check_training,
    read_intervals,
)

compat.apply()

View = TypeVar("View")
# Read by RecBole or by this package, and absent from RecBole's argument lists and from all property files.
FURTHER_KEYS = (
    "model", "dataset", "protocol", "checkpoint_file", "result_file", "encoding", "discretization",
)  # fmt: skip
# In RecBole's argument lists, but nothing reads them, or they are overwritten.
UNREAD_KEYS = ("config_file", "valid_metric_bigger")
# RecBole's own code reads these for models or metrics that may lack them, and takes None for an answer.
OPTIONAL_IN_RECBOLE = frozenset({
    "MODEL_INPUT_TYPE", "eval_type", "local_rank", "norm", "reg_weight", "single_spec", "tail_ratio",
    "test_neg_sample_args", "valid_metric_bigger", "valid_neg_sample_args", "world_size",
})  # fmt: skip


class Config(RecBoleConfig):
    """RecBole's configuration with values that are read safely and keys that are checked.

    Args:
        model: the model's name or class; a file or the dictionary may hold it instead.
        dataset: the dataset's name; a file or the dictionary may hold it instead.
        config_file_list: YAML files of the user, later ones over earlier ones.
        config_dict: settings over those of the files, with their values as they are.

    Attributes:
        settings: what rebuilds this configuration; checkpoints and results hold it.
        known_keys: all keys that the model, the data, the training or the evaluation reads.
        ignored: settings that were given and that this model does not read, each with a model that does.

    Raises:
        ConfigError: a key, a model or a protocol is unknown, a file can't be read, or a value can't work.
    """

    settings: dict[str, Any]
    known_keys: set[str]
    ignored: dict[str, str]
    model_class: type[Recommender]

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            super().__init__(model, dataset, config_file_list, dict(config_dict or {}))
            self._check_values()
        except ConfigError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"RecBole can't use the settings: {error}") from error

    def __getitem__(self, key: str) -> Any:
        """Returns the value of a setting, None where it is known and not set.

        Raises:
            KeyError: no setting has this name, so whoever reads it has mistyped it.
        """
        if key in self.final_config_dict:
            return self.final_config_dict[key]
        if key not in self.known_keys and key not in OPTIONAL_IN_RECBOLE:
            raise KeyError(f"no setting is called {key!r}{nearest(key, self.known_keys)}")
        return None

    def view(self, kind: type[View]) -> View:
        """Returns the settings that a dataclass names as its fields: a view with types, for a model and its parts.

        Raises:
            KeyError: a field is not a setting.
        """
        return kind(**{field.name: self[field.name] for field in fields(kind)})  # type: ignore[arg-type]

    def with_settings(self, **changes: Any) -> Config:
        """Returns a copy with other values; this configuration stays as it is."""
        changed = copy(self)
        changed.final_config_dict = {**self.final_config_dict, **changes}
        return changed

    # RecBole's extension points, in the order in which its constructor calls them.

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return SafeLoader

    def _load_config_files(self, file_list: Sequence[str | Path] | None) -> dict[str, Any]:
        self._origin: dict[str, str] = {}
        merged: dict[str, Any] = {}
        for file in file_list or ():
            content = load_yaml(Path(file))
            self._origin.update(dict.fromkeys(content, str(file)))
            merged.update(content)
        return merged

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}  # the command parses its arguments itself and passes them as a dictionary

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, type, str]:
        model = model or self.external_config_dict.get("model")
        dataset = dataset or self.external_config_dict.get("dataset")
        import_modules(self.external_config_dict.get("imports", []))
        if not model or not dataset:
            raise ConfigError(f"no {'dataset' if model else 'model'} given: add --{'dataset' if model else 'model'}=…")
        if isinstance(model, type):
            return model.__name__, with_hooks(model), str(dataset)
        return str(model), get_model(str(model)), str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type[Recommender], dataset: str) -> None:
        merged: dict[str, Setting] = {}
        for where, content in _model_files(model_class):
            merge_settings(merged, where, content)
        known = _known_keys(merged).difference(model_class.unread)
        names = [base.__name__ for base in reversed(model_class.__mro__)]
        for path, content in variants(model):
            self._check_names(f"{path}: ", content.keys() - {VARIANT_OF}, known)
            merge_settings(merged, str(path), {key: value for key, value in content.items() if key != VARIANT_OF})
            names = [model]  # a dataset's block for the model is not the variant's
        folder = properties_folder()
        if (file := folder / "dataset" / f"{dataset}.yaml").is_file():
            content = load_yaml(file)
            self._check_names(f"{file}: ", content.get(model) or (), known)
            found = _for_models(content, names)
            found = {key: value for key, value in found.items() if key in known or not model_with_setting(key)}
            self._check_names(f"{file}: ", found, known)
            merge_settings(merged, str(file), found)
        overall = load_yaml(folder / "overall.yaml")
        if self.external_config_dict.get("tuned", overall["tuned"]):
            tuned = tuned_settings(model, dataset)
            self._check_names(f"{tuned_file(model, dataset)}: ", tuned, known)
            merge_settings(merged, str(tuned_file(model, dataset)), tuned)
        protocol = str(self.external_config_dict.get("protocol", overall["protocol"]))
        merge_settings(merged, f"protocol {protocol}", self._protocol(protocol))
        self._schema = {key: setting for key, setting in merged.items() if key not in model_class.unread}
        self.internal_config_dict = {key: setting.default for key, setting in self._schema.items()}
        self.internal_config_dict["MODEL_TYPE"] = model_class.type
        self._check_keys()

    def _protocol(self, name: str) -> dict[str, Any]:
        folder = properties_folder() / "protocol"
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        if name not in names:
            raise ConfigError(f"there is no protocol {name!r}{nearest(name, names)} (known: {', '.join(names)})")
        return load_yaml(folder / f"{name}.yaml") | {"protocol": name}

    def _get_final_config_dict(self) -> dict[str, Any]:
        final = self.internal_config_dict | self.external_config_dict
        # RecBole fills missing parts of eval_args with a *random* order: what a user leaves out is the protocol's.
        for key in ("eval_args", "train_neg_sample_args"):
            given, base = self.external_config_dict.get(key), self.internal_config_dict.get(key)
            if isinstance(given, dict) and isinstance(base, dict):
                final[key] = base | given
        self._check_early(final)
        # This is taken before RecBole adds what it derives. Tuned settings are among the values by now, and the file of
        # tuned settings may be gone when the configuration is rebuilt.
        self.settings = _plain({key: value for key, value in final.items() if key not in ("MODEL_TYPE", *UNREAD_KEYS)})
        self.settings |= {"model": self.model, "dataset": self.dataset, "tuned": False, "trust_pickles": False}
        return final

    def _init_device(self) -> None:
        if distributed.world_size() > 1:
            # To RecBole each process looks like the only one: its own distribution makes other batches and metrics.
            device = distributed.device(self["use_gpu"])
            self.final_config_dict |= {"single_spec": True, "local_rank": 0, "device": device}
            if not distributed.is_main():
                self.final_config_dict |= {"state": "ERROR", "show_progress": False, "log_wandb": False}
            return
        super()._init_device()
        if not self["use_gpu"]:  # RecBole reads the key elsewhere only
            self.final_config_dict["device"] = torch.device("cpu")

    # Checks

    def _check_keys(self) -> None:
        self.known_keys, self.ignored = _known_keys(self.internal_config_dict), {}
        for key, value in list(self.external_config_dict.items()):
            where = f"{self._origin[key]}: " if key in self._origin else ""
            if key not in self.known_keys and (owner := model_with_setting(key)):
                self.ignored[key] = owner  # such as a script over several models gives
                del self.external_config_dict[key]
                continue
            self._check_names(where, [key], self.known_keys)
            check_is_read(where, key, value, self.internal_config_dict.get(key), self.model_class)
            if key in INTERVALS:
                self.external_config_dict[key] = value = read_intervals(f"{where}{key}", value)
            for name, allowed in (("eval_args", EVAL_ARGS_KEYS), ("train_neg_sample_args", NEGATIVE_SAMPLING_KEYS)):
                for inner in value if key == name and isinstance(value, dict) else ():
                    if inner not in allowed:
                        raise ConfigError(f"{where}unknown key {inner!r} in {name}{nearest(inner, allowed)}")
            setting = self._schema.get(key, Setting(None))
            if setting.kind is str and type(value) in (int, float):
                self.external_config_dict[key] = str(value)  # --gpu_id=0
            else:
                setting.check(f"{where}{key}", value)

    def _check_names(self, where: str, keys: Iterable[str], known: Collection[str]) -> None:
        for key in keys:
            if key not in known:
                owner = model_with_setting(key)
                hint = f": it is {owner}'s, and {self.model} does not read it" if owner else nearest(key, known)
                raise ConfigError(f"{where}unknown key {key!r}{hint}")

    def _check_values(self) -> None:
        """Checks here what would else fail in the middle of a run."""
        for key, setting in self._schema.items():
            if setting.is_bounded or setting.choices:
                setting.check(key, self[key])
        if self["enable_amp"] and self["device"].type == "cpu":
            raise ConfigError(
                "enable_amp=True needs a GPU: on a CPU, sparse products have no mixed precision; leave it out"
            )
        metric, _, k = self["valid_metric"].partition("@")
        if metric.lower() not in map(str.lower, self["metrics"]):
            raise ConfigError(f"valid_metric is {self['valid_metric']!r}, but metrics are {self['metrics']}")
        if k not in map(str, self["topk"]):
            raise ConfigError(f"valid_metric is {self['valid_metric']!r}, but topk is {self['topk']}")
        check_questions(self)
        self.model_class.check_settings(self)

    def _check_early(self, settings: Mapping[str, Any]) -> None:
        """Checks what RecBole's constructor reads next, because its own messages come late or name nothing."""
        metrics = settings["metrics"]
        if not isinstance(metrics, str | list) or not metrics:
            raise ConfigError(f"metrics is {metrics!r}, but must be a list, such as [Hit, NDCG]")
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if str(metric).lower() not in known_metrics():
                raise ConfigError(f"there is no metric {metric!r}{nearest(str(metric), known_metrics())}")
        check_own_parts(self.external_config_dict, self.internal_config_dict)
        check_evaluation(settings)
        check_filters(settings)
        check_training(settings, self.model_class)


def _model_files(model_class: type[Recommender]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Names and contents of the property files of a model's class and of its parents, then the class's ``defaults``."""
    ours = properties_folder() / "overall.yaml"
    for file in (RECBOLE_PROPERTIES / "overall.yaml", RECBOLE_PROPERTIES / "dataset" / "sample.yaml", ours):
        yield str(file), load_yaml(file)
    for name in dict.fromkeys(base.__name__ for base in reversed(model_class.__mro__)):
        file = RECBOLE_PROPERTIES / "model" / f"{name}.yaml"
        if file.is_file():
            yield str(file), load_yaml(file)
        yield str(model_file(name)), read_model_file(name)
    yield f"{model_class.__name__}.defaults", model_class.defaults


def _for_models(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dataset's settings for one model: a block under a model's name is for that model alone."""
    folders = (RECBOLE_PROPERTIES / "model", properties_folder() / "model")
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    common = {key: value for key, value in settings.items() if key not in known | {PREPARE}}
    return common | {key: value for name in names for key, value in (settings.get(name) or {}).items()}


def _known_keys(own: Iterable[str]) -> set[str]:
    """A model's own settings, and those that hold for any model."""
    listed = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
    return set(own).union(listed, FURTHER_KEYS).difference(UNREAD_KEYS)


def _plain(value: Any) -> Any:
    """The value as a checkpoint can hold it: mappings, lists, numbers and texts."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)
