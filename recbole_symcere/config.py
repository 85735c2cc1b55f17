"""RecBole's Config with this package's properties and models; a key that nothing reads is an error.

Precedence, lowest first: RecBole's overall and model properties, ours (overall, model, dataset, tuned, protocol), the
user's files, dictionary and command line.
"""

import difflib
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import recbole.trainer
import recbole.utils
import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_types
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_symcere import distributed
from recbole_symcere.errors import ConfigError

DEEPEST = 20  # levels of nesting in a property file
ABOVE_0 = 5e-324  # the least number above 0: the lowest of a bound that leaves 0 out
RECBOLE_PROPERTIES = Path(sys.modules["recbole"].__file__ or "").parent / "properties"
EVAL_ARGS_KEYS = ("split", "group_by", "order", "mode")
NEGATIVE_SAMPLING_KEYS = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
# Read by RecBole (or by us) and absent from its argument lists and its property files.
FURTHER_KEYS = (
    "model", "dataset", "protocol", "checkpoint_file", "result_file", "encoding", "discretization",
)  # fmt: skip
# In RecBole's lists, but read by nothing, or overwritten.
UNREAD_KEYS = ("config_file", "valid_metric_bigger")
VARIANT_OF = "variant_of"
CHOICES = {
    "audit": ("error", "warn"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "rm_dup_inter": (None, "first", "last"),
}
BOUNDS = {
    **dict.fromkeys(("epochs", "eval_step", "train_batch_size", "eval_batch_size", "metric_decimal_place"), (1, inf)),
    **dict.fromkeys(("seed", "stopping_step", "worker"), (0, inf)),
    "learning_rate": (ABOVE_0, inf),
    "weight_decay": (0.0, inf),
}


def properties_folder() -> Path:
    """The property files: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


class _SafeLoader(yaml.SafeLoader):
    """YAML without Python objects; 1e-3 is a number, as in RecBole's files (YAML 1.1 wants 1.0e-3).

    No setting needs an alias or deep nesting: a short file could fill the memory with them.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or self.depth > DEEPEST:
            problem = f"aliases, and values nested more than {DEEPEST} deep, are not read"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def parse_value(text: str) -> Any:
    """A command-line value, read as YAML; nothing is evaluated.

    ``None`` stands for YAML's ``null``, and RecBole's intervals, such as ``[5,inf)``, are text.
    """
    if text == "None":
        return None
    if re.fullmatch(r"[\[(][^\[\]()]*\)|\([^\[\]()]*\]", text):
        return text
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text[:200]!r} as YAML: {_yaml_problem(error)}") from error


