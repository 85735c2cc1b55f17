"""``symcere analyse geometry``: where the vectors of trained models lie."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recbole_symcere.analysis.shared import CHECKPOINT, LEAST_POINTS, PARTS
from recbole_symcere.errors import AnalysisError
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments

HELP = "cosines, variance by dimension, alignment, uniformity, effective rank, modality gap, and maps of the vectors"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth
  %(prog)s --checkpoint SymCERE=saved/demo.pth unnormalised=saved/unnormalised.pth --output analysis
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", nargs="+", required=True, metavar="[LABEL=]PATH", help=f"one or several; {CHECKPOINT}")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")
    add("--part", choices=PARTS, default="train", help="whose interactions (default: %(default)s)")
    add("--points", type=int, default=2000, help="interactions on a map, of more a sample (default: %(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the measures and the figures, and prints the table.

    Raises:
        UserError: an option, a checkpoint or its data can't be used.
    """
    settings = parse_assignments(rest)
    if given.points < LEAST_POINTS:
        raise AnalysisError(f"--points {given.points} draws no map; give {LEAST_POINTS} or more")
    make_output_folder(given.output, "--output")
    from recbole_symcere.analysis.geometry.measuring import measure_checkpoints  # needs packages of the extra

    print(measure_checkpoints(given, settings))
