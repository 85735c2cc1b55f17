"""The geometry of trained vectors, checkpoints side by side: Table 4, Figures 1 and 4, and measures beside them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_symcere.analysis.geometry import measures
from recbole_symcere.analysis.geometry.figures import draw_cosines, draw_maps, draw_variances
from recbole_symcere.analysis.shared import LEAST_POINTS, file_name, without_nan, write_json, write_text
from recbole_symcere.analysis.trained import TrainedModel, graph_nodes, load_trained
from recbole_symcere.errors import AnalysisError
from recbole_symcere.grid import Cell, Grid, Row, number_cell
from recbole_symcere.provenance import versions

SEED = 0  # of all samples and of t-SNE

SETTINGS = ("model", "dataset", "seed", "normalize", "contrast", "text_source")  # that a column begins with
NAN = float("nan")
NOTES = """\
Cosines are of all users with all items, whatever their part; users and items whose vector is 0 are left out, as is the
padding. Interactions are of the part {part}. Vectors are compared at unit length, also those of models trained without
normalisation (normalize False). An interaction's own review is the one written for it, also where text_source gave the
training another. Variance by dimension is 1 / d at most in the mean. Alignment is a mean squared distance, lower is
closer; uniformity is more negative the evener the spread (Wang and Isola 2020; of more than {vectors:,} vectors a
sample). Effective rank is Roy and Vetterli's (2007), the modality gap Liang et al.'s (2022). Popularity and activity
count training interactions. n/a: the model reads no reviews, or the value is not defined."""


@dataclass(frozen=True)
class Views:
    """Directions of the same interactions: of the graph [n, d], and of their reviews [n, d], None without reviews."""

    graph: Tensor
    text: Tensor | None


@dataclass(frozen=True)
class Geometry:
    """What was measured of one checkpoint.

    Attributes:
        settings: by the keys ``SETTINGS``.
        values: by the table's rows, the same for every checkpoint; NaN for what is not defined.
        variances: of the directions of ``users`` and ``items`` by dimension, [d] each.
    """

    label: str
    settings: Mapping[str, Any]
    values: Mapping[str, float]
    variances: Mapping[str, np.ndarray]
    cosines: measures.Cosines


def measure_checkpoints(given: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """Writes ``geometry.json``, ``.md``, ``.csv``, ``.tex`` and figures; the same arguments give the same files.

    Args:
        given: the options of the command.
        settings: changes of the runs' settings, such as ``data_path``.

    Returns:
        The table, as Markdown.

    Raises:
        AnalysisError: a part is nearly empty.
        UserError: as for :func:`load_trained`.
    """
    loaded = load_trained(given.checkpoint, given.part, settings)
    for trained in loaded:
        if (n := len(trained.parts[given.part])) < LEAST_POINTS:
            raise AnalysisError(f"{trained.path}: its part {given.part} has {n} interactions; take another --part")
    found = []
    for trained in (bar := tqdm(loaded, unit="checkpoint")):
        bar.set_description(trained.label)
        before, after = views_before(trained, given.part), views_after(trained, given.part)
        found.append(measure(trained, given.part, before, after))
        _draw(trained, {"before training": before, "after training": after}, given)
    return _write(found, given)


def views_after(trained: TrainedModel, part: str) -> Views:
    """Returns a part's interactions as the trained model sees them."""
    return _views(trained, trained.interaction_vectors(part), lambda: trained.review_vectors(part))


@torch.no_grad()
def views_before(trained: TrainedModel, part: str) -> Views:
    """Returns a part's interactions as the model saw them before its first step."""
    model = trained.untrained()
    graph = model.interaction_vectors(graph_nodes(model), *trained.pairs(part))
    return _views(trained, graph, lambda: trained.projected_reviews(model, part))


def _views(trained: TrainedModel, graph: Tensor, reviews: Callable[[], Tensor]) -> Views:
    return Views(measures.directions(graph), measures.directions(reviews()) if trained.reads_reviews else None)


def measure(trained: TrainedModel, part: str, before: Views, after: Views) -> Geometry:
    """Measures all that the table shows of a checkpoint.

    Args:
        before, after: as ``views_before`` and ``views_after`` return them, of ``part``.
    """
    nodes = dict(zip(("users", "items"), trained.nodes, strict=True))
    spread = {name: measures.directions(vectors[1:][vectors[1:].any(1)]) for name, vectors in nodes.items()}
    sets = spread | {"graph vectors of interactions": after.graph, "reviews": after.text}
    cosines = measures.cosines(spread["users"], spread["items"])
    variances = {name: measures.variance_by_dimension(vectors).numpy() for name, vectors in spread.items()}
    values: dict[str, float] = {name: len(vectors) for name, vectors in spread.items()}
    values |= {"interactions": len(after.graph)} | _cosine_values(cosines)
    for name, variance in variances.items():
        values |= {f"variance by dimension, {name}, {of.__name__}": float(of(variance)) for of in (np.mean, min, max)}
    ends = [measures.directions(vectors[of]) for vectors, of in zip(trained.nodes, trained.pairs(part), strict=True)]
    values["alignment, user and item"] = measures.alignment(*ends)
    values["alignment, graph and review"] = NAN if after.text is None else measures.alignment(after.graph, after.text)
    for name, vectors in sets.items():
        values[f"uniformity, {name}"] = NAN if vectors is None else measures.uniformity(vectors, seed=SEED)
    for name, vectors in sets.items():
        values[f"effective rank, {name}"] = NAN if vectors is None else measures.effective_rank(vectors)
    values |= _norm_values(trained) | _across_modalities(before, after)
    settings = {key: trained.config[key] for key in SETTINGS}
    return Geometry(trained.label, settings, values, variances, cosines)


