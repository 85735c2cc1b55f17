"""Turns the tables of a comparison into text: Markdown for GitHub, LaTeX for papers, CSV for programs."""

import math
from collections.abc import Mapping

import pandas as pd
import polars as pl

from recbole_symcere.comparison.tables import SIGNIFICANT, Contrast, Table
from recbole_symcere.metrics import GroupNDCG, label_of, metric_of

CONTRAST_ROWS = ("compared", "improvement", "95% interval of the difference", "p (Holm)")
CSV_COLUMNS = ["dataset", "model", "metric", "mean", "sd", "n_seeds", "n_users", "seconds"]
CSV_COLUMNS += ["baseline", "difference", "low", "high", "improvement_percent", "p", "p_holm"]
MARKDOWN = str.maketrans({"|": r"\|", "*": r"\*"})
LATEX = str.maketrans(
    {character: "\\" + character for character in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "|": "$|$"}
)


def to_csv(table: Table) -> str:
    """Returns the table as CSV in full precision, with a row for each dataset, metric and model.

    The row of a model also has its contrast or change, if there is one.
    """
    rows = []
    for (dataset, metric), cells in table.columns.items():
        of_column = table.contrasts.get((dataset, metric))
        for model, cell in cells.items():
            row = [dataset, model, metric, cell.mean, cell.sd, len(table.seeds), table.n_users[dataset]]
            row.append(table.seconds.get((dataset, model)))
            if of_column and of_column.model == model:
                row += _csv_cells(of_column, table.p_holm[dataset, metric])
            elif change := table.changes.get((dataset, metric, model)):
                row += _csv_cells(change, table.p_holm[dataset, metric, model])
            rows.append(row + [None] * (len(CSV_COLUMNS) - len(row)))
    return pl.DataFrame(rows, schema=CSV_COLUMNS, orient="row", infer_schema_length=None).write_csv()


def _csv_cells(contrast: Contrast, p: float) -> list[str | float]:
    users = contrast.users
    return [contrast.baseline, users.difference, users.low, users.high, contrast.improvement, users.p_value, p]


def to_markdown(table: Table) -> str:
    """Returns the table in GitHub's Markdown, with its notes below.

    If the table has several datasets, the column heads name them.
    """
    models, contrasts = _rows(table, ("**{}**", "<u>{}</u>"), MARKDOWN)
    several = len(table.datasets) > 1
    heads = [f"{dataset}: {column}" if several else column for dataset in table.datasets for column in _columns(table)]
    frame = pd.DataFrame(models + contrasts, columns=["model", *(head.translate(MARKDOWN) for head in heads)])
    alignment = ("left", *["right"] * len(heads))
    text = frame.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    return f"{text}\n\n{' '.join(table_notes(table)).translate(MARKDOWN)}\n"


def to_latex(table: Table) -> str:
    r"""Returns the table as a LaTeX ``tabular`` that needs only booktabs, with its notes as comments above it."""
    models, contrasts = _rows(table, (r"\textbf{{{}}}", r"\underline{{{}}}"), LATEX)
    columns = [column.translate(LATEX) for column in _columns(table)]
    starts = range(2, 2 + len(columns) * len(table.datasets), len(columns))
    rules = "".join(rf"\cmidrule(lr){{{start}-{start + len(columns) - 1}}}" for start in starts)
    heads = [(dataset.translate(LATEX), column) for dataset in table.datasets for column in columns]
    if contrasts:
        contrasts[0][0] = "\\midrule\n" + contrasts[0][0]
    frame = pd.DataFrame(models + contrasts, columns=pd.MultiIndex.from_tuples([("", f"{rules}\nmodel"), *heads]))
    text = frame.style.hide(axis="index").to_latex(
        hrules=True, column_format="l" + "r" * len(heads), multicol_align="c"
    )
    return "".join(f"% {note}\n" for note in table_notes(table)) + text


