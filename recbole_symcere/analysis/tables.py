"""Tables that analyses print as Markdown and the report shows as HTML, and how numbers stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import polars as pl

MINUS = "−"  # as wide as a plus


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        value: the number by which the cell is sorted; None sorts it by its text.
        detail: stands after the text, in smaller type.
        kind: ``best``, ``second``, ``ahead`` or ``behind``, for the looks.
    """

    text: str
    value: float | None = None
    detail: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    head: str
    cells: Sequence[Cell]
    ours: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        heads: of the columns; the first stands over the heads of the rows.
        foot: rows that stay in their place when the other rows are sorted.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()

    @property
    def words(self) -> list[bool]:
        """Whether each column after the first holds words, which begin at the left, and no number."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
        return [all(cell.value is None for cell in column) for column in columns]

    def texts(self) -> list[list[str]]:
        """Returns the rows as plain text, each with its head; the minus is the one of the keyboard."""
        details = [[row.head, *(f"{cell.text} {cell.detail}".strip() for cell in row.cells)] for row in self.rows]
        return [[text.replace(MINUS, "-") for text in row] for row in details]

    def to_markdown(self) -> str:
        """Returns the rows as a Markdown table, without the caption and the foot."""
        heads, *rows = [[text.replace("|", "&#124;") for text in row] for row in (self.heads, *self.texts())]
        alignment = ["left", *("left" if words else "right" for words in self.words)]
        frame = pd.DataFrame(rows, columns=pd.Index(heads))
        return frame.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def as_table(columns: Mapping[str, Any]) -> str:
    """Returns a Markdown table of equally long columns."""
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=-1,
        fmt_str_lengths=1_000_000,
    ):
        return str(pl.DataFrame(columns))


def minus(text: str) -> str:
    """Returns numbers with a minus that is as wide as a plus."""
    return text.replace("-", MINUS)


def number_cell(value: float | None, form: str = ".4g", detail: str = "") -> Cell:
    """Returns a number in a format; None is a number that is not defined."""
    return Cell("n/a") if value is None else Cell(minus(format(value, form)), value, detail)


def scores_cell(mean: float, sd: float | None, change: str = "", kind: str = "") -> Cell:
    """Returns a mean over seeds with its standard deviation, and by how much it changes another."""
    details = ["" if sd is None else f"± {sd:.4f}", minus(change)]
    return Cell(f"{mean:.4f}", mean, " ".join(filter(None, details)), kind)
