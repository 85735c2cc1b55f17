"""The sections of the report: what a comparison's runs and the other analyses say, as tables and figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_symcere import __version__
from recbole_symcere.analysis.report import plots
from recbole_symcere.analysis.report.analyses import anchoring, geometry
from recbole_symcere.analysis.report.page import Figures, Plot, rendered
from recbole_symcere.analysis.report.results import Results
from recbole_symcere.analysis.report.settings import settings_grid, versions_grid
from recbole_symcere.analysis.tables import Cell, Grid, Row, minus, number_cell, scores_cell
from recbole_symcere.comparison.comparison import make_tables as make_comparison_tables
from recbole_symcere.comparison.rendering import CONTRAST_ROWS, change_text, contrast_texts, table_notes
from recbole_symcere.comparison.tables import SIGNIFICANT, Contrast, Table, make_ablation
from recbole_symcere.metrics import PRIMARY, columns, label_of, metric_of

PLACES = {1: "best", 2: "second", None: ""}
PANELS = 4  # side by side
EPOCHS_SHOWN = 15  # in the table below a plot of curves


@dataclass(frozen=True)
class Tables:
    """As the comparison makes them; ``ablations`` by model."""

    summary: Table
    accuracy: Table
    popularity: Table
    ablations: Mapping[str, Table]


@dataclass(frozen=True)
class Card:
    """One dataset in ten seconds; ``kind`` is ``ahead``, ``behind`` or empty."""

    dataset: str
    figure: str
    verdict: str
    kind: str
    lines: Sequence[str]


def render(results: Results, analysis: Path | None, figures: Figures) -> str:
    """The page as HTML."""
    sections = tqdm(total=8, desc="report", delay=3, unit="section")

    def done(section: Any) -> Any:
        sections.update()
        return section

    with sections:
        of_others = {"geometry": done(geometry(analysis, figures)), "anchoring": done(anchoring(analysis, figures))}
        tables = done(make_tables(results))
        content = of_others | {
            "results": results,
            "version": __version__,
            "cards": [card(dataset, tables.summary) for dataset in results.datasets],
            "tally": tally(tables),
            "losses": losses(tables),
            "primary": label_of(PRIMARY),
            "summary": summary_grid(tables.summary, results.ours) if len(results.datasets) > 1 else None,
            "accuracy": grids(tables.accuracy, "Accuracy on {}", results.ours),
            "accuracy_notes": table_notes(tables.accuracy),
            "accuracy_plots": done(accuracy_plots(tables.summary, results.ours, figures)),
            "popularity": grids(tables.popularity, "Popularity and coverage on {}", results.ours),
            "popularity_notes": table_notes(tables.popularity),
            "popularity_plots": done(popularity_plots(tables, results.ours, figures)),
            "curves": done(curve_plots(results, figures)),
            "without_curves": without_curves(results),
            "ablations": [
                grid
                for model, table in tables.ablations.items()
                for grid in grids(table, model + " and its ablations on {}", [model])
            ],
            "settings": done([settings_grid(results, dataset) for dataset in results.datasets]),
            "versions": versions_grid(results),
        }
        return rendered(content)


def make_tables(results: Results) -> Tables:
    """Makes the comparison's own tables: the same numbers, intervals and p-values."""
    runs = results.of(results.models)
    tables = make_comparison_tables(runs, results.ours)
    accuracy = columns("accuracy", runs[0].metrics)
    return Tables(
        tables["summary"],
        tables["accuracy"],
        replace(tables["popularity"], seconds={}),
        {
            model: make_ablation(results.of([model, *rows]), accuracy, model)
            for model, rows in results.ablations.items()
        },
    )


# At a glance


def verdict(contrast: Contrast, p: float) -> str:
    """``ahead``, ``behind``, or nothing where chance may have done it."""
    if p >= SIGNIFICANT:
        return ""
    return "ahead" if contrast.users.difference > 0 else "behind"