def parse_assignments(arguments: Iterable[str]) -> dict[str, Any]:
    """Settings of a command line's ``--key=value``.

    Raises:
        ConfigError: an argument is not of that form, stands twice, or holds a value that is not YAML.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and key and equals):
            raise ConfigError(f"cannot read the argument {argument!r}: settings are given as --key=value")
        if key in settings:
            raise ConfigError(f"--{key} is given twice")
        settings[key] = parse_value(value)
    return settings


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a property file.

    Raises:
        ConfigError: the file is missing, is not valid YAML, repeats a key's type wrongly, or holds no mapping.
    """
    try:
        content = deepcopy(_parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such property file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as a property file in UTF-8 ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected lines of the form 'key: value'")
    return content


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    """A comparison makes a Config, of ten property files, for each look at what is finished."""
    return yaml.load(text, Loader=_SafeLoader)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return f"{line}{getattr(error, 'problem', None) or error}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest known name, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]!r}?" if match else ""


def our_models() -> dict[str, type]:
    """This package's own models by name."""
    from recbole_symcere.model.smore import SMORE
    from recbole_symcere.model.symcere import SymCERE
    from recbole_symcere.model.symcere_plus import SymCEREPlus
    from recbole_symcere.model.untrained import Repurchase, TextProfile
    from recbole_symcere.model.xsimgcl import XSimGCL

    models = (SymCERE, SymCEREPlus, SMORE, XSimGCL, TextProfile, Repurchase)
    return {model.__name__: model for model in models}


def get_model(name: str) -> type:
    """A general recommender by its class's name: ours, or RecBole's; or by that of a variant of it.

    A variant is a file ``properties/model/NAME.yaml`` with the key ``variant_of``, and what it sets otherwise. It can
    be of another variant.

    Raises:
        ConfigError: there is no such model, or it is of a kind that needs other data.
    """
    if line := _variant(name):
        return get_model(str(line[0][1][VARIANT_OF]))
    if name in our_models():
        return our_models()[name]
    known = {path.stem for path in (RECBOLE_PROPERTIES / "model").glob("*.yaml")}
    if name not in known:
        ours = {path.stem for path in (properties_folder() / "model").glob("*.yaml")}
        raise ConfigError(f"there is no model {name!r}{nearest(name, known | ours)}")
    # By file: to import RecBole's sequential models turns on autograd's anomaly detection, which slows everything.
    folder = next(RECBOLE_PROPERTIES.parent.glob(f"model/*_recommender/{name.lower()}.py")).parent
    if folder.name != "general_recommender":
        kind = folder.name.removesuffix("_recommender").replace("_", "-")
        raise ConfigError(f"{name} is a {kind} recommender; only general ones run on this data")
    try:
        model = recbole.utils.get_model(name)
    except ImportError as error:
        raise ConfigError(f"the model {name} can't be imported: {error}") from error
    trainer = recbole.utils.get_trainer(model.type, name)
    if trainer not in (recbole.trainer.Trainer, recbole.trainer.TraditionalTrainer):
        raise ConfigError(f"{name} is trained by RecBole's {trainer.__name__}, whose runs can't be resumed or compared")
    return model


def _variant(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The files that make a variant of a model, with their settings, its own last; none, if it is no variant."""
    line: list[tuple[Path, dict[str, Any]]] = []
    while (path := properties_folder() / "model" / f"{name}.yaml").is_file():
        settings = load_yaml(path)
        if VARIANT_OF not in settings:
            break
        if path in (file for file, _ in line):
            raise ConfigError(f"{path}: {name} is a variant of itself")
        line.insert(0, (path, settings))
        name = settings[VARIANT_OF]
    return line


class Config(RecBoleConfig):
    """RecBole's configuration, with safe values and checked keys.

    Args:
        model: model name or class; may stand in a file or the dictionary instead.
        dataset: dataset name, likewise.
        config_file_list: YAML files of the user, later ones over earlier ones.
        config_dict: settings over the files'; the command line ends here too. Values are taken as they are.

    Raises:
        ConfigError: an unknown key, model or protocol, an unreadable file, or a value that cannot work.
    """

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

    # RecBole's extension points, in the order in which its constructor calls them.

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _SafeLoader

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
        if not model or not dataset:
            raise ConfigError(f"no {'dataset' if model else 'model'} given: add --{'dataset' if model else 'model'}=…")
        if isinstance(model, type):
            return model.__name__, model, str(dataset)
        return str(model), get_model(str(model)), str(dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        ours = properties_folder()
        # A model of the user's own inherits its parents' settings.
        names = [base.__name__ for base in reversed(model_class.__mro__)]
        models = [folder / "model" / f"{name}.yaml" for name in names for folder in (RECBOLE_PROPERTIES, ours)]
        files = [
            RECBOLE_PROPERTIES / "overall.yaml",
            RECBOLE_PROPERTIES / "dataset" / "sample.yaml",
            ours / "overall.yaml",
            *models,
        ]
        layers = [load_yaml(file) for file in files if file.is_file()]
        layers.append(getattr(model_class, "defaults", {}))
        unread = getattr(model_class, "unread", ())  # of the settings that a model inherits
        known = _known_keys(key for layer in layers for key in layer).difference(unread)
        for path, settings in _variant(model):
            layers.append({key: value for key, value in settings.items() if key != VARIANT_OF})
            self._check_names(f"{path}: ", layers[-1], known)
            names = [model]
        if (ours / "dataset" / f"{dataset}.yaml").is_file():
            layers.append(_for_models(load_yaml(ours / "dataset" / f"{dataset}.yaml"), names))
        overall = load_yaml(ours / "overall.yaml")
        if self.external_config_dict.get("tuned", overall["tuned"]):
            layers.append(tuned_settings(model, dataset))
            self._check_names(f"{_tuned_file(model, dataset)}: ", layers[-1], known)
        layers.append(self._protocol(str(self.external_config_dict.get("protocol", overall["protocol"]))))
        settings = {key: value for layer in layers for key, value in layer.items() if key not in unread}
        self._optional = {key for layer in layers for key, value in layer.items() if value is None}
        settings["MODEL_TYPE"] = model_class.type  # type: ignore[attr-defined]
        self.internal_config_dict = settings
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
        self._check_evaluation(final)
        # What rebuilds this configuration, before RecBole adds what it derives: checkpoints and results hold it.
        self.settings = _plain({key: value for key, value in final.items() if key not in ("MODEL_TYPE", *UNREAD_KEYS)})
        # Tuned settings are among them now: their file may be gone when they are read again.
        self.settings |= {"model": self.model, "dataset": self.dataset, "tuned": False, "trust_checkpoint": False}
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

    def _check_keys(self) -> None:
        self.known_keys = _known_keys(self.internal_config_dict)
        for key, value in self.external_config_dict.items():
            where = f"{self._origin[key]}: " if key in self._origin else ""
            self._check_names(where, [key], self.known_keys)
            for name, allowed in (("eval_args", EVAL_ARGS_KEYS), ("train_neg_sample_args", NEGATIVE_SAMPLING_KEYS)):
                for inner in value if key == name and isinstance(value, dict) else ():
                    if inner not in allowed:
                        raise ConfigError(f"{where}unknown key {inner!r} in {name}{nearest(inner, allowed)}")
            self._check_type(where, key, value)

    def _check_names(self, where: str, keys: Iterable[str], known: Collection[str]) -> None:
        for key in keys:
            if key not in known:
                owner = _model_with_key(key)
                hint = f": it is {owner}'s, and {self.model} does not read it" if owner else nearest(key, known)
                raise ConfigError(f"{where}unknown key {key!r}{hint}")

    def _check_type(self, where: str, key: str, value: Any) -> None:
        """A value whose kind differs from the default's (text for a number, say) is refused here, not mid-run."""
        default = self.internal_config_dict.get(key)
        kinds: tuple[Any, ...] = (bool, int | float, dict, str)
        kind = next((kind for kind in kinds if isinstance(default, kind)), None)
        if kind is None or (value is None and key in self._optional):
            return
        if kind is str and isinstance(value, int | float):
            self.external_config_dict[key] = str(value)  # --gpu_id=0
        elif not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{where}{key} is {value!r}, but must be like its default, {default!r}")

    def _check_values(self) -> None:
        """What can be known to fail later, mid-run, fails here.

        A model class may declare ``choices`` (allowed values by key) and ``bounds`` (lowest and highest by key; where
        the lowest is an int, the value must be one).
        """
        for key, allowed in (CHOICES | getattr(self.model_class, "choices", {})).items():
            if self[key] not in allowed:
                names = [str(value) for value in allowed]
                raise ConfigError(
                    f"{key} is {self[key]!r}, but must be one of {', '.join(map(repr, allowed))}"
                    f"{nearest(str(self[key]), names)}"
                )
        for key, (lowest, highest) in (BOUNDS | getattr(self.model_class, "bounds", {})).items():
            if self[key] is not None:
                _check_bounds(key, self[key], lowest, highest)
        metric, _, k = self["valid_metric"].partition("@")
        if metric.lower() not in map(str.lower, self["metrics"]):
            raise ConfigError(f"valid_metric is {self['valid_metric']!r}, but metrics are {self['metrics']}")
        if k not in map(str, self["topk"]):
            raise ConfigError(f"valid_metric is {self['valid_metric']!r}, but topk is {self['topk']}")

    def _check_evaluation(self, settings: Mapping[str, Any]) -> None:
        """Before RecBole reads them: its own messages come late or name nothing."""
        metrics = settings["metrics"]
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if str(metric).lower() not in metric_types:
                raise ConfigError(f"there is no metric {metric!r}{nearest(str(metric), metric_types)}")
        split = settings["eval_args"].get("split")
        shares = split.get("RS") if isinstance(split, dict) else None
        if shares is not None and not (isinstance(shares, list) and len(shares) == 3):
            raise ConfigError(f"eval_args split is {split!r}, but RS needs three parts: training, validation, test")
        for key, allowed in (("order", ("TO", "RO")), ("group_by", ("user", "none", None))):
            if settings["eval_args"].get(key) not in allowed:
                value = settings["eval_args"].get(key)
                raise ConfigError(
                    f"{key} in eval_args is {value!r}, but must be one of {', '.join(map(repr, allowed))}"
                )


def _check_bounds(key: str, value: Any, lowest: float, highest: float) -> None:
    if isinstance(lowest, int) and not isinstance(value, int):
        raise ConfigError(f"{key} is {value!r}, but must be a whole number")
    if not isinstance(value, int | float):
        raise ConfigError(f"{key} is {value!r}, but must be a number")
    if not lowest <= value <= highest:
        bounds = {ABOVE_0: "above 0"}.get(lowest, f"at least {lowest}" if highest == inf else "")
        raise ConfigError(f"{key} is {value!r}, but must be {bounds or f'between {lowest:g} and {highest:g}'}")


def _for_models(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A dataset's settings for one model: a block under a model's name is for that model alone."""
    known = {path.stem for folder in (RECBOLE_PROPERTIES, properties_folder()) for path in folder.glob("model/*.yaml")}
    common = {key: value for key, value in settings.items() if key not in known}
    return common | {key: value for name in names for key, value in settings.get(name, {}).items()}


def tuned_settings(model: str, dataset: str) -> dict[str, Any]:
    """The settings that a comparison found for a model on a dataset.

    Raises:
        ConfigError: there are none.
    """
    path = _tuned_file(model, dataset)
    if not path.is_file():
        others = ", ".join(sorted(other.parent.name for other in path.parents[1].glob(f"*/{model}.yaml")))
        raise ConfigError(
            f"{path}: no tuned settings; {model} has {f'some on {others}' if others else 'none'}. Search them: "
            f"python -m recbole_symcere.comparison --models {model} --datasets {dataset}"
        )
    return load_yaml(path)


def _tuned_file(model: str, dataset: str) -> Path:
    return properties_folder() / "tuned" / dataset / f"{model}.yaml"


def _known_keys(own: Iterable[str]) -> set[str]:
    """A model's own settings, and those that hold for any."""
    listed = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
    return set(own).union(listed, FURTHER_KEYS).difference(UNREAD_KEYS)


def _model_with_key(key: str) -> str | None:
    """One of this package's models whose property file has the key."""
    for model in our_models():
        if key in load_yaml(properties_folder() / "model" / f"{model}.yaml"):
            return model
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)
