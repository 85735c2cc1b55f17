"""Tables of a comparison: models as rows, the metrics of one or several datasets as columns; Markdown, CSV, LaTeX."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from recbole_symcere.comparison.statistics import PairedComparison, compare_users, holm, mean_and_sd
from recbole_symcere.errors import RunsError

Direction = Literal["higher", "lower", "neither"]

DIRECTIONS: dict[str, Direction] = {"averagepopularity": "neither", "giniindex": "neither"}
"""What is better, by a metric's name without its @k; higher, where nothing is said."""

GROUPS = {"headndcg": "Head NDCG", "middlendcg": "Middle NDCG", "tailndcg": "Tail NDCG"}
NAMES = {"hit": "HR", "giniindex": "Gini", **GROUPS} | {
    name.lower(): name
    for name in ("NDCG", "MRR", "MAP", "ItemCoverage", "AveragePopularity", "ShannonEntropy", "TailPercentage")
}
CONTRAST_ROWS = ("compared", "improvement", "95% interval of the difference", "p (Holm)")
CSV_COLUMNS = ["dataset", "model", "metric", "mean", "sd", "n_seeds", "n_users", "seconds"]
CSV_COLUMNS += ["baseline", "difference", "low", "high", "improvement_percent", "p", "p_holm"]
SIGNIFICANT = 0.05
ROUNDING = 1e-4  # RecBole rounds a metric to four decimals


@dataclass(frozen=True, eq=False)
class Run:
    """One model trained with one seed, and what it scored on test.

    Attributes:
        metrics: by RecBole's names, such as ``ndcg@10``.
        per_user: ``user_id`` (text, each user once) and a column for each metric that is a mean over users; NaN or null
            for a user who is not in the mean.
        valid_score: the best on validation.
        seconds: of training.
    """

    dataset: str
    model: str
    seed: int
    metrics: Mapping[str, float]
    per_user: pl.DataFrame
    valid_score: float
    seconds: float


@dataclass(frozen=True)
class Cell:
    """A metric over seeds. ``place`` is 1 for the best models of the column, 2 for the second, None for others."""

    mean: float
    sd: float | None
    place: int | None


@dataclass(frozen=True)
class Contrast:
    """One model against another, both by their means over seeds.

    Attributes:
        improvement: in percent of the baseline, positive if the model is better; NaN if the baseline's mean is 0.
        users: the model minus the baseline over users, the seeds of each user averaged; without users who lack a value.
    """

    model: str
    baseline: str
    improvement: float
    users: PairedComparison


@dataclass(frozen=True)
class Table:
    """What the renderers print.

    Attributes:
        columns: by dataset and metric, the cells by model.
        contrasts: by dataset and metric, ours that was best on validation against the baseline that is best on test: so
            nothing of ours is chosen on test, and of the baselines the one that is hardest to beat. None where neither
            direction is better, where values are not per user or of fewer than two users, or where all models are ours
            or all are baselines.
        changes: by dataset, metric and model, an ablation against the whole.
        p_holm: the p-value of each contrast or change, corrected for all of them.
        seconds: of training, mean over seeds, by dataset and model; empty, where none are to be shown.
        n_users: of the test part, by dataset.
    """

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: Mapping[tuple[str, str], Mapping[str, Cell]]
    contrasts: Mapping[tuple[str, str], Contrast]
    changes: Mapping[tuple[str, str, str], Contrast]
    p_holm: Mapping[tuple[str, ...], float]
    seconds: Mapping[tuple[str, str], float]
    n_users: Mapping[str, int]


def make_table(
    runs: Sequence[Run],
    metrics: Sequence[str],
    ours: Collection[str],
    directions: Mapping[str, Direction] | None = None,
    n_draws: int = 10_000,
) -> Table:
    """Compares models over the same datasets, seeds and test users. Baselines come first, else runs keep their order.

    Args:
        metrics: the columns, by RecBole's names.
        ours: the models that are not baselines.
        directions: changes to ``DIRECTIONS``, such as ``{"giniindex": "lower"}``.
        n_draws: of each bootstrap and each randomisation test.

    Raises:
        RunsError: models differ in datasets, seeds or users; values are missing or do not belong together.
    """
    datasets = tuple(dict.fromkeys(run.dataset for run in runs))
    models = tuple(sorted(dict.fromkeys(run.model for run in runs), key=lambda model: model in ours))
    seeds = tuple(sorted({run.seed for run in runs}))
    if absent := set(ours) - set(models):
        raise RunsError(f"no run is of {', '.join(sorted(absent))}, which should be ours")
    columns, contrasts, seconds, n_users = {}, {}, {}, {}
    for dataset in datasets:
        found = {model: _runs_of(dataset, model, seeds, runs) for model in models}
        n_users[dataset] = _check([run for model in models for run in found[model]], metrics)
        for model in models:
            seconds[dataset, model] = mean_and_sd([run.seconds for run in found[model]])[0]
        for metric in metrics:
            sign = _sign(metric, directions or {})
            columns[dataset, metric] = cells = _column(found, metric, sign)
            if contrast := _contrast(cells, found, metric, sign, ours, n_draws):
                contrasts[dataset, metric] = contrast
    return Table(
        datasets, models, tuple(metrics), seeds, columns, contrasts, {}, _corrected(contrasts), seconds, n_users
    )


