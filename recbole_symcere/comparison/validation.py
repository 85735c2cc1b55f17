"""What validation could tell of models, and what it could not: standard errors over its users.

Models and their settings are chosen on validation, whose parts are small. A difference there that is within two
standard errors says little about the order on test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy.stats import sem

from recbole_symcere.comparison.sheet import Sheet
from recbole_symcere.errors import RunsError
from recbole_symcere.grid import Cell, Grid, Row, minus, scores_cell
from recbole_symcere.metrics import PRIMARY, label_of

if TYPE_CHECKING:
    from recbole_symcere.comparison.tables import Run

ERRORS = 2  # a difference of fewer standard errors is not told apart
HEADS = (f"validation {label_of(PRIMARY)}", "difference from the best", "told apart from the best")


@dataclass(frozen=True)
class Standing:
    """A model on the validation part of a dataset, beside the model that is best there.

    Attributes:
        mean, error: the primary metric over users, averaged over seeds, and the standard error of its mean.
        best: the model with the highest mean.
        difference, difference_error: the mean of the differences from the best model over users, and its error.
    """

    dataset: str
    model: str
    mean: float
    error: float
    best: str
    difference: float
    difference_error: float

    @property
    def is_told_apart(self) -> bool:
        """Whether validation can tell the model from the best one."""
        return abs(self.difference) > ERRORS * self.difference_error


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Returns each model on each dataset; none if some runs have no values of the users of validation.

    Raises:
        RunsError: runs of one dataset differ in the users of validation.
    """
    found = []
    for dataset, values in _values(runs).items():
        best = max(values, key=lambda model: values[model].mean())
        for model, of_users in values.items():
            difference = of_users - values[best]
            numbers = (float(of_users.mean()), float(sem(of_users)), best)
            found.append(Standing(dataset, model, *numbers, float(difference.mean()), float(sem(difference))))
    return found


def validation_notes(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns a sentence for each dataset where validation can't tell some models from the best one."""
    of_datasets: dict[str, list[Standing]] = {}
    for standing in standings(runs):
        if standing.model != standing.best and not standing.is_told_apart:
            of_datasets.setdefault(standing.dataset, []).append(standing)
    return tuple(
        f"On {dataset}, validation can't tell {', '.join(standing.model for standing in near)} from the best model "
        f"there, {near[0].best}."
        for dataset, near in of_datasets.items()
    )


def validation_sheet(runs: Sequence[Run]) -> Sheet | None:
    """Returns the table of the models on validation; None if some runs have no values of the users of validation."""
    found = {(standing.model, standing.dataset): standing for standing in standings(runs)}
    if not found:
        return None
    models, datasets = (tuple(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    rows = [Row(model, [cell for dataset in datasets for cell in _cells(found[model, dataset])]) for model in models]
    groups = [dataset for dataset in datasets for _ in HEADS]
    grid = Grid("Models on validation", ["model", *HEADS * len(datasets)], rows, groups=groups)
    notes = [
        "Means over the users of validation and over seeds ± the standard error over users; for a difference, that of "
        f"the paired difference. A model is told apart if the difference is above {ERRORS} standard errors.",
        *_told_of_pairs(runs),
    ]
    columns = ("dataset", "model", "mean", "error", "best", "difference", "difference_error")
    numbers = pl.DataFrame([{name: getattr(each, name) for name in columns} for each in found.values()])
    return Sheet(grid, notes, numbers)


def _values(runs: Sequence[Run]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the values of the users averaged over seeds, [n_users], by dataset and model."""
    users: dict[str, pl.Series] = {}
    values: dict[str, dict[str, list[np.ndarray]]] = {}
    for run in runs:
        if run.valid_users is None or len(run.valid_users) < 2:
            return {}
        of_run = run.valid_users.sort("user_id")
        if not of_run["user_id"].equals(users.setdefault(run.dataset, of_run["user_id"])):
            raise RunsError(f"{run.dataset}: {run.model}, seed {run.seed} was validated on other users than other runs")
        values.setdefault(run.dataset, {}).setdefault(run.model, []).append(of_run[PRIMARY].to_numpy())
    return {dataset: {model: np.mean(of, axis=0) for model, of in each.items()} for dataset, each in values.items()}


def _told_of_pairs(runs: Sequence[Run]) -> list[str]:
    """Returns a sentence for each dataset that counts the pairs of models that validation can't tell apart."""
    told = []
    for dataset, values in _values(runs).items():
        pairs = list(combinations(values, 2))
        near = [pair for pair in pairs if _is_near(values[pair[0]] - values[pair[1]])]
        if pairs:
            named = f": {'; '.join(' and '.join(pair) for pair in near)}" if near else ""
            told.append(f"On {dataset}, {len(near)} of {len(pairs)} pairs of models can't be told apart{named}.")
    return told


def _is_near(difference: np.ndarray) -> bool:
    return bool(abs(difference.mean()) <= ERRORS * sem(difference))


def _cells(standing: Standing) -> list[Cell]:
    mean = scores_cell(standing.mean, standing.error)
    if standing.model == standing.best:
        return [Cell(mean.text, mean.value, mean.detail, kind="best"), Cell(""), Cell("")]
    text, detail = minus(f"{standing.difference:+.4f}"), f"± {standing.difference_error:.4f}"
    return [mean, Cell(text, standing.difference, detail), Cell("yes" if standing.is_told_apart else "no")]
