"""``symcere compare``: tunes, trains and tests models on datasets, and writes tables of the results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_prep.command import at_least
from recbole_symcere.properties import parse_assignments

HELP = "Compare models: tune each equally on validation, train it with several seeds, test it, and write tables."
EXAMPLES = """examples:
  %(prog)s --models SymCERE LightGCN BPR --datasets demo --trials 10 --seeds 5
  %(prog)s --models SymCERE LightGCN --datasets yelp --text_train=frozen --stopping_step=100
  %(prog)s --models LightGCN MyModel --ours MyModel --datasets demo --imports=[my_models]
  %(prog)s --models LightGCN SymCERE --datasets demo --protocol strict temporal --jobs 2
  %(prog)s --models LightGCN SymCERE --datasets demo --eval_step=5 --SymCERE.eval_step=1
  %(prog)s --preset paper --datasets amazon-pet-supplies yelp --jobs 2

Run the same command again to continue an interrupted comparison. Run it in several processes at once to share the work.
Any setting of RecBole or of a model can be given as --key=value; it goes to every model that reads it.
Give it as --MODEL.key=value for one model alone, where it takes precedence.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    compared = parser.add_mutually_exclusive_group(required=True)
    compared.add_argument("--models", nargs="+", metavar="MODEL")
    compared.add_argument(
        "--preset", metavar="PRESET", help="the models of a table: paper, paper-ablation, paper-geometry"
    )
    add("--datasets", nargs="+", required=True, metavar="DATASET")
    add(
        "--ours",
        nargs="+",
        metavar="MODEL",
        help="all others are baselines (default: SymCERE and what extends it)",
    )
    add("--trials", type=at_least(0), default=10, help="settings to try per model (default %(default)s; 0: no search)")
    add("--seeds", type=at_least(1), default=5, help="runs of the best settings, each with its own seed (%(default)s)")
    add("--tuned", action="store_true", help="start from settings in properties/tuned, found by an earlier comparison")
    add("--ablation", action="store_true", help="also run our models with each change in properties/ablation")
    add(
        "--protocol",
        nargs="+",
        default=["strict"],
        metavar="PROTOCOL",
        help="evaluation protocols: strict (default), temporal, strangers, rolling, paper, …; several: side by side",
    )
    add("--jobs", type=at_least(1), default=1, help="processes that share the work, one thread each (%(default)s)")
    add(
        "--search-seeds",
        type=at_least(1),
        default=1,
        help="seeds that each trial is trained with; the best trial has the best mean rank over them (%(default)s)",
    )
    add(
        "--tie-seeds",
        type=at_least(1),
        default=1,
        help="orders of rows of equal time that the best settings are run with (%(default)s)",
    )
    add("--output", type=Path, default=Path("comparison"), help="folder for trials, runs and tables (%(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Does the trials and runs that are left, writes the tables of the comparison and prints the summary.

    Raises:
        UserError: settings or files can't be used, or some runs can't be trained.
    """
    settings: dict[str, Any] = ({"tuned": True} if given.tuned else {}) | parse_assignments(rest)
    from recbole_symcere.comparison.comparison import Comparison, Plan  # imported late, so that help is fast
    from recbole_symcere.comparison.jobs import work_in_jobs
    from recbole_symcere.comparison.preset import read_preset

    preset = read_preset(given.preset) if given.preset else None
    plan = Plan(
        preset.models if preset else given.models,
        given.datasets,
        given.ours or (preset.ours if preset else None),
        given.trials,
        given.seeds,
        settings,
        given.output,
        given.ablation,
        given.search_seeds,
        given.tie_seeds,
        preset,
    )
    comparison = Comparison(plan, given.protocol)
    if given.jobs == 1:
        comparison.work()
    else:
        work_in_jobs(comparison, given.jobs)
    print(comparison.write_tables())
