"""The numbers of a comparison's tables: models as rows, the metrics of one or several datasets as columns."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from recbole_symcere.comparison.history import history_notes
from recbole_symcere.comparison.statistics import PairedComparison, compare_users, holm, mean_and_sd
from recbole_symcere.comparison.validation import validation_notes
from recbole_symcere.errors import RunsError
from recbole_symcere.metrics import PRIMARY, Direction, columns, metric_of

SIGNIFICANT = 0.05
ROUNDING = 1e-4  # RecBole rounds metrics to four decimals
ABOUT_PROBES = (
    "Probes show what the protocol lets through. They can't be deployed, so they are not compared with the models."
)
NEEDED = ("hit@10", "ndcg@10", "hit@20", "ndcg@20")  # the columns that every table of accuracy has


@dataclass(frozen=True, eq=False)
class Run:
    """The test results of one model that was trained with one seed.

    Attributes:
        metrics: the value of each metric by RecBole's name, such as ``ndcg@10``.
        per_user: the column ``user_id`` (text, each user once), and a column for each metric that is a mean over
            users. A value is NaN or null if the user is not in the mean.
        valid_score: the best score on validation.
        seconds: the training time.
        mode: which items were ranked, as in ``eval_args``: ``full``, or ``uni100`` for a sample.
        valid_users: the columns ``user_id`` and ``PRIMARY`` of the users of validation; None for runs that lack them.
    """

    dataset: str
    model: str
    seed: int
    metrics: Mapping[str, float]
    per_user: pl.DataFrame
    valid_score: float
    seconds: float
    mode: str = "full"
    valid_users: pl.DataFrame | None = None


@dataclass(frozen=True)
class Cell:
    """A metric of one model: its mean and standard deviation over seeds, and its place in the column.

    Attributes:
        sd: None if there is only one seed.
        place: 1 for the models with the best mean of the column, 2 for those with the second best, None for others.
    """

    mean: float
    sd: float | None
    place: int | None


@dataclass(frozen=True)
class Contrast:
    """The comparison of a model with a baseline in one metric, both averaged over seeds.

    Attributes:
        improvement: the difference in percent of the baseline, positive if the model is better; NaN if the baseline's
            mean is 0.
        users: the comparison over users, with each user's values averaged over seeds; users who lack a value are left
            out.
    """

    model: str
    baseline: str
    improvement: float
    users: PairedComparison

    def verdict(self, p: float) -> str:
        """Returns ``ahead`` or ``behind`` for the model; an empty text if chance may explain the difference.

        Args:
            p: the corrected p-value of the contrast.
        """
        if p >= SIGNIFICANT:
            return ""
        return "ahead" if self.users.difference > 0 else "behind"


@dataclass(frozen=True)
class Table:
    """The numbers of one table, which ``rendering`` turns into text.

    Attributes:
        columns: for each dataset and metric, the cell of each model.
        contrasts: for each dataset and metric, our model that was best on validation compared with the baseline that
            is best on test. No model of ours is therefore chosen on test, and the baseline is the one that is hardest
            to beat. There is no contrast for a metric without a direction, for a metric that is not per user, for fewer
            than two users, or if all models are ours or all are baselines.
        changes: for each dataset, metric and ablation, its comparison with the whole model.
        p_holm: the p-value of each contrast or change, corrected for the number of all of them.
        seconds: for each dataset and model, the mean training time over seeds; empty if the table shows no times.
        n_users: the number of test users of each dataset.
        mode: which items all runs ranked.
        notes: sentences for the reader of this table alone.
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
    mode: str
    notes: tuple[str, ...] = ()