def card(dataset: str, table: Table) -> Card:
    """What the summary's table says of a dataset."""
    cells = table.columns[dataset, PRIMARY]
    ranked = sorted(cells, key=lambda model: -cells[model].mean)
    best, *others = (f"{model} ({cells[model].mean:.4f})" for model in ranked)
    line = f"Best of {len(ranked)} models: {best}" + (f", then {others[0]}." if others else ".")
    contrast = table.contrasts.get((dataset, PRIMARY))
    if contrast is None:
        return Card(dataset, ranked[0], "leads, not tested", "", [line])
    p, users = table.p_holm[dataset, PRIMARY], contrast.users
    kind = verdict(contrast, p)
    words = {"ahead": "ours is ahead", "behind": "ours is behind", "": "no significant difference"}[kind]
    means = (cells[model].mean for model in (contrast.model, contrast.baseline))
    ours, baseline = (f"{mean:.4f}" for mean in means)
    return Card(
        dataset,
        percent(contrast.improvement),
        f"{words}, p {p_said(p)}",
        kind,
        [
            f"{contrast.model} {ours}, the best baseline {contrast.baseline} {baseline}.",
            f"Difference {signed(users.difference)}, 95% interval {signed(users.low)} to {signed(users.high)}.",
            line,
        ],
    )


def comparisons(tables: Tables) -> dict[tuple[str, str], tuple[Contrast, float]]:
    """Of accuracy and popularity, with corrected p-values, by dataset and metric."""
    of_each = ((table, key) for table in (tables.popularity, tables.accuracy) for key in table.contrasts)
    return {key: (table.contrasts[key], table.p_holm[key]) for table, key in of_each}


def tally(tables: Tables) -> str:
    """How many comparisons ours wins and loses."""
    found = comparisons(tables)
    if not found:
        return "Nothing is tested: that takes a model of ours and a baseline."
    kinds = [verdict(*each) for each in found.values()]
    ahead, behind = (sum(sign * of.users.difference > 0 for of, _ in found.values()) for sign in (1, -1))
    return (
        f"Against the best baseline of each dataset and metric, {len(found)} in all, ours is ahead in {ahead} "
        f"({kinds.count('ahead')} significantly) and behind in {behind} ({kinds.count('behind')} significantly)."
    )


def losses(tables: Tables) -> Grid | None:
    """Every comparison in which ours is behind, significantly or not."""
    rows = [
        Row(
            f"{dataset}, {label_of(metric)}",
            [
                Cell(contrast.model),
                Cell(contrast.baseline),
                Cell(percent(contrast.improvement), contrast.improvement, kind=verdict(contrast, p)),
                Cell(p_said(p).removeprefix("= "), p),
            ],
        )
        for (dataset, metric), (contrast, p) in sorted(comparisons(tables).items(), key=lambda of: of[1][0].improvement)
        if contrast.users.difference < 0
    ]
    heads = ["dataset and metric", "ours", "best baseline", "difference", "p (Holm)"]
    return Grid("Where ours is behind", heads, rows) if rows else None


# Tables


def grids(table: Table, caption: str, ours: Sequence[str]) -> list[Grid]:
    """A grid for each dataset, which stands in the ``caption``; seconds are a column where the table has them."""
    heads = ["model", *map(label_of, table.metrics), *["seconds"] * bool(table.seconds)]
    found = []
    for dataset in table.datasets:
        rows = []
        for model in table.models:
            cells = [_score_cell(table, dataset, metric, model) for metric in table.metrics]
            if table.seconds:
                seconds = table.seconds[dataset, model]
                cells.append(Cell(f"{seconds:.1f}", seconds))
            rows.append(Row(model, cells, model in ours))
        foot = _foot(table, [(dataset, metric) for metric in table.metrics])
        found.append(Grid(caption.format(dataset), heads, rows, foot))
    return found


def summary_grid(table: Table, ours: Sequence[str]) -> Grid:
    """The first metric on every dataset."""
    rows = [
        Row(model, [_score_cell(table, dataset, PRIMARY, model) for dataset in table.datasets], model in ours)
        for model in table.models
    ]
    foot = _foot(table, [(dataset, PRIMARY) for dataset in table.datasets])
    return Grid(f"{label_of(PRIMARY)} on each dataset", ["model", *table.datasets], rows, foot)


def _score_cell(table: Table, dataset: str, metric: str, model: str) -> Cell:
    cell = table.columns[dataset, metric][model]
    return scores_cell(cell.mean, cell.sd, change_text(table, (dataset, metric, model)), PLACES[cell.place])


def _foot(table: Table, keys: Sequence[tuple[str, str]]) -> list[Row]:
    """The contrasts of the columns; where seconds follow, nothing of them."""
    if not any(key in table.contrasts for key in keys):
        return []
    texts = [*(contrast_texts(table, key) for key in keys), *[("",) * len(CONTRAST_ROWS)] * bool(table.seconds)]
    kinds = [verdict(table.contrasts[key], table.p_holm[key]) if key in table.contrasts else "" for key in keys]
    compared, *numbers = zip(*texts, strict=True)
    rows = [Row(CONTRAST_ROWS[0], [Cell(text) for text in compared])]
    for head, line in zip(CONTRAST_ROWS[1:], numbers, strict=True):
        marks = kinds if head == "improvement" else [""] * len(kinds)
        cells = [Cell(minus(text), kind=kind) for text, kind in zip(line, [*marks, ""], strict=False)]
        rows.append(Row(head, cells))
    return rows


