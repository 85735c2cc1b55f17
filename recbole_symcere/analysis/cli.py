"""``symcere analyse``: looks into trained models; each analysis is a command of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from dataset_prep.command import add_commands
from recbole_symcere.errors import AnalysisError

HELP = "Look into trained models: geometry, anchoring, evidence, explanations, search, ageing, export, report."
EXAMPLES = """examples:
  %(prog)s geometry --checkpoint saved/demo.pth
  %(prog)s anchoring --checkpoint SymCERE=saved/demo.pth InfoNCE=saved/infonce.pth --output analysis
  %(prog)s neighbours --checkpoint saved/demo.pth --item i7
  %(prog)s report --comparison comparison --analysis analysis

`%(prog)s ANALYSIS --help` says more. Settings of the run are changed by --key=value, such as --data_path=dataset.
"""
PACKAGE = "recbole_symcere.analysis"
ANALYSES = {
    "geometry": (f"{PACKAGE}.geometry.command", "where the vectors lie: Table 4, Figures 1 and 4"),
    "anchoring": (f"{PACKAGE}.anchoring.command", "which words pull reviews to their interactions"),
    "neighbours": (f"{PACKAGE}.neighbours", "the items nearest to one, with the words that tell them"),
    "evidence": (f"{PACKAGE}.evidence.command", "why SymCEREPlus recommends what it does, as bars"),
    "explain": (f"{PACKAGE}.explain", "which training reviews lie near a user and an item"),
    "search": (f"{PACKAGE}.search.command", "how well held-out reviews find their own items"),
    "ageing": (f"{PACKAGE}.ageing", "how a model ranks over the days since it was trained"),
    "export": (f"{PACKAGE}.export", "vectors, tokens and the LoRA adapter, as files without pickle"),
    "report": (f"{PACKAGE}.report.command", "one HTML page of a comparison and of these"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a sub-command for each analysis."""
    add_commands(parser, "analysis_command", "ANALYSIS", ANALYSES)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Runs one of the analyses.

    Raises:
        UserError: what the analysis raises; or a package of the extra ``analysis`` is missing.
    """
    command: Any = import_module(ANALYSES[given.analysis_command][0])
    try:
        command.run(given, rest)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in ("recbole_symcere", "dataset_prep"):
            raise
        raise AnalysisError(f"{package} is not installed; pip install 'recbole-symcere[analysis]' brings it") from error
