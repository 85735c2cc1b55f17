"""Tables as people read them: the texts of their cells, in Markdown, LaTeX or, by the report's template, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MINUS = "−"  # as wide as a plus
NOT_DEFINED = "n/a"
MARKDOWN = str.maketrans({"|": r"\|", "*": r"\*"})
LATEX = str.maketrans(
    {character: "\\" + character for character in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "|": "$|$"}
)
MARKDOWN_MARKS = {"best": "**{}**", "second": "<u>{}</u>"}
LATEX_MARKS = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: the number by which the report sorts the cell; None sorts it by its text.
        detail: the text after the value, in smaller type.
        change: the text in brackets at the end: by how much the value differs from another.
        kind: what marks the cell: ``best`` or ``second`` of a column, ``ahead`` or ``behind``, or nothing.
    """

    text: str
    value: float | None = None
    detail: str = ""
    change: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; ``ours`` marks a model that is not a baseline."""

    head: str
    cells: Sequence[Cell]
    ours: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        heads: the column heads; the first stands over the heads of the rows.
        foot: rows that stay in their place when the other rows are sorted.
        groups: the head over each column but the first, which can be an empty text; several columns can share one.
            Empty for no such heads.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()
    groups: Sequence[str] = ()

    @property
    def words(self) -> list[bool]:
        """Whether each column after the first holds words, which begin at the left, and no number."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
        return [all(cell.value is None for cell in column) for column in columns]

    @property
    def heads_with_groups(self) -> list[str]:
        """The column heads; where there are several groups, each head after the first begins with its group."""
        first, *heads = self.heads
        if len(set(self.groups)) > 1:
            heads = [f"{group}: {head}" if group else head for group, head in zip(self.groups, heads, strict=True)]
        return [first, *heads]

    def to_markdown(self) -> str:
        """Returns the table in GitHub's Markdown, without the caption."""
        heads = [head.translate(MARKDOWN) for head in self.heads_with_groups]
        frame = pd.DataFrame(self._texts(MARKDOWN, MARKDOWN_MARKS), columns=pd.Index(heads))
        alignment = ["left", *("left" if words else "right" for words in self.words)]
        return str(frame.to_markdown(index=False, disable_numparse=True, colalign=alignment))

    def to_latex(self) -> str:
        r"""Returns the table as a LaTeX ``tabular``, which needs only booktabs, without the caption."""
        texts = self._texts(LATEX, LATEX_MARKS)
        if self.foot:
            below = texts[len(self.rows)]
            below[0] = "\\midrule\n" + below[0]
        first, *heads = (head.translate(LATEX) for head in self.heads)
        columns: Any = pd.Index([first, *heads])
        if self.groups:
            groups = [group.translate(LATEX) for group in self.groups]
            starts = [n for n, group in enumerate(groups, start=2) if n == 2 or groups[n - 3] != group]
            ends = [*(start - 1 for start in starts[1:]), len(self.heads)]
            rules = "".join(rf"\cmidrule(lr){{{start}-{end}}}" for start, end in zip(starts, ends, strict=True))
            columns = pd.MultiIndex.from_tuples([("", f"{rules}\n{first}"), *zip(groups, heads, strict=True)])
        style = pd.DataFrame(texts, columns=columns).style.hide(axis="index")
        text: str = style.to_latex(hrules=True, column_format="l" + "r" * len(heads), multicol_align="c")
        return text

    def _texts(self, escape: Mapping[int, str], marks: Mapping[str, str]) -> list[list[str]]:
        """The rows and the foot as text for Markdown or LaTeX, each with its head, with the keyboard's minus."""
        found = []
        for row in (*self.rows, *self.foot):
            texts = [row.head.translate(escape)]
            for cell in row.cells:
                text = f"{cell.text} {cell.detail}".strip().replace(MINUS, "-").translate(escape)
                change = f" ({cell.change.replace(MINUS, '-').translate(escape)})" if cell.change else ""
                texts.append(marks.get(cell.kind, "{}").format(text) + change)
            found.append(texts)
        return found


def as_markdown(columns: Mapping[str, Any]) -> str:
    """Returns equally long columns of plain values as a table in Markdown."""
    lines = zip(*columns.values(), strict=True)
    rows = [Row(str(first), [Cell(str(value)) for value in rest]) for first, *rest in lines]
    return Grid("", list(columns), rows).to_markdown()


def minus(text: str) -> str:
    """Returns a number with a minus that is as wide as a plus."""
    return text.replace("-", MINUS)


def number_cell(value: float | None, form: str = ".4g", detail: str = "") -> Cell:
    """Returns the cell of a number in a format; None is a number that is not defined."""
    return Cell(NOT_DEFINED) if value is None else Cell(minus(format(value, form)), value, detail)


def scores_cell(mean: float, sd: float | None, change: str = "", kind: str = "") -> Cell:
    """Returns the cell of a mean over seeds with its standard deviation, and by how much it differs from another."""
    return Cell(f"{mean:.4f}", mean, "" if sd is None else f"± {sd:.4f}", minus(change), kind)
