"""Runs the commands of this project: parses their arguments, reports their errors and returns their exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from dataset_prep.errors import UserError

MISTAKE = 2  # the exit status after an error that the user can mend; argparse uses it, too
INTERRUPTED = 130  # the exit status that shells report for SIGINT


class Command(Protocol):
    """What a module must have to be a command.

    Attributes:
        HELP: says what the command does.
        EXAMPLES: example calls of the command; ``%(prog)s`` stands for its name.
    """

    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command to a parser."""
        ...

    def run(self, given: argparse.Namespace, rest: Sequence[str]) -> int | None:
        """Runs the command and prints its results.

        Args:
            given: the parsed options.
            rest: the arguments that the parser does not know, such as settings in the form ``--key=value``.

        Returns:
            The exit status; None means 0.

        Raises:
            UserError: something went wrong that the user can mend.
        """
        ...


class LazyParser(argparse.ArgumentParser):
    """The parser of a command whose module is imported only when its arguments are parsed.

    Args:
        module: the name of the module, which must be a :class:`Command`; None if the options are added as usual.
        options: arguments of ``argparse.ArgumentParser``.
    """

    def __init__(self, module: str | None = None, **options: Any) -> None:
        style: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**style | options)
        self._module = module

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses arguments. The first call imports the module of the command and adds its options before."""
        if self._module is not None:
            command: Any = import_module(self._module)
            self._module, self.description, self.epilog = None, command.HELP, command.EXAMPLES
            command.add_arguments(self)
        return super().parse_known_args(args, namespace)


def at_least(lowest: int) -> Callable[[str], int]:
    """Returns what parses a whole number for argparse, and refuses one that is below the lowest."""

    def parse(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}")
        return number

    return parse


def add_commands(
    parser: argparse.ArgumentParser, dest: str, metavar: str, commands: Mapping[str, tuple[str, str]]
) -> None:
    """Adds sub-commands to a parser.

    Args:
        parser: the parser of the main command.
        dest: the attribute of the parsed arguments that holds the name of the given command.
        metavar: the word that stands for a command in the help.
        commands: for the name of each command, its module and one line that describes it in the help.
    """
    added = parser.add_subparsers(dest=dest, required=True, metavar=metavar, parser_class=LazyParser)
    for command, (module, about) in commands.items():
        added.add_parser(command, help=about, module=module)


def run_command(command: Command, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Parses the arguments of a command and runs it.

    Args:
        command: the module of the command.
        arguments: the arguments of the command line; None takes them from ``sys.argv``.
        prog: the name of the command in the help; None takes it from ``sys.argv``.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, or 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=command.HELP,
        epilog=command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return run_parsed(command, *parser.parse_known_args(arguments))


def run_parsed(command: Command, given: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs a command whose arguments are parsed already.

    Returns:
        The exit status, as :func:`run_command` returns it.
    """
    try:
        return command.run(given, rest) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
