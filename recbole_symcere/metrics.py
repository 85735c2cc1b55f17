"""Metrics: each has one record, which says how the metric is computed, labelled, compared and drawn.

Ranking, the tables of a comparison and the report read these records, so one call of :func:`register` adds a metric.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import recbole.evaluator.metrics as recbole_metrics
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metric_types, metrics_dict, smaller_metrics

from recbole_symcere import compat

compat.apply()

Direction = Literal["higher", "lower", "neither"]
Table = Literal["accuracy", "popularity"]
PRIMARY = "ndcg@10"  # the metric by which models are ranked
CUTOFFS: dict[Table, Sequence[int]] = {"accuracy": (10, 20), "popularity": (10,)}


class Chart(NamedTuple):
    """The panel in which the report draws a metric.

    Attributes:
        figure: the name of the figure; metrics with the same name stand side by side.
        title: the title of the figure, with ``{}`` in the place of the dataset's name.
        axis: the label of the axis of the panel.
    """

    figure: str
    title: str
    axis: str


@dataclass(frozen=True)
class Metric:
    """The record of one metric.

    Attributes:
        name: the metric's name in results, in lower case and without ``@k``. A class that is a ``TopkMetric`` of
            RecBole must name its results ``name@k``.
        label: the metric's name in tables and figures.
        direction: which values are better; ``neither`` for a metric that only describes.
        function: the class that computes the metric; None for RecBole's own class.
        table: the table of a comparison that has a column for the metric, at each cut-off of ``CUTOFFS``; None for no
            table. The column is left out if the setting ``metrics`` of the runs does not name the metric.
        chart: how the report draws the metric, which must be in the table ``popularity``; None if only tables show it.
    """

    name: str
    label: str
    direction: Direction = "higher"
    function: type[AbstractMetric] | None = None
    table: Table | None = None
    chart: Chart | None = None

    @property
    def sign(self) -> int:
        """1 if higher values are better, -1 if lower values are better, 0 if neither."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.direction]


METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> None:
    """Makes a metric known to ranking, tables and report, and to RecBole's setting ``metrics``.

    A metric of the same name is replaced.

    Raises:
        ValueError: the name has capitals or ``@``, so it could not be found again; the direction or the table is none
            of the known ones; or the report would not draw the chart.
    """
    if metric.name != metric.name.lower() or "@" in metric.name:
        raise ValueError(f"the name of a metric must be in lower case and without @k, not {metric.name!r}")
    for value, allowed in ((metric.direction, get_args(Direction)), (metric.table, (*get_args(Table), None))):
        if value not in allowed:
            raise ValueError(f"the metric {metric.name} has {value!r}, but this must be one of {allowed}")
    if metric.chart is not None and metric.table != "popularity":
        raise ValueError(f"the report draws metrics of the table 'popularity' only, and {metric.name} is not in it")
    if metric.function is not None:
        metric_information[metric.name] = metric.function.metric_need
        metric_types[metric.name] = metric.function.metric_type
        metrics_dict.setdefault(metric.name, metric.function)  # keeps RecBole's own, which RankingEvaluator replaces
    if metric.direction == "lower" and metric.name not in smaller_metrics:
        smaller_metrics.append(metric.name)
    METRICS[metric.name] = metric


def known_metrics() -> Collection[str]:
    """Returns the names, in lower case and without ``@k``, that the setting ``metrics`` can have in any case."""
    return metric_types.keys()


def metric_of(name: str) -> Metric:
    """Returns the record of a metric by its name, with or without ``@k``.

    A metric of RecBole that nobody registered gets a record in which higher is better and no table shows it.
    """
    name = name.partition("@")[0].lower()
    return METRICS.get(name, Metric(name, name.capitalize()))


def label_of(name: str) -> str:
    """Returns the name of a metric in tables and figures: HR@10 for ``hit@10``."""
    _, at, k = name.partition("@")
    return metric_of(name).label + at + k


def columns(table: Table, computed: Collection[str]) -> tuple[str, ...]:
    """Returns the metrics, with ``@k``, that are the columns of one of a comparison's tables.

    Args:
        computed: the metrics that the runs have, with ``@k``; no other metric gets a column, except ``PRIMARY`` in the
            table ``popularity``.
    """
    names = [f"{metric.name}@{k}" for k in CUTOFFS[table] for metric in METRICS.values() if metric.table == table]
    found = [name for name in names if name in computed]
    return tuple(found if table == "accuracy" else [PRIMARY, *found])


class AveragePopularity(recbole_metrics.AveragePopularity):
    """RecBole's average popularity, faster: all items are looked up in one array operation.

    RecBole's own look-ups take longer than the ranking.
    """

    def get_pop(self, item_matrix: np.ndarray, item_count: dict[int, int]) -> np.ndarray:
        """Looks up the popularity of recommended items.

        Args:
            item_matrix: [n_users, k] long, recommended items.
            item_count: interactions of each item in training.

        Returns:
            [n_users, k] long, the interactions of each recommended item.
        """
        return _count_array(item_count, 1 + max(int(item_matrix.max()), *item_count))[item_matrix]


