"""How every command of this project is run: one way to parse, to report errors and to end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from dataset_prep.errors import UserError

MISTAKE = 2  # the exit status after an error that the user can mend; argparse ends with it, too
INTERRUPTED = 130  # the exit status that shells report for SIGINT


class Command(Protocol):
    """What a module must have to be a command.

    Attributes:
        HELP: one line that says what the command does.
        EXAMPLES: calls of the command; ``%(prog)s`` stands for its name.
    """

    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command to a parser."""
        ...

    def run(self, given: argparse.Namespace, rest: Sequence[str]) -> int | None:
        """Runs the command and prints its results.

        Args:
            given: the options.
            rest: what the parser does not know, such as settings in the form ``--key=value``.

        Returns:
            The exit status; None is 0.

        Raises:
            UserError: the user can mend what went wrong.
        """
        ...


def parser_of(command: Command, **options: Any) -> dict[str, Any]:
    """Returns the arguments for ``ArgumentParser`` or ``add_parser`` that show a command's help and examples."""
    return {
        "description": command.HELP,
        "epilog": command.EXAMPLES,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
        **options,
    }


def run_command(command: Command, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a command from its arguments.

    Args:
        arguments: those of the command line; None takes them from ``sys.argv``.
        prog: the name that the help calls the command by; None takes it from ``sys.argv``.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, or 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(prog=prog, **parser_of(command))
    command.add_arguments(parser)
    return run_parsed(command, *parser.parse_known_args(arguments))


def run_parsed(command: Command, given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs a command whose arguments are parsed, as :func:`run_command` does."""
    try:
        return command.run(given, rest) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
