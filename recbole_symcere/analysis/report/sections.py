"""The page of a report: what a comparison's runs and the other analyses say, as tables and figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_symcere import __version__
from recbole_symcere.analysis import compared
from recbole_symcere.analysis.report import plots
from recbole_symcere.analysis.report.analyses import anchoring, evidence, geometry
from recbole_symcere.analysis.report.page import Figures, Plot, rendered
from recbole_symcere.analysis.report.settings import settings_grid, versions_grid
from recbole_symcere.comparison.rendering import grid_of, p_text, table_notes
from recbole_symcere.comparison.results import Results
from recbole_symcere.comparison.tables import Contrast, Run, Table, against_each_baseline
from recbole_symcere.comparison.validation import validation_sheet
from recbole_symcere.grid import Cell, Grid, Row, minus, number_cell, scores_cell
from recbole_symcere.metrics import PRIMARY, label_of, metric_of

PANELS = 4  # side by side
EPOCHS_SHOWN = 15  # in the table below a plot of curves
SECTIONS = 5  # that the progress bar counts
ANALYSES = {"geometry": geometry, "anchoring": anchoring, "evidence": evidence}


@dataclass(frozen=True)
class Card:
    """One dataset in ten seconds; ``kind`` is the verdict, which colours the card."""

    dataset: str
    figure: str
    verdict: str
    kind: str
    lines: Sequence[str]


def render(results: Results, analysis: Path | None, figures: Figures) -> str:
    """Returns the page as HTML.

    Args:
        analysis: the folder of what ``geometry``, ``anchoring`` and ``evidence`` wrote; None if there is none.
    """
    content: dict[str, Any] = {"results": results, "version": __version__, "primary": label_of(PRIMARY)}
    sections = _sections(results, analysis, figures)
    for section in tqdm(sections, total=SECTIONS, desc="report", delay=3, unit="section"):
        content |= section
    return rendered(content)


def _sections(results: Results, analysis: Path | None, figures: Figures) -> Iterator[dict[str, Any]]:
    """Yields the parts of the page by the names that the template has for them."""
    yield {name: shown(analysis, figures) for name, shown in ANALYSES.items()}
    tables, ours = results.tables(), results.ours
    summary, accuracy, popularity = tables["summary"], tables["accuracy"], replace(tables["popularity"], seconds={})
    only_popularity = [(popularity, metric) for metric in popularity.metrics if metric not in accuracy.metrics]
    contrasts = [
        (dataset, metric, table.contrasts[dataset, metric], table.p_holm[dataset, metric])
        for dataset in results.datasets
        for table, metric in [*((accuracy, metric) for metric in accuracy.metrics), *only_popularity]
        if (dataset, metric) in table.contrasts
    ]
    on_each = f"{label_of(PRIMARY)} on each dataset"
    yield {
        "cards": [card(dataset, summary) for dataset in results.datasets],
        "tally": tally(contrasts),
        "losses": losses(contrasts),
        "summary": grid_of(summary, on_each, ours) if len(results.datasets) > 1 else None,
    }
    done = results.of(results.models)
    further = {name: tables[name] for name in FURTHER if name in tables}
    yield {
        "accuracy": grids(accuracy, "Accuracy on {}", ours),
        "accuracy_notes": table_notes(accuracy),
        "accuracy_plots": [*accuracy_plots(summary, ours, figures), *compared_plots(done, summary, ours, figures)],
        "further": [(grids(table, FURTHER[name], ours), table_notes(table)) for name, table in further.items()],
        "validation": validation_sheet(done),
        "popularity": grids(popularity, "Popularity and coverage on {}", ours),
        "popularity_notes": table_notes(popularity),
        "popularity_plots": popularity_plots(popularity, summary, ours, figures),
    }
    yield {"curves": curve_plots(results, figures), "without_curves": without_curves(results)}
    yield {
        "ablations": [
            grid
            for model in results.ablations
            for grid in grids(tables[f"ablation-{model}"], model + " and its ablations on {}", [model])
        ],
        "settings": [settings_grid(results, dataset) for dataset in results.datasets],
        "versions": versions_grid(results),
    }


# The tables that a comparison has only for some protocols or models, with their captions.
FURTHER = {"history": "Accuracy by the history of users on {}", "probes": "Accuracy of probes on {}"}


def grids(table: Table, caption: str, ours: Sequence[str]) -> list[Grid]:
    """Returns a grid for each dataset, which stands in the ``caption``."""
    return [grid_of(replace(table, datasets=(name,)), caption.format(name), ours) for name in table.datasets]


# At a glance

Compared = tuple[str, str, Contrast, float]  # a dataset, a metric, their contrast and its corrected p-value


def card(dataset: str, table: Table) -> Card:
    """Returns what the table of the first metric says of a dataset."""
    cells = table.columns[dataset, PRIMARY]
    ranked = sorted(cells, key=lambda model: -cells[model].mean)
    best, *others = (f"{model} ({cells[model].mean:.4f})" for model in ranked)
    line = f"Best of {len(ranked)} models: {best}" + (f", then {others[0]}." if others else ".")
    contrast = table.contrasts.get((dataset, PRIMARY))
    if contrast is None:
        return Card(dataset, ranked[0], "leads, not tested", "", [line])
    p, users = table.p_holm[dataset, PRIMARY], contrast.users
    kind = contrast.verdict(p)
    words = f"ours is {kind}" if kind else "no significant difference"
    ours, baseline = (f"{model} {cells[model].mean:.4f}" for model in (contrast.model, contrast.baseline))
    difference, low, high = (minus(f"{value:+.4f}") for value in (users.difference, users.low, users.high))
    lines = [f"{ours}, the best baseline {baseline}.", f"Difference {difference}, 95% interval {low} to {high}.", line]
    return Card(dataset, percent(contrast), f"{words}, p {'= ' * (p >= 1e-4)}{p_text(p)}", kind, lines)


def tally(compared: Sequence[Compared]) -> str:
    """Returns how many of the comparisons ours wins and loses."""
    if not compared:
        return "Nothing is tested: that takes a model of ours and a baseline."
    kinds = [contrast.verdict(p) for *_, contrast, p in compared]
    ahead, behind = (sum(sign * of.users.difference > 0 for *_, of, _ in compared) for sign in (1, -1))
    return (
        f"Against the best baseline of each dataset and metric, {len(compared)} in all, ours is ahead in {ahead} "
        f"({kinds.count('ahead')} significantly) and behind in {behind} ({kinds.count('behind')} significantly)."
    )


def losses(compared: Sequence[Compared]) -> Grid | None:
    """Returns every comparison in which ours is behind, significantly or not, the worst first."""
    rows = []
    for dataset, metric, of, p in sorted(compared, key=lambda each: each[2].improvement):
        if of.users.difference < 0:
            difference = Cell(percent(of), of.improvement, kind=of.verdict(p))
            cells = [Cell(of.model), Cell(of.baseline), difference, Cell(p_text(p), p)]
            rows.append(Row(f"{dataset}, {label_of(metric)}", cells))
    heads = ["dataset and metric", "ours", "best baseline", "difference", "p (Holm)"]
    return Grid("Where ours is behind", heads, rows) if rows else None


def percent(contrast: Contrast) -> str:
    return "–" if math.isnan(contrast.improvement) else minus(f"{contrast.improvement:+.1f}%")


# Plots


def accuracy_plots(table: Table, ours: Sequence[str], figures: Figures) -> list[Plot]:
    """Draws the first metric, a panel for each dataset."""
    name, title = label_of(PRIMARY), f"{label_of(PRIMARY)} of each model"
    panels = [plots.Panel(dataset, name, _spreads(table, dataset, PRIMARY)) for dataset in table.datasets]
    groups = [panels[first : first + PANELS] for first in range(0, len(panels), PANELS)]
    return [_dots(group, group[0].values, ours, figures, "accuracy", title, _seeds_said(table)) for group in groups]


def compared_plots(done: Sequence[Run], summary: Table, ours: Sequence[str], figures: Figures) -> list[Plot]:
    """Draws our best model against each baseline, and the mean ranks over the datasets if there are several."""
    found = []
    if differences := against_each_baseline(done, ours):
        data = compared.differences_grid(differences)
        with compared.draw_differences(differences) as drawn:
            title, caption = compared.DIFFERENCES_TITLE, compared.DIFFERENCES_CAPTION
            found.append(figures.add(drawn, "differences", title, caption, data))
    if ranks := compared.ranks_of(summary):
        data = compared.ranks_grid(ranks, ours)
        with compared.draw_ranks(ranks, compared.critical_difference_of(done), ours) as drawn:
            found.append(figures.add(drawn, "ranks", compared.RANKS_TITLE, compared.RANKS_CAPTION, data))
    return found


def popularity_plots(table: Table, summary: Table, ours: Sequence[str], figures: Figures) -> list[list[Plot]]:
    """Draws for each dataset what the records of metrics ask for, such as the NDCG of head, middle and tail items."""
    charts = [(metric, chart) for metric in table.metrics if (chart := metric_of(metric).chart)]
    said = f"{_seeds_said(table)} Models are in the order of {label_of(PRIMARY)}."
    found = []
    for dataset in table.datasets:
        order, plotted = _spreads(summary, dataset, PRIMARY), []
        for figure, title in dict.fromkeys((chart.figure, chart.title) for _, chart in charts):
            panels = [
                plots.Panel(label_of(metric), chart.axis, _spreads(table, dataset, metric))
                for metric, chart in charts
                if chart.figure == figure
            ]
            plotted.append(_dots(panels, order, ours, figures, f"{figure}-{dataset}", title.format(dataset), said))
        found.append(plotted)
    return found


def _spreads(table: Table, dataset: str, metric: str) -> dict[str, plots.Spread]:
    return {model: (cell.mean, cell.sd) for model, cell in table.columns[dataset, metric].items()}


def _seeds_said(table: Table) -> str:
    n = len(table.seeds)
    return f"Dots are means over {n} seeds, bars one standard deviation to both sides." if n > 1 else "One seed."


def _dots(
    panels: Sequence[plots.Panel],
    order: Mapping[str, plots.Spread],
    ours: Sequence[str],
    figures: Figures,
    name: str,
    title: str,
    caption: str,
) -> Plot:
    """Draws the models from the highest mean in ``order`` down."""
    models = sorted(order, key=lambda model: -order[model][0])
    rows = [Row(model, [scores_cell(*panel.values[model]) for panel in panels], model in ours) for model in models]
    data = Grid(title, ["model", *(panel.title for panel in panels)], rows)
    with plots.dots(panels, models, ours) as drawn:
        return figures.add(drawn, name, title, caption, data)


def curve_plots(results: Results, figures: Figures) -> list[tuple[bool, Plot]]:
    """Draws each model on each dataset that trained for two epochs or more, and says whether the model is ours."""
    caption = (
        "Terms of the loss as they are summed, means over an epoch's batches. One line for each seed; the dot is the "
        "epoch that was kept."
    )
    found = []
    for dataset in results.datasets:
        for model in sorted(results.models, key=lambda model: model not in results.ours):
            records = [saved.record for saved in results.runs[dataset, model]]
            seeds = [record.get("curves", []) for record in records]
            if max(map(len, seeds)) > 1:
                score = f"validation {records[0]['settings']['valid_metric']}"
                title = f"Learning curves of {model} on {dataset}"
                with plots.curves(seeds, [record["best_epoch"] for record in records], score) as drawn:
                    data = _curves_grid(title, seeds, score)
                    plot = figures.add(drawn, f"curves-{dataset}-{model}", title, caption, data)
                found.append((model in results.ours, plot))
    return found


def _curves_grid(title: str, seeds: Sequence[Sequence[Mapping[str, float]]], score: str) -> Grid:
    """Means over the seeds that came so far, of some of the epochs."""
    terms = plots.terms_of(seeds)
    rows = []
    for number in plots.thinned(range(max(map(len, seeds))), EPOCHS_SHOWN):
        there = [epochs[number] for epochs in seeds if number < len(epochs)]
        values = [[epoch[term] for epoch in there if term in epoch] for term in terms]
        means = [number_cell(statistics.fmean(of) if of else None) for of in values]
        rows.append(Row(str(number + 1), [Cell(str(len(there)), len(there)), *means]))
    names = [score if term == "valid_score" else plots.name_of(term) for term in terms]
    return Grid(f"{title}: means over seeds", ["epoch", "seeds", *names], rows)


def without_curves(results: Results) -> list[str]:
    """Returns why some models have no plot of curves."""
    notes = []
    for dataset in results.datasets:
        why: dict[str, list[str]] = {}
        for model in results.models:
            curves = [saved.record.get("curves") for saved in results.runs[dataset, model]]
            if max(len(of or ()) for of in curves) <= 1:
                reason = "ran in a version that kept none" if None in curves else "trained for one epoch or none"
                why.setdefault(reason, []).append(model)
        notes += [f"No curves on {dataset}: {', '.join(models)} {reason}." for reason, models in why.items()]
    return notes
