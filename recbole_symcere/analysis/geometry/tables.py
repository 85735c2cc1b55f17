"""The table of ``geometry``, made of the records in ``geometry.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_symcere.analysis.tables import Cell, Grid, Row, number_cell


def geometry_grid(checkpoints: Sequence[Mapping[str, Any]]) -> Grid:
    """Returns settings and measures as rows, checkpoints as columns."""
    values = [each["settings"] | each["values"] for each in checkpoints]
    rows = [Row(name, [_cell(of[name]) for of in values]) for name in values[0]]
    return Grid("Geometry of each checkpoint", ["measure", *(each["label"] for each in checkpoints)], rows)


def _cell(value: Any) -> Cell:
    """A setting or a measure."""
    if value is None or isinstance(value, float):
        return number_cell(value)
    return Cell(str(value), value if type(value) is int else None)