def make_ablation(runs: Sequence[Run], metrics: Sequence[str], whole: str, n_draws: int = 10_000) -> Table:
    """A model and its ablations, each against the whole; rows keep their order.

    Args:
        metrics: the columns, by RecBole's names; each a mean over users.
        whole: the model that nothing is taken from.

    Raises:
        RunsError: as for ``make_table``.
    """
    table = make_table(runs, metrics, ours=())
    changes = {}
    for (dataset, metric), cells in table.columns.items():
        found = {model: _runs_of(dataset, model, table.seeds, runs) for model in cells}
        for model in cells:
            if model != whole and (change := _paired(model, whole, cells, found, metric, _sign(metric, {}), n_draws)):
                changes[dataset, metric, model] = change
    return replace(table, changes=changes, p_holm=_corrected(changes))


def _corrected(contrasts: Mapping[Any, Contrast]) -> dict[tuple[str, ...], float]:
    return dict(zip(contrasts, holm([contrast.users.p_value for contrast in contrasts.values()]), strict=True))


def _runs_of(dataset: str, model: str, seeds: Sequence[int], runs: Sequence[Run]) -> list[Run]:
    """One of each seed, in their order; users in the order of their ids."""
    found = sorted((run for run in runs if (run.dataset, run.model) == (dataset, model)), key=lambda run: run.seed)
    if (own := [run.seed for run in found]) != list(seeds):
        raise RunsError(f"{dataset}: {model} has runs of seeds {own}, the table is of {list(seeds)}")
    return [replace(run, per_user=run.per_user.sort("user_id")) for run in found]


def _check(runs: Sequence[Run], metrics: Sequence[str]) -> int:
    """The runs of one dataset have the same users, and metrics that are the means of their users' values.

    Returns:
        How many users.
    """
    first = runs[0].per_user
    for run in runs:
        name, other = (f"{each.model}, seed {each.seed}" for each in (run, runs[0]))
        name, users = f"{run.dataset}: {name}", run.per_user["user_id"]
        if users.n_unique() < len(users):
            raise RunsError(f"{name} has a test user twice, such as {users.filter(users.is_duplicated())[0]}")
        if odd := sorted(set(users) ^ set(first["user_id"])):
            raise RunsError(f"{name} and {other} differ in test users: {', '.join(odd[:3])}{', ...' * (len(odd) > 3)}")
        if odd := sorted(set(run.per_user.columns) ^ set(first.columns)):
            raise RunsError(f"{name} or {other} lacks the values per user of {', '.join(odd)}")
        for metric in metrics:
            value = run.metrics.get(metric, math.nan)
            if not math.isfinite(value):
                raise RunsError(f"{name} has no {metric}, or one that is not finite")
            mean = np.nanmean(run.per_user[metric].to_numpy()) if metric in first.columns else value
            if not math.isclose(mean, value, rel_tol=ROUNDING, abs_tol=ROUNDING):
                raise RunsError(f"{name} has {metric} {value}, but the mean over its users is {mean}")
    return len(first)


def _sign(metric: str, directions: Mapping[str, Direction]) -> int:
    """1 if higher is better, -1 if lower is, 0 if neither."""
    direction = {**DIRECTIONS, **directions}.get(metric.partition("@")[0], "higher")
    return {"higher": 1, "lower": -1, "neither": 0}[direction]


def _column(runs: Mapping[str, Sequence[Run]], metric: str, sign: int) -> dict[str, Cell]:
    over_seeds = {model: mean_and_sd([run.metrics[metric] for run in found]) for model, found in runs.items()}
    best_first = sorted({mean for mean, _ in over_seeds.values()}, key=lambda mean: -sign * mean)
    places = {mean: place for place, mean in enumerate(best_first[:2], start=1)} if sign else {}
    return {model: Cell(mean, sd, places.get(mean)) for model, (mean, sd) in over_seeds.items()}


def _contrast(
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[Run]],
    metric: str,
    sign: int,
    ours: Collection[str],
    n_draws: int,
) -> Contrast | None:
    candidates = [model for model in cells if model in ours]
    baselines = [model for model in cells if model not in ours]
    if not sign or not candidates or not baselines or metric not in runs[baselines[0]][0].per_user.columns:
        return None
    best = max(candidates, key=lambda model: mean_and_sd([run.valid_score for run in runs[model]])[0])
    baseline = max(baselines, key=lambda model: sign * cells[model].mean)
    return _paired(best, baseline, cells, runs, metric, sign, n_draws)


