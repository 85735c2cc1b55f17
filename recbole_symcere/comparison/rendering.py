"""Turns the tables of a comparison into text: Markdown for GitHub, LaTeX for papers, CSV for programs."""

import math
from collections.abc import Collection, Sequence

import polars as pl

from recbole_symcere.comparison.sheet import Sheet
from recbole_symcere.comparison.tables import SIGNIFICANT, Contrast, Table
from recbole_symcere.grid import MARKDOWN, Cell, Grid, Row, minus, scores_cell
from recbole_symcere.metrics import GroupNDCG, label_of, metric_of
from recbole_symcere.recbole_settings import what_is_ranked

CONTRAST_ROWS = ("compared", "improvement", "95% interval of the difference", "p (Holm)")
CSV_COLUMNS = ["dataset", "model", "metric", "mean", "sd", "n_seeds", "n_users", "seconds"]
CSV_COLUMNS += ["baseline", "difference", "low", "high", "improvement_percent", "p", "p_holm"]
PLACES = {1: "best", 2: "second", None: ""}
SECONDS = "seconds"


def texts_of(table: Table | Sheet) -> dict[str, str]:
    """Returns a table in each of its forms, by the suffix of the file."""
    if isinstance(table, Table):
        return {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table)}
    grid, notes = table.grid, table.notes
    return {"md": _markdown(grid, notes), "csv": table.numbers.write_csv(), "tex": _latex(grid, notes)}


def _markdown(grid: Grid, notes: Sequence[str]) -> str:
    return f"{grid.to_markdown()}\n\n{' '.join(notes).translate(MARKDOWN)}\n"


def _latex(grid: Grid, notes: Sequence[str]) -> str:
    return "".join(f"% {note}\n" for note in notes) + grid.to_latex()


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
    """Returns the table in GitHub's Markdown, with its notes below; several datasets are named in the column heads."""
    return _markdown(grid_of(table), table_notes(table))


def to_latex(table: Table) -> str:
    r"""Returns the table as a LaTeX ``tabular``, which needs only booktabs; its notes are comments above it."""
    return _latex(grid_of(table), table_notes(table))


def grid_of(table: Table, caption: str = "", ours: Collection[str] = ()) -> Grid:
    """Returns the table as texts: a row for each model, with the contrasts at the foot.

    Args:
        ours: the models that the report marks as no baselines.
    """
    columns = [(dataset, name) for dataset in table.datasets for name in _names(table)]
    rows = [Row(model, [_cell(table, *column, model) for column in columns], model in ours) for model in table.models]
    foot: list[Row] = []
    if any(column in table.contrasts for column in columns):
        below = zip(*(_contrast_cells(table, column) for column in columns), strict=True)
        foot = [Row(head, cells) for head, cells in zip(CONTRAST_ROWS, below, strict=True)]
    heads = [name if name == SECONDS else label_of(name) for _, name in columns]
    return Grid(caption, ["model", *heads], rows, foot, [dataset for dataset, _ in columns])


def _names(table: Table) -> list[str]:
    """The columns of one dataset: the metrics, then the seconds if the table has them."""
    return [*table.metrics, *[SECONDS] * bool(table.seconds)]


def _cell(table: Table, dataset: str, name: str, model: str) -> Cell:
    if name == SECONDS:
        seconds = table.seconds[dataset, model]
        return Cell(f"{seconds:.1f}", seconds)
    cell, key = table.columns[dataset, name][model], (dataset, name, model)
    change = _improvement(table.changes[key], table.p_holm[key]) if key in table.changes else ""
    return scores_cell(cell.mean, cell.sd, change, PLACES[cell.place])


def _contrast_cells(table: Table, column: tuple[str, str]) -> list[Cell]:
    """The cells of a column in the rows ``CONTRAST_ROWS``."""
    if column not in table.contrasts:
        return [Cell("")] * len(CONTRAST_ROWS)
    contrast, p = table.contrasts[column], table.p_holm[column]
    return [
        Cell(f"{contrast.model} vs {contrast.baseline}"),
        Cell(minus(_improvement(contrast, p)), kind=contrast.verdict(p)),
        Cell(minus(f"[{contrast.users.low:+.4f}, {contrast.users.high:+.4f}]")),
        Cell(p_text(p)),
    ]


def p_text(p: float) -> str:
    """Returns a p-value in four decimals."""
    return f"{p:.4f}" if p >= 1e-4 else "<0.0001"


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
    if ranked := what_is_ranked(table.mode):
        notes.append(ranked)
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
    return [*notes, *table.notes]
