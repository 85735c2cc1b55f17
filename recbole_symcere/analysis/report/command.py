"""``symcere analyse report``: one HTML page for a comparison, which needs no network and no other file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recbole_symcere.errors import AnalysisError
from recbole_symcere.properties import parse_assignments

HELP = "one HTML page of a comparison: tables, curves, popularity, evidence, geometry, anchoring, settings"
EXAMPLES = """examples:
  %(prog)s --comparison comparison
  %(prog)s --comparison comparison --analysis analysis --output report.html --figures figures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--comparison", type=Path, required=True, metavar="FOLDER", help="the --output of symcere compare")
    add("--protocol", default="strict", help="whose runs (default: %(default)s)")
    add(
        "--ours",
        nargs="+",
        metavar="MODEL",
        help="the others are baselines (default: SymCERE and models that extend it)",
    )
    add("--analysis", type=Path, metavar="FOLDER", help="the --output of geometry, anchoring and evidence")
    add("--output", type=Path, default=Path("report.html"), metavar="FILE", help="(default: %(default)s)")
    add("--figures", type=Path, metavar="FOLDER", help="also write each of the report's plots as SVG, PNG and PDF")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the page, and prints what it holds and what was left out; the same files give the same bytes.

    Raises:
        UserError: settings are given, files can't be read or don't belong together, or the page is too large.
    """
    if settings := parse_assignments(rest):
        raise AnalysisError(f"report reads no settings, so --{next(iter(settings))} can't be given")
    if given.analysis and not given.analysis.is_dir():
        raise AnalysisError(f"--analysis {given.analysis}: no such folder")
    from recbole_symcere.analysis.report.page import Figures, check_size  # these need packages of the extra
    from recbole_symcere.analysis.report.sections import render
    from recbole_symcere.comparison.results import read_results

    results = read_results(given.comparison, given.protocol, given.ours)
    figures = Figures(given.figures)
    page = render(results, given.analysis, figures)
    size = check_size(page, figures.sizes)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(page, encoding="utf-8", newline="\n")
    of = f"{len(results.models)} models, {len(results.datasets)} datasets, {len(figures.sizes)} figures"
    print("\n".join([f"{given.output}: {of}, {size / 1e6:.1f} MB", *results.notes]))