def _cosine_values(found: measures.Cosines) -> dict[str, float]:
    lower, median, upper = found.quartiles
    values = {"mean": found.mean, "standard deviation": found.sd, "min": found.low}
    values |= {"25%": lower, "50%": median, "75%": upper, "max": found.high}
    return {f"cosine of user and item, {name}": value for name, value in values.items()}


def _norm_values(trained: TrainedModel) -> dict[str, float]:
    values: dict[str, float] = {}
    names = ("user norm and activity", "item norm and popularity")
    for name, vectors, numbers in zip(names, trained.nodes, trained.pairs("train"), strict=True):
        counts = np.bincount(numbers.numpy(), minlength=len(vectors))[1:]
        spearman, pearson = measures.correlations(vectors[1:].double().norm(dim=1).numpy(), counts)
        values |= {f"{name}, Spearman": spearman, f"{name}, Pearson": pearson}
    return values


def _across_modalities(before: Views, after: Views) -> dict[str, float]:
    found: dict[str, tuple[float, ...]] = {}
    for when, views in (("before", before), ("after", after)):
        found[when] = (NAN,) * 3
        if (text := views.text) is not None:
            found[when] = (measures.gap(views.graph, text), *measures.own_and_other_cosines(views.graph, text))
    names = ("modality gap", "cosine with the own review", "cosine with other reviews")
    return {f"{name}, {when} training": found[when][place] for place, name in enumerate(names) for when in found}


def geometry_grid(checkpoints: Sequence[Mapping[str, Any]]) -> Grid:
    """Returns settings and measures as rows, checkpoints as columns, from the records in ``geometry.json``."""
    values = [each["settings"] | each["values"] for each in checkpoints]
    rows = [Row(name, [_cell(of[name]) for of in values]) for name in values[0]]
    return Grid("Geometry of each checkpoint", ["measure", *(each["label"] for each in checkpoints)], rows)


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, float):
        return number_cell(value)
    return Cell(str(value), value if type(value) is int else None)


def _draw(trained: TrainedModel, moments: Mapping[str, Views], given: argparse.Namespace) -> None:
    """Draws Figure 1 of a checkpoint, from a sample if the part has more interactions than ``--points``."""
    items = trained.pairs(given.part)[1].numpy()
    rows = np.sort(np.random.default_rng(SEED).permutation(len(items))[: given.points])
    vectors = {
        moment: [side[rows].numpy() for side in (views.graph, views.text) if side is not None]
        for moment, views in moments.items()
    }
    name = f"figure-1-{file_name(trained.label)}"
    draw_maps(vectors, items[rows], trained.popularity, trained.item_tokens(), SEED, given.output, name)


def _write(found: Sequence[Geometry], given: argparse.Namespace) -> str:
    """Writes all files but Figure 1; returns the table."""
    folder: Path = given.output
    edges, heights = measures.densities([each.cosines for each in found])
    draw_cosines(edges, {each.label: density for each, density in zip(found, heights, strict=True)}, folder)
    draw_variances({name: {each.label: each.variances[name] for each in found} for name in ("users", "items")}, folder)
    checkpoints = [
        {
            "label": each.label,
            "settings": each.settings,
            "values": each.values,
            "variance_by_dimension": {name: variance.tolist() for name, variance in each.variances.items()},
            "cosine_density": density.tolist(),
        }
        for each, density in zip(found, heights, strict=True)
    ]
    content = {"command": "geometry", "part": given.part, "points": given.points, "sampling_seed": SEED}
    content |= {"versions": versions(), "cosine_bins": edges.tolist(), "checkpoints": checkpoints}
    grid = geometry_grid(without_nan(checkpoints))
    exact = pd.DataFrame({each.label: {**each.settings, **each.values} for each in found}, dtype=object)
    table = grid.to_markdown() + "\n\n" + NOTES.format(part=given.part, vectors=measures.UNIFORMITY_VECTORS)
    write_json(folder / "geometry.json", content)
    write_text(folder / "geometry.csv", exact.to_csv(index_label="measure", lineterminator="\n"))
    write_text(folder / "geometry.tex", grid.to_latex())
    write_text(folder / "geometry.md", table + "\n")
    return table
