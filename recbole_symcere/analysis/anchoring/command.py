"""``symcere analyse anchoring``: which words pull reviews to their interactions (section 6.2)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dataset_prep.command import at_least
from recbole_symcere.analysis.shared import CHECKPOINT, PARTS
from recbole_symcere.errors import AnalysisError
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments

HELP = "which words pull reviews to their interactions: objective ones, or sentiment; and LIME of single reviews"
EXAMPLES = """examples:
  %(prog)s --checkpoint SymCERE=saved/demo.pth InfoNCE=saved/infonce.pth --output analysis
  %(prog)s --checkpoint saved/demo.pth --reviews 100 --show-text
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", nargs="+", required=True, metavar="[LABEL=]PATH", help=f"one or several; {CHECKPOINT}")
    add("--part", choices=PARTS, default="valid", help="whose reviews; held-out ones show what was learned, not kept "
        "in mind (default: %(default)s)")  # fmt: skip
    add("--reviews", type=at_least(1), default=500, help="to draw, all if there are fewer (default: %(default)s)")
    add("--lime", type=int, default=3, metavar="K", help="of these, how many LIME explains (default: %(default)s)")
    add("--review", nargs="+", metavar="ID", help="explain these instead, by review_id")
    add("--perturbations", type=at_least(1), default=1000, help="of LIME, by review (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")
    add("--show-text", action="store_true", help="write the texts of explained reviews")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes ``anchoring.json``, ``.md``, ``anchoring-words.csv`` and figures, and prints the tables.

    The same command gives the same files.

    Raises:
        UserError: labels are not distinct, a checkpoint reads no reviews, there is no such review, or an option can't
            be used.
    """
    settings = parse_assignments(rest)
    if given.lime < 0 or given.seed < 0:
        raise AnalysisError(f"--lime is {given.lime} and --seed {given.seed}, but both must be 0 or more")
    make_output_folder(given.output, "--output")
    from recbole_symcere.analysis.anchoring import corpus, writing  # these need packages of the extra

    corpora = corpus.load_corpora(given.checkpoint, given.part, given.reviews, given.seed, settings)
    chosen = [corpus.explained_rows(each, given.review, given.lime) for each in corpora]
    if missing := set(given.review or ()).difference(*(each.review_ids() for each in corpora)):
        raise AnalysisError(f"--review {sorted(missing)[0]}: no review of the part {given.part}; see --part")
    found = [
        result
        for each, rows in zip(corpora, chosen, strict=True)
        for result in corpus.look_into(each, rows, given.perturbations)
    ]
    print(writing.write(found, given))
