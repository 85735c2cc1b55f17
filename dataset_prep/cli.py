"""``symcere prep SOURCE --input FILE... --output dataset/NAME``; ``python -m dataset_prep`` is the same command."""

from __future__ import annotations

import argparse
import datetime
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dataset_prep import demo
from dataset_prep.command import run_command
from dataset_prep.conversion import ENGINES, MEMORY, prepare
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import DUPLICATES, MISSING_TEXT, Filters
from dataset_prep.sources import kinds

HELP = "Convert raw review dumps to RecBole's atomic files, with the review texts beside them."
EXAMPLES = """examples:
  %(prog)s amazon --input Musical_Instruments.jsonl.gz --output dataset/instruments --user-core 5 --item-core 5
  %(prog)s yelp --input yelp_dataset.tar --output dataset/yelp
  %(prog)s demo --output dataset/demo

`%(prog)s SOURCE --help` says where the raw files come from and under which terms.
"""
DEMO = "demo"  # generated, where all other sources are read


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command under its older names.

    Returns:
        The exit status: 0, 2 after an error that the user can mend, or 130 after an interrupt.
    """
    return run_command(sys.modules[__name__], arguments, prog="symcere-prep")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prepares a dataset, and prints its terms beforehand and its size afterwards.

    Raises:
        PreparationError: as for ``prepare``; or an argument is unknown.
    """
    if rest:
        raise PreparationError(f"unknown argument {rest[0]}; `symcere prep {given.source} --help` lists all")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    print(_about(given.source), file=sys.stderr)
    on_terminate = signal.signal(signal.SIGTERM, _interrupt)  # so that the temporary folder is removed
    try:
        statistics = _prepare(given)
    finally:
        signal.signal(signal.SIGTERM, on_terminate)
    print(
        f"{given.output}: {statistics['users']:,} users, {statistics['items']:,} items, "
        f"{statistics['reviews']:,} reviews ({statistics['density']:.2%} of all pairs)"
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _about(source: str) -> str:
    return demo.ABOUT if source == DEMO else kinds()[source].about


def _prepare(given: argparse.Namespace) -> dict[str, Any]:
    if given.source == DEMO:
        return demo.write_demo(given.output, given.seed)
    return prepare(
        kinds()[given.source].source(given),
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
    """Adds a sub-command for each source."""
    sources = parser.add_subparsers(
        dest="source", metavar="SOURCE", required=True, parser_class=argparse.ArgumentParser
    )
    for kind in kinds().values():
        command = _add_source(sources, kind.name, kind.about, kind.example)
        command.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="raw files, in order")
        if kind.columns:
            _add_columns(command, kind.columns)
        kind.add_options(command)
        _add_filters(command)
    command = _add_source(sources, DEMO, demo.ABOUT, "--output dataset/demo")
    command.add_argument("--seed", type=int, default=demo.SEED, help="of the generator (default: %(default)s)")


def _add_source(sources: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = sources.add_parser(
        name,
        help=about.split("\n", 1)[0].rstrip(":,"),
        description=about,
        epilog=f"example:\n  %(prog)s {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, required=True, metavar="dataset/NAME", help="folder of the dataset to make or replace"
    )
    return command


def _add_columns(command: argparse.ArgumentParser, defaults: Mapping[str, str | None]) -> None:
    columns = command.add_argument_group("columns")
    for name in ("user", "item", "text", "time", "rating"):
        default = defaults.get(name)
        columns.add_argument(
            f"--{name}",
            metavar="COLUMN",
            default=default,
            required=name in defaults and default is None,
            help="default: %(default)s" if default else "left empty if not given" if name == "rating" else None,
        )
    columns.add_argument("--encoding", help="of text files (default: utf-8)")


def _add_filters(command: argparse.ArgumentParser) -> None:
    default = Filters()
    keep = command.add_argument_group("what to keep")
    keep.add_argument("--user-core", type=int, default=default.user_core, metavar="N", help="fewest rows of a user (5)")
    keep.add_argument(
        "--item-core", type=int, default=default.item_core, metavar="N", help="fewest rows of an item (5)"
    )
    keep.add_argument(
        "--duplicates",
        choices=DUPLICATES,
        default=default.duplicates,
        help="which row of a repeated (user, item) pair, by time (default: %(default)s)",
    )
    keep.add_argument(
        "--missing-text",
        choices=MISSING_TEXT,
        default=default.missing_text,
        help="blank reviews (default: %(default)s)",
    )
    keep.add_argument(
        "--min-words",
        type=int,
        default=default.min_words,
        metavar="N",
        help="fewest words of a review (0)",
    )
    keep.add_argument("--from", dest="start", type=_day, metavar="YYYY-MM-DD", help="first day, UTC")
    keep.add_argument("--to", dest="end", type=_day, metavar="YYYY-MM-DD", help="last day, UTC, included")
    keep.add_argument("--max-users", type=int, metavar="N", help="draw N users with all their rows, then the k-core")
    keep.add_argument("--seed", type=int, default=default.seed, help="of --max-users (default: %(default)s)")
    run = command.add_argument_group("how to run")
    run.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at broken rows: stop at the first, or skip and count",
    )
    run.add_argument(
        "--memory", default=MEMORY, metavar="SIZE", help="limit; beyond it, disk is used (default: %(default)s)"
    )
    run.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="duckdb on this machine, or spark on several; both write the same files (default: %(default)s)",
    )
    run.add_argument(
        "--spark-master", metavar="URL", help="such as local[2] or spark://HOST:7077 (default: Spark's own settings)"
    )


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day; write it as 2014-07-22") from None
