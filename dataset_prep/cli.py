"""The command ``symcere prep``, which is also run by ``symcere-prep`` and by ``python -m dataset_prep``."""

from __future__ import annotations

import argparse
import datetime
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from dataset_prep.command import LazyParser, run_command
from dataset_prep.conversion import ENGINES, MEMORY, ORDER_OF_ROWS, prepare
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import DUPLICATES, MISSING_TEXT, Filters
from dataset_prep.plausibility import year
from dataset_prep.source import Generator, Kind
from dataset_prep.sources import kinds

HELP = "Convert raw review dumps to RecBole's atomic files, with the review texts beside them."
EXAMPLES = """examples:
  %(prog)s amazon --input Musical_Instruments.jsonl.gz --output dataset/instruments --user-core 5 --item-core 5
  %(prog)s yelp --input yelp_dataset.tar --output dataset/yelp
  %(prog)s demo --output dataset/demo

`%(prog)s SOURCE --help` says where the raw files come from and under which terms.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command as ``symcere-prep`` or ``python -m dataset_prep``.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, or 130 after an interrupt.
    """
    return run_command(sys.modules[__name__], arguments, prog="symcere-prep")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prepares a dataset. Prints the origin and the terms of the data before, and the size of the dataset after.

    Raises:
        PreparationError: an argument is unknown, or the dataset can't be prepared.
    """
    if rest:
        raise PreparationError(f"unknown argument {rest[0]}; `symcere prep {given.source} --help` lists all arguments")
    print(kinds()[given.source].about, file=sys.stderr)
    make(given)


def make(given: argparse.Namespace) -> None:
    """Makes a dataset by parsed options, and prints its size.

    Raises:
        PreparationError: the dataset can't be prepared.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    on_terminate = signal.signal(signal.SIGTERM, _interrupt)  # an exception removes the temporary folder
    try:
        statistics = _prepare(given)
    finally:
        signal.signal(signal.SIGTERM, on_terminate)
    print(
        f"{given.output}: {statistics['users']:,} users, {statistics['items']:,} items, "
        f"{statistics['reviews']:,} reviews ({statistics['density']:.2%} of all pairs), {_span(statistics)}"
    )


def _span(statistics: Mapping[str, Any]) -> str:
    if statistics.get("times") == ORDER_OF_ROWS:
        return ORDER_OF_ROWS
    return f"{year(statistics['first_time'])} to {year(statistics['last_time'])}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare(given: argparse.Namespace) -> dict[str, Any]:
    kind = kinds()[given.source]
    if isinstance(kind, Generator):
        return kind.write(given)
    source = kind.source(given)
    return prepare(
        replace(source, encoding=given.encoding) if given.encoding else source,
        given.input,
        given.output,
        filters=Filters(
            user_core=given.user_core,
            item_core=given.item_core,
            duplicates=given.duplicates,
            missing_text=given.missing_text,
            min_words=given.min_words,
            start=given.start,
            end=given.end,
            max_users=given.max_users,
            seed=given.seed,
        ),
        skip_broken=given.on_error == "skip",
        memory=given.memory,
        engine=given.engine,
        spark_master=given.spark_master,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a sub-command for each kind of raw files and each generator."""
    add_sources(parser, required=True)


def add_sources(parser: argparse.ArgumentParser, required: bool) -> Any:
    """Adds a sub-command for each kind of raw files and each generator.

    Args:
        required: whether a call must name one.

    Returns:
        What argparse adds sub-commands to.
    """
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=required, parser_class=LazyParser)
    for kind in kinds().values():
        command: argparse.ArgumentParser = sources.add_parser(
            kind.name,
            help=kind.about.split("\n", 1)[0].rstrip(".:"),
            description=kind.about,
            epilog=f"example:\n  %(prog)s {kind.example}",
        )
        add_options(command, kind)
    return sources


def add_options(command: argparse.ArgumentParser, kind: Kind | Generator) -> None:
    """Adds the options with which a kind of raw files, or a generator, is prepared."""
    command.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="dataset/NAME",
        help="the folder of the dataset to make or to replace",
    )
    if isinstance(kind, Kind):
        command.add_argument(
            "--input",
            type=Path,
            nargs="+",
            required=True,
            metavar="FILE",
            help="the raw files; their order decides the order of rows with the same time",
        )
        command.add_argument("--encoding", help="the encoding of text files (default: utf-8)")
        if kind.columns:
            _add_columns(command, kind.columns)
        _add_filters(command)
    kind.add_options(command)


def _add_columns(command: argparse.ArgumentParser, defaults: Mapping[str, str | None]) -> None:
    columns = command.add_argument_group("columns")
    for name in ("user", "item", "text", "time", "rating"):
        default = defaults.get(name)
        columns.add_argument(
            f"--{name}",
            metavar="COLUMN",
            default=default,
            required=name in defaults and default is None,
            help=_about_column(name, default),
        )


def _about_column(name: str, default: str | None) -> str:
    about = f"the column of the {name}"
    if default:
        return f"{about} (default: %(default)s)"
    without = {"rating": "; without it, every rating is empty", "time": "; needed unless there is --order rows"}
    return about + without.get(name, "")


def _add_filters(command: argparse.ArgumentParser) -> None:
    default = Filters()
    keep = command.add_argument_group("what to keep")
    for of, core in (("user", default.user_core), ("item", default.item_core)):
        keep.add_argument(
            f"--{of}-core",
            type=int,
            default=core,
            metavar="N",
            help=f"the fewest rows that each {of} must have; 0 or 1: no limit (default: %(default)s)",
        )
    keep.add_argument(
        "--duplicates",
        choices=DUPLICATES,
        default=default.duplicates,
        help="which row of a repeated (user, item) pair to keep, by time (default: %(default)s)",
    )
    keep.add_argument(
        "--missing-text",
        choices=MISSING_TEXT,
        default=default.missing_text,
        help="what to do with rows whose review is blank (default: %(default)s)",
    )
    keep.add_argument(
        "--min-words",
        type=int,
        default=default.min_words,
        metavar="N",
        help="the fewest words that a review must have (default: %(default)s)",
    )
    keep.add_argument("--from", dest="start", type=_day, metavar="YYYY-MM-DD", help="the first day to keep, in UTC")
    keep.add_argument("--to", dest="end", type=_day, metavar="YYYY-MM-DD", help="the last day to keep, in UTC")
    keep.add_argument(
        "--max-users",
        type=int,
        metavar="N",
        help="draw N users of the k-core, whole, and take the k-core again",
    )
    keep.add_argument("--seed", type=int, default=default.seed, help="the seed of the draw (default: %(default)s)")
    run = command.add_argument_group("how to run")
    run.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop at the first broken row, or skip broken rows and count them (default: %(default)s)",
    )
    run.add_argument(
        "--memory",
        default=MEMORY,
        metavar="SIZE",
        help="how much memory DuckDB may use; the rest goes to disk (default: %(default)s)",
    )
    run.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="duckdb for this machine, or spark for several; both write the same files (default: %(default)s)",
    )
    run.add_argument(
        "--spark-master",
        metavar="URL",
        help="where Spark runs, such as local[2] or spark://HOST:7077 (default: what Spark's settings say)",
    )


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day; write it as 2014-07-22") from None
