"""Metrics: each has one record, which says how the metric is computed, labelled, compared and drawn.

Ranking, the tables of a comparison and the report read these records, so one call of :func:`register` adds a metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import recbole.evaluator.metrics as recbole_metrics
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metric_types, metrics_dict, smaller_metrics
from recbole.utils import EvaluatorType

from recbole_symcere import compat
from recbole_symcere.known import STRANGER, TRAINED, VALIDATION_ONLY

compat.apply()

Direction = Literal["higher", "lower", "neither"]
Table = Literal["accuracy", "popularity", "history"]
PRIMARY = "ndcg@10"  # the metric by which models are ranked
CUTOFFS: dict[Table, Sequence[int]] = {"accuracy": (10, 20), "popularity": (10,), "history": (10,)}
# The columns with which a table begins, although they belong to another table.
BORROWED: dict[Table, Sequence[str]] = {"accuracy": (), "popularity": (PRIMARY,), "history": (PRIMARY, "hit@10")}


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
        label: the metric's name in tables and figures, to which ``@k`` is added, or put in the place of ``{}``.
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
    label = metric_of(name).label
    return label.format(at + k) if "{}" in label else label + at + k


def columns(table: Table, computed: Collection[str]) -> tuple[str, ...]:
    """Returns the metrics, with ``@k``, that are the columns of one of a comparison's tables.

    Args:
        computed: the metrics that the runs have, with ``@k``. No other metric gets a column, except those of
            ``BORROWED``; the table ``history`` has no column at all if the runs have no metric of its own.
    """
    names = [f"{metric.name}@{k}" for k in CUTOFFS[table] for metric in METRICS.values() if metric.table == table]
    found = [name for name in names if name in computed]
    return (*BORROWED[table], *found) if found or table != "history" else ()


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


class OfSomeUsers(recbole_metrics.TopkMetric):
    """The base of metrics that are a mean over some users only: those whose value is not NaN.

    Only ``RankingCollector`` collects what such metrics read.
    """

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """Returns the means over these users at each k; NaN if there are none."""
        of_users = self.metric_info(*self.used_info(dataobject))
        name, of_users = type(self).__name__.lower(), of_users[~np.isnan(of_users[:, 0])]
        return self.topk_result(name, of_users) if len(of_users) else {f"{name}@{k}": np.nan for k in self.topk}


class NDCGOfSomeItems(OfSomeUsers, NDCG, ABC):
    """The base of metrics that count only some of the held-out items as relevant; the ranked list has all items.

    The mean is over the users who have such a held-out item.
    """

    @abstractmethod
    def counted(self, dataobject: DataStruct) -> np.ndarray:
        """Returns whether an item counts, [n_items] bool."""

    def used_info(self, dataobject: DataStruct) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arguments of :meth:`metric_info`."""
        hits, relevant = super().used_info(dataobject)
        items, positives = (dataobject.get(name).numpy() for name in ("rec.items", "rec.positives"))
        counted, users = self.counted(dataobject), np.arange(len(hits)).repeat(relevant)
        return hits & counted[items], np.bincount(users[counted[positives]], minlength=len(hits))


class GroupNDCG(NDCGOfSomeItems):
    """The NDCG of one group of items by popularity (see :func:`popularity_groups`)."""

    metric_need = ("rec.items", "rec.topk", "rec.positives", "data.num_items", "data.count_items")
    group: ClassVar[int]

    def counted(self, dataobject: DataStruct) -> np.ndarray:
        """Returns whether an item is in the group, [n_items] bool."""
        counts = _count_array(dataobject.get("data.count_items"), dataobject.get("data.num_items"))
        return popularity_groups(counts) == self.group


class HeadNDCG(GroupNDCG):
    """The NDCG of the most popular items."""

    group = 0


class MiddleNDCG(GroupNDCG):
    """The NDCG of the items between head and tail."""

    group = 1


class TailNDCG(GroupNDCG):
    """The NDCG of the least popular items."""

    group = 2


class OfHistory(OfSomeUsers):
    """The base of metrics over the users with one kind of history before the part that is ranked (see ``known``)."""

    metric_need = ("rec.topk", "rec.history")
    history: ClassVar[int]

    def used_info(self, dataobject: DataStruct) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arguments of :meth:`metric_info`, with no relevant item for all other users."""
        hits, relevant = super().used_info(dataobject)
        return hits, np.where(dataobject.get("rec.history").numpy() == self.history, relevant, 0)


class HistoryNDCG(OfHistory, NDCG):
    """The NDCG of users with one kind of history."""


class HistoryHit(OfHistory, recbole_metrics.Hit):
    """The hit ratio of users with one kind of history."""

    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        """Returns 1 for a user with a hit among the best k, else 0; NaN without a relevant item. [n_users, k] float."""
        return np.where(pos_len[:, None] > 0, super().metric_info(pos_index), np.nan)


class ReachableNDCG(NDCGOfSomeItems):
    """The NDCG of the items that somebody met before the part that is ranked."""

    metric_need = ("rec.items", "rec.topk", "rec.positives", "data.seen")

    def counted(self, dataobject: DataStruct) -> np.ndarray:
        """Returns whether somebody met an item before, [n_items] bool."""
        return dataobject.get("data.seen").numpy()


class CeilingNDCG(ReachableNDCG):
    """The highest NDCG that a list of items that somebody met before can reach, whatever the model."""

    def used_info(self, dataobject: DataStruct) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arguments of :meth:`metric_info` for lists that begin with all reachable held-out items."""
        hits, reachable = super().used_info(dataobject)
        relevant = recbole_metrics.TopkMetric.used_info(self, dataobject)[1]
        return np.arange(hits.shape[1]) < reachable[:, None], relevant


class UnseenRows(recbole_metrics.AbstractMetric):
    """The share of held-out interactions whose item nobody met before the part; no candidate can be right there."""

    metric_need = ("rec.positives", "data.seen")
    metric_type = EvaluatorType.RANKING

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """Returns the share."""
        seen = dataobject.get("data.seen").numpy()[dataobject.get("rec.positives").numpy()]
        return {"unseenrows": round(1 - float(seen.mean()), self.decimal_place)}


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
for prefix, users, history in (
    ("trained", "known users", TRAINED),
    ("validonly", "recent users", VALIDATION_ONLY),
    ("stranger", "new users", STRANGER),
):
    for suffix, label, base in (("ndcg", "NDCG", HistoryNDCG), ("hit", "HR", HistoryHit)):
        function = type(prefix + suffix, (base,), {"history": history})
        register(Metric(prefix + suffix, f"{label}{{}} of {users}", function=function, table="history"))
register(Metric("reachablendcg", "NDCG{} over seen items", function=ReachableNDCG, table="history"))
register(Metric("ceilingndcg", "ceiling of NDCG{}", function=CeilingNDCG))
register(Metric("unseenrows", "share of unseen rows", "neither", UnseenRows))
