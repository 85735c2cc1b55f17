"""The rows of a comparison's tables: models and their ablations, each with its search and its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.search import Search
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.registry import get_model
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.properties import load_yaml, properties_folder, tuned_settings

NOT_TUNED = {"model", "dataset", "protocol", "seed", "tuned"}


@dataclass(frozen=True)
class Entry:
    """One row of a table on one dataset: a model, or an ablation of a model.

    Attributes:
        name: what the table calls the row.
        settings: all settings that are given or fixed; those that are searched are laid over them.
        search: the search for the best settings; an ablation shares that of its model.
        folder: the folder of the runs.
        changes: what an ablation changes in the best settings of its model.
        failures: for each seed whose run can't be trained, the reason.
    """

    dataset: str
    model: str
    name: str
    settings: Mapping[str, Any]
    search: Search
    folder: Path
    seeds: Sequence[int]
    changes: Mapping[str, Any] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def tuned(self) -> dict[str, Any]:
        """The settings to run with every seed, once the search is done."""
        return {**self.settings, **self.search.best(), **self.changes}

    @property
    def is_ablation(self) -> bool:
        """Whether the row is an ablation."""
        return self.name != self.model

    def ablation(self, name: str, changes: Mapping[str, Any]) -> Entry:
        """Returns the row of the same model with some settings changed.

        Raises:
            ConfigError: the model does not read one of the settings, or can't use it.
        """
        Config(config_dict={**self.settings, **changes})
        folder = self.folder.with_name(f"{self.model}, {name}")
        return replace(self, name=f"{self.model}, {name}", folder=folder, changes=changes, failures={})

    @property
    def chosen(self) -> dict[str, Any]:
        """What ``--tuned`` reads: all settings that were searched or given and that bear on the result."""
        given = {key: value for key, value in self.settings.items() if key not in runs.NOT_COMPARED | NOT_TUNED}
        tuned = tuned_settings(self.model, self.dataset) if self.settings.get("tuned") else {}
        return tuned | given | self.search.best()

    def run_folder(self, seed: int) -> Path:
        """Returns the folder of the run of a seed."""
        return self.folder / f"seed-{seed}"

    def is_complete(self, seed: int) -> bool:
        """Whether the run of a seed is complete, with the best settings."""
        return runs.is_complete(self.run_folder(seed), self.tuned | {"seed": seed})

    @property
    def seeds_left(self) -> list[int]:
        """The seeds that have neither a complete run nor a failure."""
        return [seed for seed in self.seeds if seed not in self.failures and not self.is_complete(seed)]

    @property
    def n_tasks(self) -> int:
        """The number of trials and runs that the row needs."""
        return (0 if self.is_ablation else self.search.n_trials) + len(self.seeds)

    @property
    def n_tasks_left(self) -> int:
        """The number of them that are still to be done."""
        trials_left = 0 if self.is_ablation else max(0, self.search.n_trials - len(self.search.scores))
        return trials_left + len(self.seeds_left)


def is_ours(model: str) -> bool:
    """Whether a model is SymCERE or made of it."""
    return issubclass(get_model(model), SymCERE)


def ablations_of(model: str) -> dict[str, dict[str, Any]]:
    """Returns the changes in ``properties/ablation/MODEL.yaml`` by their names, none if there is no such file.

    Raises:
        ConfigError: a name can't be that of a folder.
    """
    path = properties_folder() / "ablation" / f"{model}.yaml"
    changes = load_yaml(path) if path.is_file() else {}
    if odd := next((name for name in changes if "/" in name), None):
        raise ConfigError(f"{path}: {odd!r} would name a folder, and must have no '/'")
    return changes