class GiniIndex(recbole_metrics.GiniIndex):
    """RecBole's Gini index, faster: all items are counted in one array operation."""

    def get_gini(self, item_matrix: np.ndarray, num_items: int) -> float:
        """Returns how unevenly the recommendations are spread over the items: 0 is even, 1 is all on one item.

        Args:
            item_matrix: [n_users, k] long, recommended items, below ``num_items``.
        """
        counts = np.sort(np.bincount(item_matrix.ravel(), minlength=num_items))
        rank = np.arange(1, num_items + 1)
        return np.sum((2 * rank - num_items - 1) * counts) / item_matrix.size / num_items


class NDCG(recbole_metrics.NDCG):
    """RecBole's NDCG, faster: the ideal values of all users are looked up in one array operation."""

    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        """Returns the NDCG of each user.

        Args:
            pos_index: [n_users, k] bool, which recommended items are relevant.
            pos_len: [n_users] int, relevant items of each user.

        Returns:
            [n_users, k] float, NDCG@1 to NDCG@k; NaN for a user without a relevant item.
        """
        rank = np.arange(1, pos_index.shape[1] + 1)
        discount = 1 / np.log2(rank + 1)
        ideal = np.append(np.nan, discount.cumsum())
        return (pos_index * discount).cumsum(axis=1) / ideal[np.minimum(pos_len[:, None], rank)]


class GroupNDCG(NDCG):
    """The NDCG that counts only held-out items of one group as relevant (see :func:`popularity_groups`).

    The ranked list has the items of all groups. The mean is over the users who have a held-out item of the group, and
    NaN if nobody has one. Only ``RankingCollector`` collects what this metric reads.
    """

    metric_need = ("rec.items", "rec.topk", "rec.positives", "data.num_items", "data.count_items")
    group: ClassVar[int]

    def used_info(self, dataobject: DataStruct) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arguments of :meth:`metric_info`."""
        hits, relevant = super().used_info(dataobject)
        items, positives = (dataobject.get(name).numpy() for name in ("rec.items", "rec.positives"))
        counts = _count_array(dataobject.get("data.count_items"), dataobject.get("data.num_items"))
        in_group = popularity_groups(counts) == self.group
        users = np.arange(len(hits)).repeat(relevant)
        return hits & in_group[items], np.bincount(users[in_group[positives]], minlength=len(hits))

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """Returns the means over users at each k."""
        of_users = self.metric_info(*self.used_info(dataobject))
        return self.topk_result(type(self).__name__.lower(), of_users[~np.isnan(of_users[:, 0])])


class HeadNDCG(GroupNDCG):
    """The NDCG of the most popular items."""

    group = 0


class MiddleNDCG(GroupNDCG):
    """The NDCG of the items between head and tail."""

    group = 1


class TailNDCG(GroupNDCG):
    """The NDCG of the least popular items."""

    group = 2


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """Returns the popularity group of each item: head, middle or tail.

    Each group has a third of the training interactions, give or take those of one item. SGL (Wu et al., SIGIR 2021,
    section 4.3.1) makes ten groups in the same way.

    Args:
        counts: [n_items] long, interactions of each item in training.

    Returns:
        [n_items] long: 0 for head, 1 for middle, 2 for tail; items without an interaction are tail.
    """
    most_popular_first = np.argsort(-counts, kind="stable")
    ordered = counts[most_popular_first]
    groups = np.empty_like(counts)
    groups[most_popular_first] = np.minimum(3 * (ordered.cumsum() - ordered) // ordered.sum(), 2)
    return groups


def _count_array(item_count: Mapping[int, int], n_items: int) -> np.ndarray:
    """Returns the counts as an array, [n_items] long."""
    counts = np.zeros(n_items, np.int64)
    counts[list(item_count)] = list(item_count.values())
    return counts


GROUPS = Chart("groups", "NDCG@10 on head, middle and tail items of {}", "NDCG@10")
SPREAD = ("popularity", "Coverage and popularity on {}")
POPULARITY = Chart(*SPREAD, "training interactions, mean")
UNEVENNESS = Chart(*SPREAD, "Gini index, 0 is even")
COVERAGE = Chart(*SPREAD, "share of all items, in any top 10")
for record in (
    Metric("hit", "HR", table="accuracy"),
    Metric("ndcg", "NDCG", function=NDCG, table="accuracy"),
    Metric("mrr", "MRR"),
    Metric("map", "MAP"),
    Metric("headndcg", "Head NDCG", function=HeadNDCG, table="popularity", chart=GROUPS),
    Metric("middlendcg", "Middle NDCG", function=MiddleNDCG, table="popularity", chart=GROUPS),
    Metric("tailndcg", "Tail NDCG", function=TailNDCG, table="popularity", chart=GROUPS),
    Metric("itemcoverage", "ItemCoverage", table="popularity", chart=COVERAGE),
    Metric("averagepopularity", "AveragePopularity", "neither", AveragePopularity, "popularity", POPULARITY),
    Metric("giniindex", "Gini", "neither", GiniIndex, "popularity", UNEVENNESS),
    Metric("shannonentropy", "ShannonEntropy"),
    Metric("tailpercentage", "TailPercentage"),
):
    register(record)
