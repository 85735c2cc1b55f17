"""The figures of ``geometry``, drawn from arrays: Figure 1's maps, Figure 4, and how cosines are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgba_array
from matplotlib.ticker import LogFormatter, MaxNLocator

from recbole_symcere.analysis.figures import COLOURS, figure, plain, save

PERPLEXITY = 30.0
GREY = "#c8c8c8"
MODALITIES = ("graph", "review")
LETTERS_OF_ITEM = 24  # of an item's token, in a legend
DOT = 1.5  # square points


def draw_cosines(edges: np.ndarray, densities: Mapping[str, np.ndarray], folder: Path) -> None:
    """``figure-cosines``: densities [n] by label over bins with the ``edges`` [n + 1]."""
    with figure(5, 3) as (drawn, (axes,)):
        lines = [axes.stairs(density, edges) for density in densities.values()]
        axes.set(xlabel="cosine of user and item", ylabel="density")
        axes.legend(lines, list(map(plain, densities)))
        save(drawn, folder, "figure-cosines")


def draw_variances(variances: Mapping[str, Mapping[str, np.ndarray]], folder: Path) -> None:
    """``figure-4``: how variances are distributed over the dimensions, and each of them, from the highest down.

    Args:
        variances: [d] by set of vectors (two of them) and label.
    """
    with figure(7, 5, columns=2, rows=2) as (drawn, axes):
        for (histogram, curve), (name, by_label) in zip((axes[:2], axes[2:]), variances.items(), strict=True):
            bins = np.histogram_bin_edges(np.concatenate(list(by_label.values())), 24)
            lines = [histogram.stairs(np.histogram(variance, bins)[0], bins) for variance in by_label.values()]
            for variance in by_label.values():
                curve.plot(np.arange(1, len(variance) + 1), np.sort(variance)[::-1])
            histogram.set(xlabel=f"variance of a dimension, {name}", ylabel="dimensions")
            histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
            curve.set(xlabel="dimension, by its variance", ylabel=f"variance, {name}")
            curve.set_ylim(bottom=0)
            curve.legend(lines, list(map(plain, by_label)), loc="lower left")
        save(drawn, folder, "figure-4")


def draw_maps(
    moments: Mapping[str, Sequence[np.ndarray]],
    items: np.ndarray,
    popularity: np.ndarray,
    tokens: np.ndarray,
    seed: int,
    folder: Path,
    name: str,
) -> None:
    """Figure 1: a map for each of two moments, three times over: coloured by modality, popularity and item.

    Coloured by item are those most frequent among the interactions. No dataset here has classes of items; how graph
    and review vectors that share an item lie can be seen without any.

    Args:
        moments: vectors of the same n interactions, [n, d] for each modality, by moment.
        items: [n] of the interactions.
        popularity, tokens: [n_items].
        seed: of the map, and of which dot lies over which.
    """
    n_modalities = len(next(iter(moments.values())))
    dots = np.tile(items, n_modalities)
    order = np.random.default_rng(seed).permutation(len(dots))
    modality = np.repeat(np.arange(n_modalities), len(items))
    frequent, item_class = _most_frequent(dots, len(COLOURS))
    counts = np.maximum(popularity[dots], 1)  # a held-out item may have none, and the scale is logarithmic
    norm = LogNorm(counts.min(), max(counts.max(), counts.min() + 1))
    with figure(7, 5, columns=3, rows=2) as (drawn, axes):
        for panels, (moment, modalities) in zip((axes[:3], axes[3:]), moments.items(), strict=True):
            places = project(np.concatenate(modalities), seed)
            _scatter_classes(panels[0], places, modality, order)
            _dots(panels[1], places[order], c=counts[order], norm=norm)
            _scatter_classes(panels[2], places, item_class, order)
            for axis in panels:
                axis.set(xticks=[], yticks=[], xlabel="t-SNE 1")
            panels[0].set_ylabel(f"{moment}\nt-SNE 2")
        for axis, title in zip(axes[:3], ("modality", "popularity of the item", "item"), strict=True):
            axis.set_title(title)
        _legend(axes[3], MODALITIES[:n_modalities], ncols=2)
        bar = axes[4].inset_axes((0.0, -0.24, 1.0, 0.05))
        drawn.colorbar(ScalarMappable(norm), bar, orientation="horizontal", label="training interactions")
        bar.xaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        _legend(axes[5], [_short(token) for token in tokens[frequent]], ncols=1)
        save(drawn, folder, name)


def project(vectors: np.ndarray, seed: int) -> np.ndarray:
    """A t-SNE map [n, 2] of vectors [n, d], n >= 7: the same for the same seed."""
    from openTSNE import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, neighbors="exact", random_state=seed, n_jobs=1).fit(vectors))


def _most_frequent(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``n`` most frequent values, ties by value, and the place of each value among them, -1 if it is none."""
    kinds, counts = np.unique(values, return_counts=True)
    frequent = kinds[np.argsort(-counts, kind="stable")[:n]]
    place = (values[:, None] == frequent).argmax(1)
    return frequent, np.where(frequent[place] == values, place, -1)


def _scatter_classes(axis: Axes, places: np.ndarray, classes: np.ndarray, order: np.ndarray) -> None:
    """Dots by class, those of none (-1) grey and below."""
    order = order[np.argsort(classes[order] >= 0, kind="stable")]
    _dots(axis, places[order], c=to_rgba_array([*COLOURS, GREY])[classes[order]])


def _legend(axis: Axes, names: Sequence[str], ncols: int) -> None:
    """Below the panel, of classes 0, 1, ..."""
    handles = [axis.scatter([], [], s=16, color=colour) for colour in COLOURS[: len(names)]]
    labels = list(map(plain, names))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": ncols}
    axis.legend(handles, labels, fontsize="small", labelspacing=0.2, handletextpad=0.1, **place)


def _dots(axis: Axes, places: np.ndarray, **colours: Any) -> None:
    """As pixels with hard edges: thousands of dots as paths weigh megabytes, and soft edges do not compress."""
    axis.scatter(places[:, 0], places[:, 1], s=DOT, linewidths=0, rasterized=True, antialiased=False, **colours)


def _short(token: str) -> str:
    return token if len(token) <= LETTERS_OF_ITEM else token[: LETTERS_OF_ITEM - 1] + "…"