def _columns(table: Table) -> list[str]:
    """Returns the column heads of one dataset."""
    return [*map(label_of, table.metrics), *["seconds"] * bool(table.seconds)]


def _rows(table: Table, places: tuple[str, str], escape: Mapping[int, str]) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the rows of the models and the rows of the contrasts; each row begins with its name.

    Args:
        places: the formats of the best and of the second value of a column.
        escape: the replacements of characters that have a meaning in the language of the table.
    """
    models = []
    for model in table.models:
        row = [model.translate(escape)]
        for dataset in table.datasets:
            for metric in table.metrics:
                cell = table.columns[dataset, metric][model]
                text = f"{cell.mean:.4f}" + ("" if cell.sd is None else f" ± {cell.sd:.4f}")
                change = f" ({found})" if (found := change_text(table, (dataset, metric, model))) else ""
                place = places[cell.place - 1] if cell.place else "{}"
                row.append(place.format(text.translate(escape)) + change.translate(escape))
            if table.seconds:
                row.append(f"{table.seconds[dataset, model]:.1f}")
        models.append(row)
    if not table.contrasts:
        return models, []
    columns = [*table.metrics] + ["seconds"] * bool(table.seconds)
    keys = [(dataset, metric) for dataset in table.datasets for metric in columns]
    below = zip(CONTRAST_ROWS, *(contrast_texts(table, key) for key in keys), strict=True)
    return models, [[text.translate(escape) for text in row] for row in below]


def contrast_texts(table: Table, key: tuple[str, str]) -> tuple[str, ...]:
    """Returns the texts of one column in the rows ``CONTRAST_ROWS``."""
    if key not in table.contrasts:
        return ("",) * len(CONTRAST_ROWS)
    contrast, p = table.contrasts[key], table.p_holm[key]
    return (
        f"{contrast.model} vs {contrast.baseline}",
        _improvement(contrast, p),
        f"[{contrast.users.low:+.4f}, {contrast.users.high:+.4f}]",
        f"{p:.4f}" if p >= 1e-4 else "<0.0001",
    )


def change_text(table: Table, key: tuple[str, str, str]) -> str:
    """Returns the difference between an ablation and the whole model in percent; an empty text for other rows."""
    return _improvement(table.changes[key], table.p_holm[key]) if key in table.changes else ""


def _improvement(contrast: Contrast, p: float) -> str:
    improvement = "–" if math.isnan(contrast.improvement) else f"{contrast.improvement:+.2f}%"
    return improvement + "*" * (p < SIGNIFICANT)


def table_notes(table: Table) -> list[str]:
    """Returns the sentences that explain the table to its reader."""
    seeds = ", ".join(map(str, table.seeds))
    notes = [
        f"Mean ± standard deviation over the seeds {seeds}." if len(table.seeds) > 1 else f"One seed, {seeds}.",
        f"Test users: {', '.join(f'{dataset} {n:,}' for dataset, n in table.n_users.items())}.",
        "In columns where higher or lower is better, the best value is bold and the second best underlined.",
    ]
    if table.seconds:
        notes.append("Seconds are training time.")
    if any(issubclass(metric_of(metric).function or object, GroupNDCG) for metric in table.metrics):
        notes.append(
            "Head, middle and tail items are groups by popularity with a third of the training interactions each; "
            "the NDCG of a group is a mean over the test users who have a held-out item of the group."
        )
    if table.p_holm:
        notes.append(
            f"* p < {SIGNIFICANT}: two-sided paired randomisation test over users, Holm-corrected "
            f"(comparisons in this table: {len(table.p_holm)})."
        )
    if table.contrasts:
        notes.append(
            "The interval is a bootstrap interval over users. "
            "Compared: of our models the best on validation, and of the baselines the best in this column."
        )
    if table.changes:
        whole = next(iter(table.changes.values())).baseline
        notes.append(
            f"In brackets: the change against {whole}. The CSV file has bootstrap intervals of the differences."
        )
    return notes
