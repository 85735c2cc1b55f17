"""The command ``symcere`` and its older doors; each command is a module of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dataset_prep.command import parser_of, run_command, run_parsed

COMMANDS = {
    "train": "recbole_symcere.commands.train",
    "prep": "dataset_prep.cli",
    "compare": "recbole_symcere.comparison.command",
    "analyse": "recbole_symcere.analysis.cli",
    "recommend": "recbole_symcere.commands.recommend",
}
HELP = "Review-enhanced recommendation with SymCERE and its baselines, on RecBole."
EXAMPLES = """examples:
  %(prog)s prep amazon --input Musical_Instruments.jsonl.gz --output dataset/instruments
  %(prog)s train --model=SymCERE --dataset=instruments --checkpoint_file=saved/instruments.pth
  %(prog)s recommend --checkpoint saved/instruments.pth --users A1B2C3
  %(prog)s compare --models LightGCN SymCERE --datasets instruments
  %(prog)s analyse geometry --checkpoint saved/instruments.pth

`%(prog)s COMMAND --help` says more. All commands end with the status 0, or 2 after an error that you can mend.
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
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {name: import_module(module) for name, module in COMMANDS.items()}
    for name, command in commands.items():
        command.add_arguments(added.add_parser(name, help=command.HELP, **parser_of(command)))
    given, rest = parser.parse_known_args(arguments)
    return run_parsed(commands[given.command], given, rest)


def train(arguments: Sequence[str] | None = None) -> int:
    """Runs ``symcere train`` under its older names, ``run_recbole_symcere.py`` and ``recbole-symcere``."""
    return run_command(import_module(COMMANDS["train"]), arguments)


if __name__ == "__main__":
    sys.exit(main())
