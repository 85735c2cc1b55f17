"""The command ``symcere`` and its older names; each command is a module, which is imported only when it is run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dataset_prep.command import add_commands, run_command, run_parsed

COMMANDS = {
    "train": ("recbole_symcere.commands.train", "train a model and rank the test part"),
    "prep": ("recbole_symcere.commands.prep", "convert raw review dumps to datasets"),
    "compare": ("recbole_symcere.comparison.command", "tune, train and test models, and write their tables"),
    "analyse": ("recbole_symcere.analysis.cli", "look into trained models, and write a report"),
    "recommend": ("recbole_symcere.commands.recommend", "print the best items for users, or for anybody"),
    "search": ("recbole_symcere.commands.search", "print the items that a text describes"),
}
HELP = "Review-enhanced recommendation with SymCERE and its baselines, on RecBole. `%(prog)s COMMAND --help` says more."
EXAMPLES = """examples:
  %(prog)s prep amazon --input Musical_Instruments.jsonl.gz --output dataset/instruments
  %(prog)s train --model=SymCERE --dataset=instruments --checkpoint_file=saved/instruments.pth
  %(prog)s compare --models LightGCN SymCERE --datasets instruments
  %(prog)s recommend --checkpoint saved/instruments.pth --users A1B2C3
  %(prog)s search --checkpoint saved/instruments.pth --text "warm tone for a beginner"
  %(prog)s analyse geometry --checkpoint saved/instruments.pth
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``symcere COMMAND …``.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, or 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(
        prog="symcere",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_commands(parser, "command", "COMMAND", COMMANDS)
    given, rest = parser.parse_known_args(_spaced(sys.argv[1:] if arguments is None else arguments))
    return run_parsed(import_module(COMMANDS[given.command][0]), given, rest)


def _spaced(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with ``prep --dataset NAME`` for ``prep --dataset=NAME``.

    All that follows the name of a dataset belongs to the dataset, which argparse can tell only in the first form.
    """
    if not arguments or arguments[0] != "prep":
        return list(arguments)
    name = "--dataset="
    return [part for one in arguments for part in ([name[:-1], one[len(name) :]] if one.startswith(name) else [one])]


def train(arguments: Sequence[str] | None = None) -> int:
    """Runs ``symcere train`` under its older names, ``run_recbole_symcere.py`` and ``recbole-symcere``."""
    return run_command(import_module(COMMANDS["train"][0]), arguments)


if __name__ == "__main__":
    sys.exit(main())
