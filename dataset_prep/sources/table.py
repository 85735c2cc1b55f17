"""A table of reviews of the user's own: CSV, TSV, JSON lines or Parquet. The user names its columns."""

import argparse

from dataset_prep.source import SECONDS, Kind, Layout, Source

ABOUT = """\
Your own reviews, from a .csv, .tsv, .jsonl or .parquet file.
Each row is one review. A .csv or .tsv file needs a first line with the names of its columns. Text files may be packed
(.gz or .zst). Times are seconds since 1970 unless --time-format says otherwise. A rating that is empty, null, none,
nan, na or n/a counts as missing.
Terms: those under which you got the reviews. Reviews hold people's words and names: store them only where you may."""


def source(
    user: str,
    item: str,
    text: str,
    time: str,
    rating: str | None = None,
    time_format: str = SECONDS,
    encoding: str | None = None,
) -> Source:
    """Returns the source for a table whose columns have the given names.

    Args:
        user, item, text, time, rating: the names of columns; None for ``rating`` leaves every rating empty.
        time_format: ``seconds`` or ``milliseconds`` since 1970, or a strptime format such as ``%d %B %Y``.
        encoding: the encoding of text files; None is UTF-8.
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
        help="seconds or milliseconds since 1970, or a strptime format; UTC if it has no zone (default: %(default)s)",
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
