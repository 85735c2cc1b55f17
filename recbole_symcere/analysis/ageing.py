"""``symcere analyse ageing``: how the ranking of a model changes with the days since it was trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataset_prep.command import at_least
from recbole_symcere.analysis.shared import labelled_path, write_json, write_text
from recbole_symcere.comparison.runs import QUESTIONS
from recbole_symcere.comparison.statistics import bootstrap_interval
from recbole_symcere.decay import DAY
from recbole_symcere.errors import AnalysisError
from recbole_symcere.grid import Cell, Grid, Row
from recbole_symcere.metrics import PRIMARY
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments

HELP = "NDCG@10 over the days since the model was trained, from runs under --protocol=rolling"
EXAMPLES = """examples:
  %(prog)s --runs frozen=frozen/runs/rolling/demo/SymCEREPlus running=running/runs/rolling/demo/SymCEREPlus
  %(prog)s --runs age/runs/rolling/demo/EASE age/runs/rolling/demo/SymCEREPlus --periods 12 --output analysis
"""
N_DRAWS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--runs", nargs="+", required=True, metavar="[LABEL=]FOLDER", help="folders of a comparison that hold seed-*/")
    add("--periods", type=at_least(1), default=8, help="parts of the time, with equally many questions (%(default)s)")
    add("--seed", type=at_least(0), default=0, help="of the intervals (%(default)s)")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes ``ageing.json``, ``ageing.md`` and a figure, and prints the table.

    Raises:
        AnalysisError: a folder has no questions, or the runs were asked different ones.
    """
    parse_assignments(rest)
    make_output_folder(given.output, "--output")
    from recbole_symcere.analysis.figures import figure, save  # needs packages of the extra

    runs = {label: read_questions(folder) for label, folder in map(labelled_path, given.runs)}
    content = over_time(runs, given.periods, given.seed)
    write_json(given.output / "ageing.json", content)
    text = f"# NDCG@10 over the days since training\n\n{_grid(content).to_markdown()}\n"
    write_text(given.output / "ageing.md", text)
    with figure(4.8, 3.2) as (drawn, (axes,)):
        middles = [(period["from_day"] + period["to_day"]) / 2 for period in content["periods"]]
        for label in runs:
            found = [period["runs"][label] for period in content["periods"]]
            low, high = zip(*(each["interval"] for each in found), strict=True)
            (line,) = axes.plot(middles, [each["mean"] for each in found], marker="o", markersize=3, label=label)
            axes.fill_between(middles, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(xlabel="days since training", ylabel="NDCG@10", ylim=(0, None))
        axes.legend()
        save(drawn, given.output, "ageing")
    print(text, end="")


def read_questions(folder: Path) -> pl.DataFrame:
    """Returns NDCG@10 of each question as a mean over seeds: ``user_id``, ``now`` and ``ndcg@10``, sorted.

    Raises:
        AnalysisError: there is no file of questions.
    """
    if not (files := sorted(folder.glob(f"seed-*/{QUESTIONS}"))):
        raise AnalysisError(
            f"{folder}: no seed-*/{QUESTIONS}; name the folder of a model, which `symcere compare --protocol rolling` "
            "has filled, such as comparison/runs/rolling/demo/SymCEREPlus"
        )
    asked = pl.concat(pl.read_parquet(file) for file in files)
    return asked.group_by("user_id", "now").agg(pl.col(PRIMARY).mean()).sort("user_id", "now")


def over_time(runs: Mapping[str, pl.DataFrame], n_periods: int, seed: int) -> dict[str, Any]:
    """Returns for each period its days and, for each run, the mean over users with a 95% interval.

    A user's value in a period is the mean over the user's questions there.

    Raises:
        AnalysisError: the runs were asked different questions.
    """
    first, *others = runs.items()
    for label, asked in others:
        if not asked["user_id", "now"].equals(first[1]["user_id", "now"]):
            raise AnalysisError(f"{first[0]} and {label} were not asked the same questions; name runs of one dataset")
    days = ((first[1]["now"] - first[1]["now"].min()) / DAY).to_numpy()
    # A day is in one period, so on data with few days there are fewer periods.
    starts = np.unique(np.quantile(days, np.arange(n_periods) / n_periods, method="higher"))
    period = np.searchsorted(starts, days, side="right") - 1
    generator = np.random.default_rng(seed)
    return {
        "metric": PRIMARY,
        "periods": [
            {
                "from_day": float(days[period == number].min()),
                "to_day": float(days[period == number].max()),
                "questions": int((period == number).sum()),
                "runs": {label: _of_users(asked.filter(period == number), generator) for label, asked in runs.items()},
            }
            for number in range(len(starts))
        ],
    }


def _of_users(asked: pl.DataFrame, generator: np.random.Generator) -> dict[str, Any]:
    users = asked.group_by("user_id").agg(pl.col(PRIMARY).mean()).sort("user_id")[PRIMARY].to_numpy()
    interval = bootstrap_interval(users, N_DRAWS, generator) if len(users) > 1 else (float(users[0]),) * 2
    return {"mean": float(users.mean()), "interval": list(interval), "users": len(users)}


def _grid(content: Mapping[str, Any]) -> Grid:
    labels = list(content["periods"][0]["runs"])
    rows = []
    for period in content["periods"]:
        best = max(found["mean"] for found in period["runs"].values())
        cells = [Cell(f"{period['questions']:,}", period["questions"])]
        for found in period["runs"].values():
            detail = "[{:.4f}, {:.4f}]".format(*found["interval"])
            kind = "best" if found["mean"] == best else ""
            cells.append(Cell(f"{found['mean']:.4f}", found["mean"], detail=detail, kind=kind))
        rows.append(Row(f"{period['from_day']:.0f} to {period['to_day']:.0f}", cells))
    return Grid("NDCG@10 over the days since training", ["days", "questions", *labels], rows)
