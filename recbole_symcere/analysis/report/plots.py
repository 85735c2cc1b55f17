"""The report's own plots, and SVG figures as parts of a page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recbole_symcere.analysis.figures import COLOURS, figure, plain

OURS, OTHERS, GUIDE = COLOURS[0], "#767d86", "#9aa0a680"  # greys that show on white and on black
POINTS = 150  # of a curve: more than a panel has pixels for
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
DROPPED = {f"{{{SVG}}}{name}" for name in ("metadata", "script", "foreignObject", "title")}
THEMED = {"#000000": "currentColor", "#ffffff": "var(--paper)", OURS: "var(--accent)"}
Spread = tuple[float, float | None]  # mean and standard deviation


@dataclass(frozen=True)
class Panel:
    """One panel of a plot: a dot for each model, with a bar of one standard deviation to both sides."""

    title: str
    axis: str
    values: Mapping[str, Spread]


@contextmanager
def dots(panels: Sequence[Panel], models: Sequence[str], ours: Sequence[str]) -> Iterator[Figure]:
    """Draws panels side by side, with the models from top to bottom and our models in their own colour."""
    places = range(len(models), 0, -1)
    height = 0.9 + 0.2 * len(models)
    with figure(1.1 + 1.9 * len(panels), height, columns=len(panels)) as (drawn, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for place, model in zip(places, models, strict=True):
                mean, sd = panel.values[model]
                colour = OURS if model in ours else OTHERS
                axis.plot([0, mean], [place, place], color=GUIDE, linewidth=0.8, zorder=1)
                axis.errorbar(mean, place, xerr=sd, fmt="o", color=colour, markersize=4.5, elinewidth=1.4)
            axis.set(title=panel.title, xlabel=panel.axis, yticks=places, ylim=(0.4, len(models) + 0.6))
            axis.set_xlim(left=min(0.0, *(mean for mean, _ in panel.values.values())))
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
            axis.set_yticklabels([plain(model) for model in models] if axis is axes[0] else [])
        for label, model in zip(axes[0].get_yticklabels(), models, strict=True):
            if model in ours:
                label.set(color=OURS, fontweight="bold")
        yield drawn


@contextmanager
def curves(seeds: Sequence[Sequence[Mapping[str, float]]], best: Sequence[int], score: str) -> Iterator[Figure]:
    """Draws a panel for each term of the loss and one for the validation score, with a line for each seed.

    Args:
        seeds: of each seed its epochs, the values of each by the names of the terms, ``valid_score`` among them where
            the epoch was validated.
        best: the epoch that each seed kept, from 0; marked on the score.
        score: the name of the validation score.
    """
    terms = terms_of(seeds)
    columns = 2 if len(terms) in (2, 4) else min(3, len(terms))
    rows = math.ceil(len(terms) / columns)
    with figure(0.3 + 2.2 * columns, 1.8 * rows, columns=columns, rows=rows) as (drawn, axes):
        for axis, term in zip(axes, terms, strict=False):
            for epochs, kept in zip(seeds, best, strict=True):
                _curve(axis, epochs, term, kept if term == "valid_score" else None)
            axis.set(xlabel="epoch", ylabel=plain(score if term == "valid_score" else name_of(term)))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(5))
        for axis in axes[len(terms) :]:
            axis.remove()
        yield drawn


def _curve(axis: Axes, epochs: Sequence[Mapping[str, float]], term: str, kept: int | None) -> None:
    known = [number for number, values in enumerate(epochs) if term in values]
    shown = thinned(known, POINTS)
    line = [number + 1 for number in shown], [epochs[number][term] for number in shown]
    axis.plot(*line, color=OURS, linewidth=1, alpha=0.6, marker="." if len(shown) == 1 else None)
    if kept in known:
        axis.plot(kept + 1, epochs[kept][term], "o", color=OURS, markersize=3.5)


def terms_of(seeds: Sequence[Sequence[Mapping[str, float]]]) -> list[str]:
    """Returns the names of the terms of the loss in their order, then that of the validation score."""
    names = dict.fromkeys(name for epochs in seeds for values in epochs for name in values)
    return sorted(names, key=lambda name: name == "valid_score")


def name_of(term: str) -> str:
    """Returns the name of a term of the loss in words."""
    words = {"bpr": "BPR", "l2": "L2"}.get(term, term.replace("_", " "))
    return words if "loss" in words else f"{words} loss"


def thinned(values: Sequence[int], n: int) -> list[int]:
    """Returns at most ``n`` of the values at even distances, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(n, len(values))).round().astype(int)
    return [values[place] for place in places]


def to_svg(drawn: Figure, name: str) -> str:
    """Returns a figure as SVG; the same figure and name give the same text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def inlined(svg: str, name: str, label: str) -> str:
    """Returns the text of an SVG file as an element of an HTML page.

    It takes the page's colours for black, white and ``OURS`` (the last but not beside pixels, which keep theirs),
    scales with the page, has ids of its own, and runs and loads nothing.

    Args:
        name: that no other figure of the page has; ids begin with it.
        label: what screen readers say of it.

    Raises:
        ElementTree.ParseError: it is not XML.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in DROPPED]:
            parent.remove(child)
    pixels = root.find(f".//{{{SVG}}}image") is not None
    colours = {colour: own for colour, own in THEMED.items() if not (pixels and colour == OURS)}
    for element in root.iter():
        element.attrib = {
            key.removeprefix(f"{{{XLINK}}}"): _attribute(key, value, name, colours)
            for key, value in element.attrib.items()
            if not _loads_or_runs(key, value)
        }
    width = float(re.sub(r"[^\d.]", "", root.get("width", "")) or 0)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "fill": "currentColor", "style": f"--width: {width:g}"}
    return ElementTree.tostring(root, encoding="unicode")


def _loads_or_runs(key: str, value: str) -> bool:
    return key.startswith("on") or (key.endswith("href") and not value.startswith(("#", "data:image/")))


def _attribute(key: str, value: str, name: str, colours: Mapping[str, str]) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "d":
        return re.sub(r"-?\d+\.\d+", _two_decimals, value)
    if key in ("style", "fill", "stroke"):
        value = re.sub(r"#[0-9a-f]{6}\b", lambda found: colours.get(found[0], found[0]), value)
    return re.sub(r"url\(#", f"url(#{name}-", value)


def _two_decimals(number: re.Match[str]) -> str:
    """A path's number, a fortieth of a millimetre exact."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
