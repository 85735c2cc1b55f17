"""``python -m recbole_symcere.analysis``: looks into trained models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from recbole_symcere.errors import UserError
from recbole_symcere.properties import parse_assignments

COMMANDS = ("geometry", "anchoring", "neighbours", "explain", "export", "report")

EXAMPLE = """examples:
  %(prog)s geometry --checkpoint saved/demo.pth
  %(prog)s anchoring --checkpoint SymCERE=saved/demo.pth InfoNCE=saved/infonce.pth --output analysis
  %(prog)s neighbours --checkpoint saved/demo.pth --item i7
  %(prog)s report --comparison comparison --analysis analysis

`%(prog)s COMMAND --help` says more. Settings of the run are changed by --key=value, such as --data_path=dataset.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands; returns its exit status: 0, or 2 for settings or files that can't be used."""
    try:
        given, rest = _parser().parse_known_args(arguments)
        print(given.run(given, parse_assignments(rest)))
    except UserError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        return _refuse(
            f"{str(error.name).partition('.')[0]} is not installed; pip install 'recbole-symcere[analysis]' brings it"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_symcere.analysis",
        description="Look into trained models.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"recbole_symcere.analysis.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
