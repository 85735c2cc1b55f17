"""``symcere analyse``: looks into trained models; each analysis is a command of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from dataset_prep.command import parser_of
from recbole_symcere.errors import AnalysisError

HELP = "Look into trained models: geometry, anchoring, neighbours, explanations, export, report."
EXAMPLES = """examples:
  %(prog)s geometry --checkpoint saved/demo.pth
  %(prog)s anchoring --checkpoint SymCERE=saved/demo.pth InfoNCE=saved/infonce.pth --output analysis
  %(prog)s neighbours --checkpoint saved/demo.pth --item i7
  %(prog)s report --comparison comparison --analysis analysis

`%(prog)s ANALYSIS --help` says more. Settings of the run are changed by --key=value, such as --data_path=dataset.
"""
PACKAGE = "recbole_symcere.analysis"
ANALYSES = {
    "geometry": f"{PACKAGE}.geometry.command",
    "anchoring": f"{PACKAGE}.anchoring.command",
    "neighbours": f"{PACKAGE}.neighbours",
    "explain": f"{PACKAGE}.explain",
    "export": f"{PACKAGE}.export",
    "report": f"{PACKAGE}.report.command",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a sub-command for each analysis; importing them needs no package of the extra ``analysis``."""
    added = parser.add_subparsers(dest="analysis_name", required=True, metavar="ANALYSIS")
    for name, module in ANALYSES.items():
        command: Any = import_module(module)
        command.add_arguments(added.add_parser(name, help=command.HELP, **parser_of(command)))


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Runs one of the analyses.

    Raises:
        UserError: what the analysis raises; or a package of the extra ``analysis`` is missing.
    """
    command: Any = import_module(ANALYSES[given.analysis_name])
    try:
        command.run(given, rest)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise AnalysisError(f"{package} is not installed; pip install 'recbole-symcere[analysis]' brings it") from error