def _paired(
    model: str,
    baseline: str,
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[Run]],
    metric: str,
    sign: int,
    n_draws: int,
) -> Contrast | None:
    """None where fewer than two users have both values."""
    base = cells[baseline].mean
    improvement = 100 * sign * (cells[model].mean - base) / base if base else math.nan
    first, second = (_user_means(runs[each], metric) for each in (model, baseline))
    paired = ~np.isnan(first - second)
    if paired.sum() < 2:
        return None
    return Contrast(model, baseline, improvement, compare_users(first[paired], second[paired], n_draws))


def _user_means(runs: Sequence[Run], metric: str) -> np.ndarray:
    """[n_users], a metric averaged over seeds; NaN for a user who lacks it with a seed."""
    return np.stack([run.per_user[metric].to_numpy() for run in runs]).mean(axis=0, dtype=np.float64)


def metric_name(metric: str) -> str:
    """As the field writes it: ``hit@10`` is HR@10."""
    name, at, k = metric.partition("@")
    return NAMES.get(name, name.capitalize()) + at + k


def to_csv(table: Table) -> str:
    """In full precision, a row for each dataset, metric and model; a contrast stands in the row of its model."""
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
    """For GitHub; datasets stand in the column heads if there are several."""
    escape = str.maketrans({"|": r"\|", "*": r"\*"})
    models, contrasts = _rows(table, ("**{}**", "<u>{}</u>"), escape)
    header = ["model"]
    for dataset in table.datasets:
        of = f"{dataset}: ".translate(escape) if len(table.datasets) > 1 else ""
        header += [of + metric_name(metric) for metric in table.metrics] + [of + "seconds"] * bool(table.seconds)
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *models, *contrasts)]
    return "\n".join([*lines, "", " ".join(table_notes(table)).translate(escape), ""])


def to_latex(table: Table) -> str:
    r"""A ``tabular`` that needs booktabs alone; the notes are comments, for the caption."""
    escape = str.maketrans(
        {character: "\\" + character for character in "_%&#${}"}
        | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        | {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "|": "$|$"}
    )
    models, contrasts = _rows(table, (r"\textbf{{{}}}", r"\underline{{{}}}"), escape)
    width = len(table.metrics) + bool(table.seconds)
    groups = [rf"\multicolumn{{{width}}}{{c}}{{{dataset.translate(escape)}}}" for dataset in table.datasets]
    first = range(2, 2 + width * len(groups), width)
    heads = [metric_name(metric).translate(escape) for metric in table.metrics] + ["seconds"] * bool(table.seconds)
    header = ["model"] + heads * len(groups)
    lines = [f"% {note}" for note in table_notes(table)]
    lines += [rf"\begin{{tabular}}{{l{'r' * width * len(groups)}}}", r"\toprule", _latex_row(["", *groups])]
    lines += ["".join(rf"\cmidrule(lr){{{column}-{column + width - 1}}}" for column in first), _latex_row(header)]
    for part in (models, contrasts):
        if part:
            lines += [r"\midrule", *map(_latex_row, part)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _rows(table: Table, places: tuple[str, str], escape: Mapping[int, str]) -> tuple[list[list[str]], list[list[str]]]:
    """A row a model, and the rows below them, each with a head; ``places`` are formats of the best and the second."""
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
    """The column of ``CONTRAST_ROWS``."""
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
    """What an ablation changes of the whole, in percent; empty for other rows."""
    return _improvement(table.changes[key], table.p_holm[key]) if key in table.changes else ""


def _improvement(contrast: Contrast, p: float) -> str:
    improvement = "–" if math.isnan(contrast.improvement) else f"{contrast.improvement:+.2f}%"
    return improvement + "*" * (p < SIGNIFICANT)


def table_notes(table: Table) -> list[str]:
    """What one must know to read the table, in sentences."""
    seeds = ", ".join(map(str, table.seeds))
    notes = [
        f"Mean ± standard deviation over the seeds {seeds}." if len(table.seeds) > 1 else f"One seed, {seeds}.",
        f"Test users: {', '.join(f'{dataset} {n:,}' for dataset, n in table.n_users.items())}.",
        "The best is bold, the second underlined, where higher or lower is better.",
    ]
    if table.seconds:
        notes.append("Seconds are of training.")
    if any(metric.partition("@")[0] in GROUPS for metric in table.metrics):
        notes.append(
            "Head, middle and tail items, by popularity, have a third of the training interactions each; "
            "their NDCG is a mean over the test users who have such an item held out."
        )
    if table.p_holm:
        notes.append(
            f"* p < {SIGNIFICANT}: two-sided paired randomisation test over users, Holm-corrected "
            f"(comparisons in this table: {len(table.p_holm)})."
        )
    if table.contrasts:
        notes.append(
            "The interval is a bootstrap over users. "
            "Compared: ours that was best on validation, and of all others the one that is best here."
        )
    if table.changes:
        whole = next(iter(table.changes.values())).baseline
        notes.append(f"In brackets: against {whole}. Bootstrap intervals of the differences stand in the CSV file.")
    return notes
