"""Figures of a comparison: our model against each baseline on each dataset, and the mean ranks over the datasets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recbole_symcere.analysis.figures import COLOURS, figure, plain, save
from recbole_symcere.analysis.report.plots import OTHERS, OURS
from recbole_symcere.comparison.statistics import critical_difference, mean_ranks
from recbole_symcere.comparison.tables import Contrast, Run, Table, against_each_baseline, make_table
from recbole_symcere.grid import Cell, Grid, Row, minus, number_cell
from recbole_symcere.metrics import PRIMARY, label_of

BEHIND = COLOURS[1]
PANELS = 3  # side by side
DIFFERENCES_TITLE = f"Differences in {label_of(PRIMARY)} from each baseline"
DIFFERENCES_CAPTION = (
    "Our model that was best on validation minus each baseline; bars are 95% bootstrap intervals over users, not "
    "corrected for their number."
)
RANKS_TITLE = f"Mean ranks of the models by {label_of(PRIMARY)} over the datasets"
RANKS_CAPTION = (
    "Rank 1 is best. Bars join models whose mean ranks differ by less than the critical difference (CD) of Nemenyi's "
    "test at the level 0.05 (Demšar, 2006)."
)


def write_figures(folder: Path, runs: Sequence[Run], ours: Collection[str]) -> None:
    """Writes ``differences`` and ``ranks`` as SVG, PNG and PDF, each if there is something to show.

    Args:
        runs: the complete runs of all models that are no probes.
    """
    if differences := against_each_baseline(runs, ours):
        with draw_differences(differences) as drawn:
            save(drawn, folder, "differences")
    if ranks := ranks_of(make_table(runs, (PRIMARY,), ())):
        with draw_ranks(ranks, critical_difference_of(runs), ours) as drawn:
            save(drawn, folder, "ranks")


def ranks_of(table: Table) -> dict[str, float]:
    """Returns the mean rank of each model over the datasets, the best first; none for one dataset or one model."""
    if len(table.datasets) < 2 or len(table.models) < 2:
        return {}
    means = [[table.columns[dataset, PRIMARY][model].mean for model in table.models] for dataset in table.datasets]
    ranks = dict(zip(table.models, mean_ranks(np.array(means)).tolist(), strict=True))
    return dict(sorted(ranks.items(), key=lambda of: of[1]))


def critical_difference_of(runs: Sequence[Run]) -> float:
    """Returns the critical difference of the mean ranks of the models of some runs over their datasets."""
    return critical_difference(len({run.model for run in runs}), len({run.dataset for run in runs}))


def differences_grid(differences: Mapping[str, Sequence[Contrast]]) -> Grid:
    """Returns the numbers of the figure of differences."""
    rows = []
    for dataset, contrasts in differences.items():
        for of in contrasts:
            interval = minus(f"[{of.users.low:+.4f}, {of.users.high:+.4f}]")
            difference = number_cell(of.users.difference, "+.4f")
            rows.append(Row(dataset, [Cell(of.model), Cell(of.baseline), difference, Cell(interval)]))
    return Grid(DIFFERENCES_TITLE, ["dataset", "ours", "baseline", "difference", "95% interval"], rows)


def ranks_grid(ranks: Mapping[str, float], ours: Collection[str]) -> Grid:
    """Returns the numbers of the figure of ranks."""
    rows = [Row(model, [number_cell(rank, ".2f")], model in ours) for model, rank in ranks.items()]
    return Grid(RANKS_TITLE, ["model", "mean rank"], rows)


@contextmanager
def draw_differences(differences: Mapping[str, Sequence[Contrast]]) -> Iterator[Figure]:
    """Draws a panel for each dataset, with a dot and an interval for each baseline.

    Args:
        differences: for each dataset, one of our models compared with each baseline.
    """
    columns = min(PANELS, len(differences))
    rows = math.ceil(len(differences) / columns)
    n_baselines = max(map(len, differences.values()))
    with figure(1.1 + 2.1 * columns, rows * (0.9 + 0.22 * n_baselines), columns, rows) as (drawn, axes):
        for axis, (dataset, contrasts) in zip(axes, differences.items(), strict=False):
            _draw_panel(axis, f"{contrasts[0].model} on {dataset}", contrasts)
        for axis in axes[len(differences) :]:
            axis.remove()
        yield drawn


def _draw_panel(axis: Axes, title: str, contrasts: Sequence[Contrast]) -> None:
    places = range(len(contrasts), 0, -1)
    axis.axvline(0, color=OTHERS, linewidth=0.8, zorder=1)
    for place, of in zip(places, contrasts, strict=True):
        colour = OURS if of.users.low > 0 else BEHIND if of.users.high < 0 else OTHERS
        axis.plot([of.users.low, of.users.high], [place, place], color=colour, linewidth=1.4)
        axis.plot(of.users.difference, place, "o", color=colour, markersize=4.5)
    axis.set(title=plain(title), xlabel=f"difference in {label_of(PRIMARY)}", ylim=(0.4, len(contrasts) + 0.6))
    axis.set_yticks(places, [plain(of.baseline) for of in contrasts])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(4))


@contextmanager
def draw_ranks(ranks: Mapping[str, float], critical: float, ours: Collection[str]) -> Iterator[Figure]:
    """Draws the diagram of Demšar (JMLR 7, 2006), figure 1: models on a line of ranks, and bars over groups.

    Args:
        ranks: the mean rank of each model, the best first.
        critical: the critical difference.
    """
    bars = groups(list(ranks.values()), critical)
    n_left = math.ceil(len(ranks) / 2)
    first_row = -0.6 - 0.35 * len(bars)
    bottom = first_row - 0.5 * n_left
    with figure(5.5, 0.9 + 0.35 * (1 - bottom)) as (drawn, (axis,)):
        axis.axis("off")
        ends = (1, len(ranks))
        axis.set(xlim=(ends[0] - 1.5, ends[1] + 1.5), ylim=(bottom, 1.6))
        axis.plot(ends, (0, 0), color="black", linewidth=1)
        for tick in range(1, len(ranks) + 1):
            axis.plot((tick, tick), (0, 0.12), color="black", linewidth=1)
            axis.text(tick, 0.2, str(tick), ha="center", va="bottom")
        axis.plot((1, 1 + critical), (1.05, 1.05), color="black", linewidth=1.4, marker="|", clip_on=False)
        axis.text(1 + critical / 2, 1.12, f"CD = {critical:.2f}", ha="center", va="bottom")
        for number, (model, rank) in enumerate(ranks.items()):
            at_left = number < n_left
            height = first_row - 0.5 * (number if at_left else len(ranks) - 1 - number)
            end, side = (ends[0] - 0.2, "right") if at_left else (ends[1] + 0.2, "left")
            colour = OURS if model in ours else "black"
            axis.plot((rank, rank, end), (0, height, height), color=colour, linewidth=0.8)
            weight = "bold" if model in ours else "normal"
            axis.text(end, height, f" {plain(model)} ", ha=side, va="center", color=colour, fontweight=weight)
        for bar, (low, high) in enumerate(bars):
            level = -0.25 - 0.35 * bar
            axis.plot((low - 0.05, high + 0.05), (level, level), color=OTHERS, linewidth=3, solid_capstyle="round")
        yield drawn


def groups(ranks: Sequence[float], critical: float) -> list[tuple[float, float]]:
    """Returns the first and the last rank of each largest group whose mean ranks differ by less than ``critical``.

    Args:
        ranks: in ascending order.
    """
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = max(place for place in range(start, len(ranks)) if ranks[place] - ranks[start] < critical)
        if end > start and not (found and found[-1][1] >= end):
            found.append((start, end))
    return [(ranks[start], ranks[end]) for start, end in found]
