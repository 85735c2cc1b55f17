"""The tables of ``anchoring``, made of the records in ``anchoring.json``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_symcere.grid import Cell, Grid, Row, minus, number_cell

TEXT_WIDTH = 300  # characters of a review that a table with --show-text holds
Record = Mapping[str, Any]


def index_grid(models: Sequence[Record], names: Sequence[str], part: str) -> Grid:
    """Returns the anchoring index of each model.

    Args:
        models: records of models.
        names: what the table calls each model.
        part: whose reviews were looked into.
    """
    rows = []
    for model, name in zip(models, names, strict=True):
        indices = [_estimate_cell(model[key], 2) for key in ("index", "less_first")]
        means = [_estimate_cell(model["groups"][group]["mean"], 4) for group in ("objective", "sentiment")]
        rows.append(
            Row(name, [number_cell(model["reviews"], ",d"), number_cell(model["cosine"], ".3f"), *indices, *means])
        )
    heads = ["model", f"{part} reviews", "mean cosine", "anchoring index", "less the first's"]
    heads += ["objective words' pull", "sentiment words' pull"]
    return Grid("Anchoring index, and the mean pull of objective and of sentiment words", heads, rows)


def group_grid(model: Record, name: str) -> Grid:
    """Returns what each group of words does in one model."""
    rows = []
    for group, found in model["groups"].items():
        shares = [number_cell(found[share], ".1%") for share in ("share_of_words", "share_of_mass")]
        cells = [Cell(", ".join(found["examples"])), Cell(found["contribution"]), _estimate_cell(found["mean"], 4)]
        rows.append(Row(group, [*cells, *shares]))
    heads = ["keyword type", "example words", "contribution", "mean pull", "share of words", "share of pull"]
    return Grid(f"Words by type: {name}", heads, rows)


def lime_grid(models: Sequence[Record], names: Sequence[str], quoted: bool = False) -> Grid:
    """Returns the words of single reviews by LIME; reviews are called by their items.

    Args:
        models, names: as for :func:`index_grid`.
        quoted: whether the table also has the ids and the texts of reviews, where the records have them.
    """
    reviews = [(name, *each) for model, name in zip(models, names, strict=True) for each in enumerate(model["lime"], 1)]
    more = [key for key in ("review", "text") if quoted and any(key in review for _, _, review in reviews)]
    rows = []
    for name, number, review in reviews:
        words = [", ".join(map(_weighed, review[side])) for side in ("towards", "away")]
        own = [textwrap.shorten(review[key], TEXT_WIDTH, placeholder="…") for key in more]
        rows.append(Row(name, list(map(Cell, [review_title(number, review), signal(review), *words, *own]))))
    heads = ["model", "review", "signal", "words towards the interaction", "words away from it"]
    return Grid("Words of single reviews (LIME)", [*heads, *({"review": "id"}.get(key, key) for key in more)], rows)


def review_title(number: int, review: Record) -> str:
    return f"review {number}, of item {review['item']}"


def signal(review: Record) -> str:
    return f"{review['signal']}, cosine {minus(format(review['cosine'], '.2f'))}"


def _weighed(word: Record) -> str:
    return f"{word['word']} {minus(format(word['weight'], '+.2f'))} ({word['group']})"


def _estimate_cell(estimate: Mapping[str, float | None], digits: int) -> Cell:
    low, high = (minus(f"{estimate[key]:.{digits}f}") if estimate[key] is not None else "" for key in ("low", "high"))
    return number_cell(estimate["value"], f".{digits}f", f"[{low}, {high}]" if low and high else "")