# Plots


def accuracy_plots(table: Table, ours: Sequence[str], figures: Figures) -> list[Plot]:
    """The first metric, a panel for each dataset."""
    name, found = label_of(PRIMARY), []
    for first in range(0, len(table.datasets), PANELS):
        panels = [
            plots.Panel(dataset, name, _spreads(table, dataset, PRIMARY))
            for dataset in table.datasets[first : first + PANELS]
        ]
        order = panels[0].values
        found.append(_dots(panels, order, ours, figures, "accuracy", f"{name} of each model", seeds_said(table)))
    return found


def popularity_plots(tables: Tables, ours: Sequence[str], figures: Figures) -> list[list[Plot]]:
    """For each dataset, the figures that the records of its metrics ask for, such as head, middle and tail items."""
    charts = [(metric, chart) for metric in tables.popularity.metrics if (chart := metric_of(metric).chart)]
    said = f"{seeds_said(tables.popularity)} Models are in the order of {label_of(PRIMARY)}."
    found = []
    for dataset in tables.popularity.datasets:
        order, plotted = _spreads(tables.summary, dataset, PRIMARY), []
        for figure, title in dict.fromkeys((chart.figure, chart.title) for _, chart in charts):
            panels = [
                plots.Panel(label_of(metric), chart.axis, _spreads(tables.popularity, dataset, metric))
                for metric, chart in charts
                if chart.figure == figure
            ]
            plotted.append(_dots(panels, order, ours, figures, f"{figure}-{dataset}", title.format(dataset), said))
        found.append(plotted)
    return found


def _spreads(table: Table, dataset: str, metric: str) -> dict[str, plots.Spread]:
    return {model: (cell.mean, cell.sd) for model, cell in table.columns[dataset, metric].items()}


def seeds_said(table: Table) -> str:
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
    """Models from the highest mean in ``order`` down."""
    models = sorted(order, key=lambda model: -order[model][0])
    rows = [Row(model, [scores_cell(*panel.values[model]) for panel in panels], model in ours) for model in models]
    data = Grid(title, ["model", *(panel.title for panel in panels)], rows)
    with plots.dots(panels, models, ours) as drawn:
        return figures.add(drawn, name, title, caption, data)


def curve_plots(results: Results, figures: Figures) -> list[tuple[bool, Plot]]:
    """Of each model on each dataset that trained for two epochs or more, and whether the model is ours."""
    found = []
    for dataset in results.datasets:
        for model in sorted(results.models, key=lambda model: model not in results.ours):
            runs = results.runs[dataset, model]
            seeds = [saved.record.get("curves", []) for saved in runs]
            if max(map(len, seeds)) > 1:
                score = f"validation {runs[0].record['settings']['valid_metric']}"
                kept = [saved.record["best_epoch"] for saved in runs]
                title = f"Learning curves of {model} on {dataset}"
                with plots.curves(seeds, kept, score) as drawn:
                    caption = (
                        "Terms of the loss as they are summed, means over an epoch's batches. One line for each seed; "
                        "the dot is the epoch that was kept."
                    )
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
    """Why a model has no plot of curves."""
    notes = []
    for dataset in results.datasets:
        lengths = {
            model: [len(saved.record["curves"]) if "curves" in saved.record else None for saved in runs]
            for (of, model), runs in results.runs.items()
            if of == dataset and model in results.models
        }
        unkept = [model for model, of in lengths.items() if None in of and max(n or 0 for n in of) <= 1]
        short = [model for model, of in lengths.items() if None not in of and max(n or 0 for n in of) <= 1]
        if unkept:
            notes.append(f"No curves on {dataset}: {', '.join(unkept)} ran in a version that kept none.")
        if short:
            notes.append(f"No curves on {dataset}: {', '.join(short)} trained for one epoch or none.")
    return notes


def percent(value: float) -> str:
    return "–" if math.isnan(value) else minus(f"{value:+.1f}%")


def p_said(p: float) -> str:
    return f"= {p:.4f}" if p >= 1e-4 else "< 0.0001"


def signed(value: float) -> str:
    return minus(f"{value:+.4f}")
