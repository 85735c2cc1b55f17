"""``python -m recbole_symcere.comparison``: tunes, trains and tests models on datasets, and writes their tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_symcere.comparison.comparison import Comparison, is_ours
from recbole_symcere.errors import UserError
from recbole_symcere.properties import parse_assignments

EXAMPLE = """examples:
  %(prog)s --models SymCERE LightGCN BPR --datasets demo --trials 10 --seeds 5
  %(prog)s --models SymCERE LightGCN --datasets yelp --text_train=frozen --stopping_step=100

The same command again goes on where it was; given twice at once, two processes share the work.
Any setting of RecBole or of a model is --key=value: it goes to each model that reads it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 for settings or files that can't be used."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_symcere.comparison",
        description="Compare models: as many trials on validation for each, several seeds, one look at test.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", nargs="+", required=True, metavar="MODEL")
    add("--datasets", nargs="+", required=True, metavar="DATASET")
    add("--ours", nargs="+", metavar="MODEL", help="the others are baselines (default: SymCERE and its kin)")
    add("--trials", type=_at_least(0), default=10, help="settings to try for each model (%(default)s); 0: no search")
    add("--seeds", type=_at_least(1), default=5, help="runs of the best setting (%(default)s)")
    add("--tuned", action="store_true", help="start from the settings of an earlier comparison, in properties/tuned")
    add("--ablation", action="store_true", help="run ours also without each of their parts")
    add("--protocol", default="strict", help="strict (default), paper or temporal")
    add("--output", type=Path, default=Path("comparison"), help="folder of trials, runs and tables (%(default)s)")
    given, rest = parser.parse_known_args(arguments)

    try:
        settings: dict[str, Any] = ({"tuned": True} if given.tuned else {}) | parse_assignments(rest)
        comparison = Comparison(
            given.models,
            given.datasets,
            given.ours if given.ours is not None else [model for model in given.models if is_ours(model)],
            given.trials,
            given.seeds,
            given.protocol,
            settings,
            given.output,
            given.ablation,
        )
        comparison.work()
        print(comparison.write_tables())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _at_least(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main())
