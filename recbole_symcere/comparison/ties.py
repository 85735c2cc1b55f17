"""How far the order of rows of equal time decides a result: the spread over several orders, beside that over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from recbole_symcere.comparison.sheet import Sheet
from recbole_symcere.comparison.statistics import mean_and_sd
from recbole_symcere.comparison.tables import Run
from recbole_symcere.grid import Cell, Grid, Row, number_cell
from recbole_symcere.metrics import PRIMARY, label_of

HEADS = {
    "mean": "mean over orders",
    "low": "lowest",
    "high": "highest",
    "sd": "sd over orders",
    "sd_seeds": "sd over seeds",
}
NOTES = (
    "{metric} of the best settings, found with the first order, on {orders} orders of the rows of equal time. Each "
    "order is of a hash with its own tie_seed, and is run with the seed {seed}.",
    "The standard deviation over seeds is that of the first order.",
)


def ties_sheet(models: Sequence[Run], orders: Mapping[tuple[str, str], Sequence[Run]]) -> Sheet:
    """Returns the table of the spread of the primary metric over orders.

    Args:
        models: the runs with the first order, with every seed.
        orders: for each dataset and model, the runs with the other orders, with the first seed.
    """
    numbers = {
        key: _numbers([run for run in models if (run.dataset, run.model) == key], of) for key, of in orders.items()
    }
    datasets, names = (tuple(dict.fromkeys(key[place] for key in numbers)) for place in (0, 1))
    rows = [Row(name, [cell for dataset in datasets for cell in _cells(numbers[dataset, name])]) for name in names]
    groups = [dataset for dataset in datasets for _ in HEADS]
    grid = Grid(
        "Spread over orders of equal time", ["model", *list(HEADS.values()) * len(datasets)], rows, groups=groups
    )
    of_all = next(iter(numbers.values()))
    first = min(run.seed for run in models)
    notes = [note.format(metric=label_of(PRIMARY), orders=of_all["n_orders"], seed=first) for note in NOTES]
    frame = pl.DataFrame([{"dataset": dataset, "model": model, **of} for (dataset, model), of in numbers.items()])
    return Sheet(grid, notes, frame)


def _numbers(seeds: Sequence[Run], orders: Sequence[Run]) -> dict[str, Any]:
    of_seeds = [run.metrics[PRIMARY] for run in sorted(seeds, key=lambda run: run.seed)]
    values = [of_seeds[0], *(run.metrics[PRIMARY] for run in orders)]
    found: dict[str, Any] = {
        "metric": PRIMARY,
        "mean": statistics.fmean(values),
        "low": min(values),
        "high": max(values),
    }
    found |= {"sd": mean_and_sd(values)[1], "sd_seeds": mean_and_sd(of_seeds)[1]}
    return found | {"n_orders": len(values), "n_seeds": len(of_seeds)}


def _cells(numbers: Mapping[str, Any]) -> list[Cell]:
    return [number_cell(numbers[name], ".4f") for name in HEADS]