def make_table(
    runs: Sequence[Run],
    metrics: Sequence[str],
    ours: Collection[str],
    directions: Mapping[str, Direction] | None = None,
    n_draws: int = 10_000,
) -> Table:
    """Makes the table that compares models over the same datasets, seeds and test users.

    Baselines come first; apart from that, models keep the order of the runs.

    Args:
        metrics: the columns, by RecBole's names.
        ours: the models that are not baselines.
        directions: directions that replace those of the metrics' records, such as ``{"giniindex": "lower"}``.
        n_draws: the number of draws of each bootstrap and each randomisation test.

    Raises:
        RunsError: models differ in datasets, seeds or users; values are missing or do not belong together.
    """
    datasets = tuple(dict.fromkeys(run.dataset for run in runs))
    models = tuple(sorted(dict.fromkeys(run.model for run in runs), key=lambda model: model in ours))
    seeds = tuple(sorted({run.seed for run in runs}))
    modes = sorted({run.mode for run in runs})
    if len(modes) > 1:
        raise RunsError(f"runs ranked other items: mode in eval_args is {', '.join(modes)}; compare under one mode")
    (mode,) = modes
    if absent := set(ours) - set(models):
        raise RunsError(f"there is no run of {', '.join(sorted(absent))}, which should be ours")
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
        datasets, models, tuple(metrics), seeds, columns, contrasts, {}, _corrected(contrasts), seconds, n_users, mode
    )


