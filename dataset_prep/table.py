"""Any table of reviews: CSV, TSV, JSON lines or Parquet, with its columns named by the user."""

from dataset_prep.source import SECONDS, Layout, Source

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
    """The source for a table with these columns.

    Args:
        time_format: ``seconds``, ``milliseconds``, or a strptime format such as ``%d %B %Y``.
    """
    return Source(
        name="table",
        about=ABOUT,
        layouts=(Layout(user=user, item=item, text=text, time=time, rating=rating, time_formats=(time_format,)),),
        encoding=encoding,
    )
