"""``symcere analyse search``: how well SymCEREPlus finds items by words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dataset_prep.command import at_least
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments

HELP = "how well held-out reviews find their own items: SymCEREPlus against BM25 and the encoder alone"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/plus.pth
  %(prog)s --checkpoint saved/plus.pth --queries 500 --output analysis
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="[LABEL=]PATH", help="a checkpoint of SymCEREPlus")
    add("--part", choices=("test", "valid"), default="test", help="whose reviews are the queries (%(default)s)")
    add("--queries", type=at_least(2), default=2000, help="at most so many, drawn at random (%(default)s)")
    add("--seed", type=at_least(0), default=0, help="of the draw and of the intervals (%(default)s)")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes how well each method finds the items, and prints the table.

    Raises:
        UserError: an option, the checkpoint or its data can't be used.
    """
    settings = parse_assignments(rest)
    make_output_folder(given.output, "--output")
    from recbole_symcere.analysis.search.measuring import measure  # needs packages of the extra

    print(measure(given, settings), end="")
