"""``symcere analyse evidence``: why SymCEREPlus recommends what it does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dataset_prep.command import at_least
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments

HELP = "the weights of SymCEREPlus, and what each piece of evidence adds to recommended items, as bars"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/plus.pth
  %(prog)s --checkpoint saved/plus.pth --user u0 u7 --k 10 --show-text --output analysis
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="[LABEL=]PATH", help="a checkpoint of SymCEREPlus")
    add("--user", nargs="+", metavar="TOKEN", help="for whom, as in the .inter file (default: some of them)")
    add("--users", type=at_least(1), default=3, help="users without --user, evenly spread (default: %(default)s)")
    add("--k", type=at_least(1), default=5, help="items for each user (default: %(default)s)")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")
    add("--show-text", action="store_true", help="show the sentences that are nearest to each user's first item")
    add("--show-users", action="store_true", help="call users by their tokens")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the weights, what they add, and the figure, and prints the tables.

    Raises:
        UserError: an option, the checkpoint or its data can't be used.
    """
    settings = parse_assignments(rest)
    make_output_folder(given.output, "--output")
    from recbole_symcere.analysis.evidence.measuring import measure  # needs packages of the extra

    print(measure(given, settings), end="")
