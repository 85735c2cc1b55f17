"""Figures of the anchoring index, and of the words that pull most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from recbole_symcere.analysis.anchoring.index import Estimate
from recbole_symcere.analysis.figures import COLOURS, figure, save
from recbole_symcere.analysis.words import GROUPS

TOP = 15  # words of a model
PANEL = 3.0  # inches
COLUMNS = 4
COLOUR_OF = dict(zip(GROUPS, COLOURS, strict=False))


def draw_index(names: Sequence[str], indices: Sequence[Estimate], folder: Path) -> None:
    """``anchoring-index``: a point and its interval for each model that has an index; 0 is no anchoring."""
    shown = [(name, index) for name, index in zip(names, indices, strict=True) if np.isfinite(index.value)]
    with figure(2 * PANEL, 0.8 + 0.3 * len(names)) as (drawn, (axes,)):
        axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
        for place, (_, index) in enumerate(shown):
            axes.plot([index.low, index.high], [place, place], color=COLOURS[0])
            axes.plot(index.value, place, "o", color=COLOURS[0])
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel("anchoring index")  # long names leave little room
        save(drawn, folder, "anchoring-index")


def draw_words(models: Mapping[str, pd.DataFrame], folder: Path, name: str) -> None:
    """``name``: the words of each model with the greatest mean attribution, with intervals, coloured by their group.

    Args:
        models: by label, the words as :attr:`Found.words` holds them.
    """
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    with figure(PANEL * columns, 1.2 * PANEL * rows + 0.4, columns, rows) as (drawn, panels):
        for axes in panels[len(models) :]:
            axes.set_axis_off()
        for axes, (label, words) in zip(panels, models.items(), strict=False):
            shown = words.sort_values("mean", ascending=False, kind="stable")[:TOP]
            places = np.arange(len(shown))
            axes.barh(places, shown["mean"], color=list(map(COLOUR_OF.get, shown["group"])))
            axes.hlines(places, shown["low"], shown["high"], color="black", linewidth=0.8)
            axes.set_yticks(places, shown["word"])
            axes.set(title=label, xlabel="mean pull")
            axes.invert_yaxis()
        handles = [Patch(color=colour, label=group) for group, colour in COLOUR_OF.items()]
        drawn.legend(handles=handles, loc="outside lower center", ncols=len(GROUPS) if columns > 1 else 2)
        save(drawn, folder, name)
