"""``python -m dataset_prep SOURCE --input FILE... --output dataset/NAME``; ``symcere-prep`` once installed."""

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

from dataset_prep import amazon, demo, rakuten_travel, table, yelp
from dataset_prep.conversion import ENGINES, MEMORY, prepare
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import DUPLICATES, MISSING_TEXT, Filters
from dataset_prep.source import SECONDS, Source

ABOUT = {
    "amazon": amazon.SOURCE.about,
    "yelp": yelp.SOURCE.about,
    "rakuten-travel": rakuten_travel.ABOUT,
    "table": table.ABOUT,
    "demo": demo.ABOUT,
}
FAILED = 1
INTERRUPTED = 130  # what shells report for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0, 1 after an error (printed), 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    print(ABOUT[options.source], file=sys.stderr)
    on_terminate = signal.signal(signal.SIGTERM, _interrupt)  # so that the temporary folder goes
    try:
        statistics = _run(options)
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: nothing was changed", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, on_terminate)
    print(
        f"{options.output}: {statistics['users']:,} users, {statistics['items']:,} items, "
        f"{statistics['reviews']:,} reviews ({statistics['density']:.2%} of all pairs)"
    )
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.source == "demo":
        return demo.write_demo(options.output, options.seed)
    return prepare(
        _source(options),
        options.input,
        options.output,
        filters=Filters(
            user_core=options.user_core,
            item_core=options.item_core,
            duplicates=options.duplicates,
            missing_text=options.missing_text,
            min_words=options.min_words,
            start=options.start,
            end=options.end,
            max_users=options.max_users,
            seed=options.seed,
        ),
        skip_broken=options.on_error == "skip",
        memory=options.memory,
        engine=options.engine,
        spark_master=options.spark_master,
    )


def _source(options: argparse.Namespace) -> Source:
    if options.source == "amazon":
        return amazon.SOURCE
    if options.source == "yelp":
        return yelp.SOURCE
    columns = {name: getattr(options, name) for name in ("user", "item", "text", "time", "rating", "encoding")}
    if options.source == "rakuten-travel":
        return rakuten_travel.source(**columns)
    return table.source(**columns, time_format=options.time_format)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="symcere-prep",
        description="Raw review dumps to RecBole's atomic files, with the review texts beside them.",
    )
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, about in ABOUT.items():
        command = sources.add_parser(
            name,
            help=about.split("\n", 1)[0].rstrip(":,"),
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--output",
            type=Path,
            required=True,
            metavar="dataset/NAME",
            help="folder of the dataset to make or replace",
        )
        if name == "demo":
            command.add_argument("--seed", type=int, default=demo.SEED, help="of the generator (default: %(default)s)")
            continue
        command.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="raw files, in order")
        if name == "table":
            _add_columns(command, dict.fromkeys(("user", "item", "text", "time")))
            command.add_argument(
                "--time-format",
                default=SECONDS,
                help="seconds or milliseconds since 1970, or a strptime format; UTC without a zone (default: seconds)",
            )
        if name == "rakuten-travel":
            from_manual = {"user": rakuten_travel.USER, "item": rakuten_travel.ITEM, "text": rakuten_travel.TEXT}
            _add_columns(command, from_manual | {"time": rakuten_travel.TIME, "rating": rakuten_travel.RATING})
        _add_filters(command)
    return parser


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
    keep.add_argument("--user-core", type=int, default=default.user_core, metavar="N", help="rows a user must keep (5)")
    keep.add_argument(
        "--item-core", type=int, default=default.item_core, metavar="N", help="rows an item must keep (5)"
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
    keep.add_argument("--min-words", type=int, default=default.min_words, metavar="N", help="between white space (0)")
    keep.add_argument("--from", dest="start", type=_day, metavar="YYYY-MM-DD", help="first day, UTC")
    keep.add_argument("--to", dest="end", type=_day, metavar="YYYY-MM-DD", help="last day, UTC, included")
    keep.add_argument("--max-users", type=int, metavar="N", help="draw N users, whole; their k-core remains")
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
        help="duckdb on this machine, or spark for what none holds: the same files (default: %(default)s)",
    )
    run.add_argument(
        "--spark-master", metavar="URL", help="such as local[2] or spark://HOST:7077 (default: Spark's own settings)"
    )


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2014-07-22") from None
