"""A source of reviews of your own: the posts of a shop's forum, as JSON lines.

Put this file into the folder ``dataset_prep/sources/``. The command finds it there: ``symcere prep forum --help``.
"""

import argparse

from dataset_prep.formats import JsonLines
from dataset_prep.source import Kind, Layout, Source

ABOUT = """\
Posts of the shop's forum, one JSON object on each line (plain, .gz or .zst).
Terms: only for people who work at the shop."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", choices=("body", "title"), default="body", help="what counts as the review")


def _source(options: argparse.Namespace) -> Source:
    layout = Layout(
        user="author",
        item="product",
        text=options.text,
        time="posted",
        rating="stars",
        time_formats=("%d.%m.%Y %H:%M", "%d.%m.%Y"),
    )
    return Source(name="forum", layouts=(layout,), format=JsonLines())


KIND = Kind(
    name="forum",
    about=ABOUT,
    example="--input posts.jsonl --output dataset/forum",
    source=_source,
    add_options=_add_options,
)
