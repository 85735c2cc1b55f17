"""Any table of reviews: CSV, TSV, JSON lines or Parquet, with its columns named by the user."""

import argparse

from dataset_prep.source import SECONDS, Kind, Layout, Source

ABOUT = """\
Your own reviews, one a row: .csv, .tsv, .jsonl or .parquet (then .gz or .zst), with a first line of column names where
the format has none of its own. Times are seconds since 1970, or what --time-format says; a rating that is empty or
says null, none, nan, na or n/a counts as missing.
Terms: those under which you got the reviews. They hold people's words and names: keep them where you may."""


def source(
    user: str,
    item: str,
    text: str,
    time: str,
    rating: str | None = None,
    time_format: str = SECONDS,
    encoding: str | None = None,
) -> Source:
    """Returns the source for a table with these columns.

    Args:
        user, item, text, time, rating: names of columns; None for ``rating`` leaves every rating empty.
        time_format: ``seconds``, ``milliseconds``, or a strptime format such as ``%d %B %Y``.
        encoding: of text files; None is UTF-8.
    """
    return Source(
        name="table",
        layouts=(Layout(user=user, item=item, text=text, time=time, rating=rating, time_formats=(time_format,)),),
        encoding=encoding,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-format",
        default=SECONDS,
        help="seconds or milliseconds since 1970, or a strptime format; UTC without a zone (default: seconds)",
    )


def _from_options(options: argparse.Namespace) -> Source:
    columns = (options.user, options.item, options.text, options.time, options.rating)
    return source(*columns, options.time_format, options.encoding)


KIND = Kind(
    name="table",
    about=ABOUT,
    example="--input reviews.csv --user who --item what --text said --time at --output dataset/mine",
    source=_from_options,
    columns=dict.fromkeys(("user", "item", "text", "time")),
    add_options=_add_options,
)
