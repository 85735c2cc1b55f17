"""A table of reviews of the user's own: CSV, TSV, JSON lines or Parquet. The user names its columns."""

import argparse

from dataset_prep.errors import PreparationError
from dataset_prep.source import QUOTES, SECONDS, UNITS, Kind, Layout, Source

ABOUT = """\
Your own reviews, from a .csv, .tsv, .jsonl or .parquet file.
Each row is one review. A .csv or .tsv file needs a first line with the names of its columns. Text files may be packed
(.gz, .zst or .zip). Times are seconds since 1970 unless --time-format says otherwise. A rating that is empty, null,
none, nan, na or n/a counts as missing. So does a user, an item or a text that is empty or, in .csv and .tsv, one of the
words that pandas takes for missing values, such as NA, NaN or None.
Terms: those under which you got the reviews. Reviews hold people's words and names: store them only where you may."""

OPTIONS = frozenset({"--delimiter", "--quotes", "--rating", "--time-format"})


def source(
    user: str,
    item: str,
    text: str,
    time: str | None,
    rating: str | None = None,
    time_format: str = SECONDS,
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: str = QUOTES[0],
) -> Source:
    """Returns the source for a table whose columns have the given names.

    Args:
        user, item, text, time, rating: the names of columns; None for ``rating`` leaves every rating empty, and None
            for ``time`` takes the order of the rows for the order of time.
        time_format: ``seconds``, ``milliseconds``, ``microseconds`` or ``nanoseconds`` since 1970, or a strptime
            format such as ``%d %B %Y``.
        encoding: the encoding of text files; None is UTF-8.
        delimiter: the character between two columns; None takes a comma for .csv and a tab for .tsv.
        quotes: ``double`` for quotes around fields, doubled inside them; ``none`` for quotes that are plain
            characters; ``auto`` for ``double``, unless more rows fit with ``none``.
    """
    return Source(
        name="table",
        layouts=(Layout(user=user, item=item, text=text, time=time, rating=rating, time_formats=(time_format,)),),
        encoding=encoding,
        delimiter=delimiter,
        quotes=quotes,
        options=OPTIONS,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-format",
        default=SECONDS,
        help=f"{', '.join(UNITS)} since 1970, or a strptime format; UTC if it has no zone (default: %(default)s)",
    )
    parser.add_argument(
        "--order",
        choices=("time", "rows"),
        default="time",
        help="rows takes the order of the rows for the order of time, where no column has it (default: %(default)s)",
    )
    parser.add_argument(
        "--delimiter",
        type=lambda given: {"tab": "\t", "\\t": "\t"}.get(given, given),
        metavar="CHARACTER",
        help="the character between two columns, or the word tab (default: a comma in .csv and a tab in .tsv)",
    )
    parser.add_argument(
        "--quotes",
        choices=QUOTES,
        default=QUOTES[0],
        help="what quotes mean in .csv and .tsv: double is around fields, and doubled inside them; none is plain "
        "characters; auto is double, unless more rows fit with none (default: %(default)s)",
    )


def _from_options(options: argparse.Namespace) -> Source:
    if options.time is None and options.order == "time":
        raise PreparationError(
            "no column of times: models are tested on the last reviews of each user, so name the column with --time, "
            "or take the order of the rows in the files with --order rows"
        )
    if options.time is not None and options.order == "rows":
        raise PreparationError("--order rows takes no times; leave --time out")
    columns = (options.user, options.item, options.text, options.time, options.rating)
    return source(*columns, options.time_format, options.encoding, options.delimiter, options.quotes)


KIND = Kind(
    name="table",
    about=ABOUT,
    example="--input reviews.csv --user who --item what --text said --time at --output dataset/mine",
    source=_from_options,
    columns=dict.fromkeys(("user", "item", "text")),
    add_options=_add_options,
)