def make_ablation(runs: Sequence[Run], metrics: Sequence[str], whole: str, n_draws: int = 10_000) -> Table:
    """Makes the table that compares the ablations of a model with the whole model; rows are in the order of the runs.

    Args:
        metrics: the columns, by RecBole's names. Only metrics per user with a direction are compared.
        whole: the name of the whole model.

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


def against_each_baseline(
    runs: Sequence[Run], ours: Collection[str], n_draws: int = 10_000
) -> dict[str, list[Contrast]]:
    """Compares our model that is best on validation with each baseline in the primary metric, on each dataset.

    The dictionary is empty if all models are ours or all are baselines.

    Raises:
        RunsError: as for ``make_table``.
    """
    table = make_table(runs, (PRIMARY,), ours=())
    baselines = [model for model in table.models if model not in ours]
    compared: dict[str, list[Contrast]] = {}
    for dataset in table.datasets if 0 < len(baselines) < len(table.models) else ():
        found = {model: _runs_of(dataset, model, table.seeds, runs) for model in table.models}
        cells, sign = table.columns[dataset, PRIMARY], _sign(PRIMARY, {})
        best = _best_on_validation([model for model in table.models if model in ours], found)
        paired = (_paired(best, baseline, cells, found, PRIMARY, sign, n_draws) for baseline in baselines)
        compared[dataset] = [contrast for contrast in paired if contrast]
    return {dataset: contrasts for dataset, contrasts in compared.items() if contrasts}


def make_tables(
    done: Sequence[Run], ours: Collection[str], ablations: Mapping[str, Sequence[Run]], probes: Sequence[Run] = ()
) -> dict[str, Table]:
    """Returns the tables ``summary``, ``accuracy`` and ``popularity``, and ``ablation-MODEL`` for each model with some.

    If there are probes, the table ``probes`` shows their accuracy. If the runs have metrics by the history of users,
    there is a table ``history``.

    Args:
        done: the complete runs of all models that are no probes.
        ablations: for each model with ablations, its own runs and those of its ablations.
        probes: the complete runs of the models that are probes.

    Raises:
        RunsError: the runs do not make one table.
    """
    accuracy = columns("accuracy", {*done[0].metrics, *NEEDED})  # without a needed one, make_table raises
    # On a small dataset, perhaps no user has a held-out item of a group of items, or one of the histories.
    popularity, history = (
        [
            name
            for name in columns(kind, done[0].metrics)
            if not any(math.isnan(run.metrics.get(name, math.nan)) for run in done)
        ]
        for kind in ("popularity", "history")
    )
    unsettled = validation_notes(done)
    tables = {
        "summary": replace(make_table(done, (PRIMARY,), ours), seconds={}, notes=unsettled),
        "accuracy": replace(make_table(done, accuracy, ours), notes=unsettled),
        "popularity": make_table(done, popularity, ours),
    }
    if probes:
        tables["probes"] = replace(make_table(probes, accuracy, ()), notes=(ABOUT_PROBES,))
    if history:
        tables["history"] = replace(make_table(done, history, ours), seconds={}, notes=history_notes(done))
    return tables | {f"ablation-{model}": make_ablation(of, accuracy, model) for model, of in ablations.items()}


def _corrected(contrasts: Mapping[Any, Contrast]) -> dict[tuple[str, ...], float]:
    return dict(zip(contrasts, holm([contrast.users.p_value for contrast in contrasts.values()]), strict=True))


def _runs_of(dataset: str, model: str, seeds: Sequence[int], runs: Sequence[Run]) -> list[Run]:
    """Returns the runs of a model, one for each of ``seeds`` in their order, with users in the order of their ids."""
    found = sorted((run for run in runs if (run.dataset, run.model) == (dataset, model)), key=lambda run: run.seed)
    if (own := [run.seed for run in found]) != list(seeds):
        raise RunsError(f"{dataset}: {model} has runs of seeds {own}, but the table is of {list(seeds)}")
    return [replace(run, per_user=run.per_user.sort("user_id")) for run in found]


def _check(runs: Sequence[Run], metrics: Sequence[str]) -> int:
    """Checks that runs of one dataset and one seed have the same users, and that metrics are the means of their values.

    Returns:
        The number of users; those of several seeds differ where the seed draws them.
    """
    of_seeds = {run.seed: run for run in reversed(runs)}
    for run in runs:
        first = of_seeds[run.seed].per_user
        name, other = (f"{each.model}, seed {each.seed}" for each in (run, of_seeds[run.seed]))
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
    return len(set().union(*(run.per_user["user_id"] for run in of_seeds.values())))


def _sign(metric: str, directions: Mapping[str, Direction]) -> int:
    """Returns 1 if higher values are better, -1 if lower values are better, 0 if neither."""
    known = metric_of(metric)
    return replace(known, direction=directions.get(known.name, known.direction)).sign


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
    if not candidates or not baselines:
        return None
    best = _best_on_validation(candidates, runs)
    baseline = max(baselines, key=lambda model: sign * cells[model].mean)
    return _paired(best, baseline, cells, runs, metric, sign, n_draws)


def _best_on_validation(models: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> str:
    return max(models, key=lambda model: mean_and_sd([run.valid_score for run in runs[model]])[0])


def _paired(
    model: str,
    baseline: str,
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[Run]],
    metric: str,
    sign: int,
    n_draws: int,
) -> Contrast | None:
    """Compares a model with a baseline in one metric.

    Returns:
        None if the metric is not per user or has no direction, or if fewer than two users have a value of both models.
    """
    if not sign or metric not in runs[baseline][0].per_user.columns:
        return None
    base = cells[baseline].mean
    improvement = 100 * sign * (cells[model].mean - base) / base if base else math.nan
    first, second = (user_means([run.per_user for run in runs[each]], metric) for each in (model, baseline))
    paired = ~np.isnan(first - second)
    if paired.sum() < 2:
        return None
    return Contrast(model, baseline, improvement, compare_users(first[paired], second[paired], n_draws))


def user_means(of_seeds: Sequence[pl.DataFrame], metric: str) -> np.ndarray:
    """Returns a metric of each user averaged over the user's seeds, [n_users]; NaN for a user who lacks a value of one.

    Args:
        of_seeds: for each seed the values by user.

    Returns:
        The values in the order of the users' ids.
    """
    values = pl.concat(
        users.select("user_id", pl.col(metric).cast(pl.Float64).fill_null(math.nan)) for users in of_seeds
    )
    return values.group_by("user_id").mean().sort("user_id")[metric].to_numpy()
