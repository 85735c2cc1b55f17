"""The rows of a comparison's tables: each is a model or a variation of one, with its search and its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.search import Search
from recbole_symcere.config import Config
from recbole_symcere.data.loaders import create_dataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.registry import get_model
from recbole_symcere.model.symcere import SymCERE, SymCERESettings
from recbole_symcere.model.text.loading import find_encoder
from recbole_symcere.model.text.lora import find_adapter
from recbole_symcere.properties import load_yaml, properties_folder, tuned_settings

NOT_TUNED = {"model", "dataset", "protocol", "seed", "tuned"}


@dataclass(frozen=True)
class Entry:
    """One row of a table on one dataset: a model, or a variation of a model, such as an ablation.

    Attributes:
        name: the name of the row in the table.
        settings: all settings that are given or fixed; settings that the search finds take precedence over them.
        search: the search for the best settings; a variation shares the search of its model.
        folder: the folder of the runs.
        where: the dataset, with the protocol if there are several.
        changes: the settings that a variation changes after the search.
        failures: the reason for each seed whose run can't be trained.
        complete: seeds that are known to have a complete run with the best settings of the finished search.
    """

    dataset: str
    model: str
    name: str
    settings: Mapping[str, Any]
    search: Search
    folder: Path
    seeds: Sequence[int]
    where: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)

    @property
    def title(self) -> str:
        """What the display and messages call the row."""
        return f"{self.where}, {self.name}"

    @property
    def tuned(self) -> dict[str, Any]:
        """The settings to run with every seed, once the search is done."""
        return {**self.settings, **self.search.best(), **self.changes}

    @property
    def is_variation(self) -> bool:
        """Whether the row is a variation, which has no search of its own."""
        return self.name != self.model

    def variation(self, name: str, folder: Path, changes: Mapping[str, Any], seeds: Sequence[int]) -> Entry:
        """Returns a row of the same model with some settings changed.

        Raises:
            ConfigError: the model does not read one of the settings, or can't use it.
        """
        Config(config_dict={**self.settings, **changes})
        name = f"{self.model}, {name}"
        return replace(self, name=name, folder=folder, seeds=seeds, changes=changes, failures={}, complete=set())

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that ``--tuned`` reads: those searched or given that can change a result."""
        given = {key: value for key, value in self.settings.items() if key not in runs.NOT_COMPARED | NOT_TUNED}
        tuned = tuned_settings(self.model, self.dataset) if self.settings.get("tuned") else {}
        return tuned | given | self.search.best()

    @property
    def is_begun(self) -> bool:
        """Whether a trial or a run of the row is done."""
        return bool(self.search.scores) or len(self.seeds_left) < len(self.seeds)

    def run_folder(self, seed: int) -> Path:
        """Returns the folder of the run of a seed."""
        return self.folder / f"seed-{seed}"

    def is_complete(self, seed: int) -> bool:
        """Whether the run of a seed with the best settings is complete."""
        if seed in self.complete:
            return True
        found = runs.is_complete(self.run_folder(seed), self.tuned | {"seed": seed})
        if found and self.search.done:  # else the best settings may still change
            self.complete.add(seed)
        return found

    @property
    def seeds_left(self) -> list[int]:
        """The seeds that have neither a complete run nor a failure."""
        return [seed for seed in self.seeds if seed not in self.failures and not self.is_complete(seed)]

    @property
    def n_tasks(self) -> int:
        """The number of trials and runs that the row needs."""
        return (0 if self.is_variation else self.search.n_trials) + len(self.seeds)

    @property
    def n_trials_left(self) -> int:
        """The number of trials that are still to be done."""
        return 0 if self.is_variation else max(0, self.search.n_trials - len(self.search.scores))

    @property
    def n_tasks_left(self) -> int:
        """The number of trials and runs that are still to be done."""
        return self.n_trials_left + len(self.seeds_left)


def check_inputs(entries: Sequence[Entry]) -> None:
    """Checks what no finished work has read, so that a fault is not found after hours of work.

    Raises:
        ConfigError, DatasetError: a dataset can't be used.
        ReviewFileError: the reviews of a dataset can't be read.
        EncoderError: an encoder or its adapter can't be found.
    """
    begun = {entry.dataset for entry in entries if entry.is_begun}
    new = [entry for entry in entries if not (entry.is_variation or entry.is_begun)]
    configs = [Config(config_dict=dict(entry.settings)) for entry in new]
    datasets = {config["dataset"]: config for config in configs if config["dataset"] not in begun}
    datasets |= {config["dataset"]: config for config in configs if _encoder_of(config)}
    for config in datasets.values():
        dataset = create_dataset(config)
        if _encoder_of(config):
            train, *_ = dataset.build()
            train.review_texts()
    reading = [config for config in configs if _encoder_of(config)]
    for adapter in {found for config in reading if (found := config.settings.get("text_adapter"))}:
        find_adapter(adapter)
    for encoder in {config["text_encoder"] for config in reading}:
        find_encoder(encoder)


def _encoder_of(config: Config) -> str | None:
    """Returns the name of the encoder that a model loads, or None if it reads no text with its settings."""
    if "text_encoder" not in config.known_keys or config.settings.get("text_source") == "random":
        return None
    if config.model_class is SymCERE and not config.view(SymCERESettings).reads_reviews:
        return None
    return str(config["text_encoder"])


def is_ours(model: str) -> bool:
    """Whether a model is SymCERE or inherits from it."""
    return issubclass(get_model(model), SymCERE)


def ablations_of(model: str) -> dict[str, dict[str, Any]]:
    """Returns the changes in ``properties/ablation/MODEL.yaml`` by name; an empty dict if there is no such file.

    Raises:
        ConfigError: a name can't be the name of a folder, or a change is not a block of settings.
    """
    path = properties_folder() / "ablation" / f"{model}.yaml"
    changes = load_yaml(path) if path.is_file() else {}
    if odd := next((name for name in changes if "/" in name), None):
        raise ConfigError(f"{path}: {odd!r} would name a folder, so it must not contain '/'")
    if odd := next((name for name, change in changes.items() if not isinstance(change, dict)), None):
        raise ConfigError(f"{path}: {odd!r} must be a block of settings, such as {{normalize: false}}")
    return changes
