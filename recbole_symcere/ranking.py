"""Full ranking of all users, as RecBole evaluates it, without what RecBole does anew at every evaluation."""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import recbole.evaluator.metrics as recbole_metrics
import torch
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metric_types, metrics_dict
from torch import Tensor

from recbole_symcere import distributed

NOT_AT_K = ("rec.meanrank", "rec.score", "data.label")  # what metrics that need more than the best k read


class RankingDataLoader(FullSortEvalDataLoader):
    """The batches of users, with their histories and positives, are put together once: they are always the same.

    Several processes have a share of the users each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._batches: dict[tuple[int, int], Any] = {}
        super().__init__(*args, **kwargs)

    def update_config(self, config: Any) -> None:
        self._batches.clear()
        super().update_config(config)

    def __iter__(self) -> Iterator[Any]:
        if distributed.world_size() == 1:
            yield from super().__iter__()
            return
        own = range(self.sample_size)[distributed.share(self.sample_size).rows]
        for start in range(0, len(own), self.step):
            yield self.collate_fn(list(own[start : start + self.step]))

    def collate_fn(self, index: list[int]) -> Any:
        key = (index[0], len(index))
        if key not in self._batches:
            self._batches[key] = super().collate_fn(index)
        return self._batches[key]


class RankingCollector(Collector):
    """One top-k for all metrics, and hits looked up by key: RecBole ranks twice and fills a users x items table.

    Attributes:
        shared_out: whether each of several processes collects for users of its own.
    """

    shared_out = False

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """As RecBole's.

        Args:
            scores_tensor: [n_users, n_items].
            positive_u, positive_i: [n] long, rows of ``scores_tensor``, ascending, and items that belong to them, each
                pair once.
        """
        if self.register.need("rec.positives"):
            self.data_struct.update_tensor("rec.positives", positive_i)
        if any(map(self.register.need, NOT_AT_K)):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        n_users, n_items = scores_tensor.shape
        best = scores_tensor.topk(max(self.topk), dim=-1)
        if best.values.isnan().any():  # NaN ranks first, so any is here; it is to rank last
            best = scores_tensor.masked_fill(scores_tensor.isnan(), -torch.inf).topk(max(self.topk), dim=-1)
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", best.indices)
        if self.register.need("rec.topk"):
            row = torch.arange(n_users, device=best.indices.device)
            positive_u, positive_i = positive_u.to(row.device), positive_i.to(row.device)
            hits = torch.isin(row[:, None] * n_items + best.indices, positive_u * n_items + positive_i)
            relevant = torch.bincount(positive_u, minlength=n_users)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, relevant[:, None]], dim=1).int())

    def get_data_struct(self) -> DataStruct:
        """As RecBole's, of the users of all processes."""
        for key in [*self.data_struct._data_dict] if self.shared_out else ():
            if key.startswith("rec.") or key == "data.label":
                self.data_struct[key] = distributed.gather(self.data_struct[key])
        return super().get_data_struct()


class AveragePopularity(recbole_metrics.AveragePopularity):
    """RecBole's, its look-ups in one array operation: they took longer than the ranking."""

    def get_pop(self, item_matrix: np.ndarray, item_count: dict[int, int]) -> np.ndarray:
        """As RecBole's.

        Args:
            item_matrix: [n_users, k] long, recommended items.
            item_count: interactions of each item in training.

        Returns:
            [n_users, k] long, the interactions of each recommended item.
        """
        return _count_array(item_count, 1 + max(int(item_matrix.max()), *item_count))[item_matrix]


class GiniIndex(recbole_metrics.GiniIndex):
    """RecBole's, counted in one array operation too."""

    def get_gini(self, item_matrix: np.ndarray, num_items: int) -> float:
        """As RecBole's.

        Args:
            item_matrix: [n_users, k] long, recommended items, below ``num_items``.
        """
        counts = np.sort(np.bincount(item_matrix.ravel(), minlength=num_items))
        rank = np.arange(1, num_items + 1)
        return np.sum((2 * rank - num_items - 1) * counts) / item_matrix.size / num_items


class NDCG(recbole_metrics.NDCG):
    """RecBole's, its ideal lists looked up in one array operation too."""

    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        """As RecBole's.

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
    """NDCG of the items of one of ``popularity_groups``: the ranked list stays whole, no other item is relevant.

    The mean is over the users that have a held-out item of the group; NaN if nobody has. Needs ``RankingCollector``.
    """

    metric_need = ("rec.items", "rec.topk", "rec.positives", "data.num_items", "data.count_items")
    group: ClassVar[int]

    def used_info(self, dataobject: DataStruct) -> tuple[np.ndarray, np.ndarray]:
        """``metric_info``'s arguments."""
        hits, relevant = super().used_info(dataobject)
        items, positives = (dataobject.get(name).numpy() for name in ("rec.items", "rec.positives"))
        counts = _count_array(dataobject.get("data.count_items"), dataobject.get("data.num_items"))
        in_group = popularity_groups(counts) == self.group
        users = np.arange(len(hits)).repeat(relevant)
        return hits & in_group[items], np.bincount(users[in_group[positives]], minlength=len(hits))

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """As RecBole's."""
        of_users = self.metric_info(*self.used_info(dataobject))
        return self.topk_result(type(self).__name__.lower(), of_users[~np.isnan(of_users[:, 0])])


class HeadNDCG(GroupNDCG):
    """Of the most popular items."""

    group = 0


class MiddleNDCG(GroupNDCG):
    """Of the items between head and tail."""

    group = 1


class TailNDCG(GroupNDCG):
    """Of the least popular items."""

    group = 2


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """Head, middle and tail items, which hold a third of the interactions each, to within one item's.

    SGL (Wu et al., SIGIR 2021, section 4.3.1) cuts ten such groups.

    Args:
        counts: [n_items] long, interactions of each item in training.

    Returns:
        [n_items] long: 0 is head, 1 middle, 2 tail; items without an interaction are tail.
    """
    most_popular_first = np.argsort(-counts, kind="stable")
    ordered = counts[most_popular_first]
    groups = np.empty_like(counts)
    groups[most_popular_first] = np.minimum(3 * (ordered.cumsum() - ordered) // ordered.sum(), 2)
    return groups


def _count_array(item_count: Mapping[int, int], n_items: int) -> np.ndarray:
    """[n_items] long."""
    counts = np.zeros(n_items, np.int64)
    counts[list(item_count)] = list(item_count.values())
    return counts


def register_metrics() -> None:
    """Lets RecBole's ``metrics`` setting name the NDCG of each popularity group."""
    for metric in (HeadNDCG, MiddleNDCG, TailNDCG):
        name = metric.__name__.lower()
        metric_information[name], metric_types[name] = metric.metric_need, metric.metric_type
        metrics_dict[name] = metric


class RankingEvaluator(Evaluator):
    """RecBole's metrics, with the slow ones replaced."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name, metric in (("averagepopularity", AveragePopularity), ("giniindex", GiniIndex), ("ndcg", NDCG)):
            if name in self.metric_class:
                self.metric_class[name] = metric(config)

    def evaluate(self, dataobject: DataStruct) -> Mapping[str, float]:
        """As RecBole's; ``dataobject`` stays for ``of_each_user``."""
        self._ranked = dataobject
        return super().evaluate(dataobject)

    def of_each_user(self) -> dict[str, np.ndarray]:
        """What was evaluated last, before the mean: ``{"ndcg@10": [n_users], ...}``, users in the loader's order.

        NaN where a user is not in the mean.
        """
        values: dict[str, np.ndarray] = {}
        for name, metric in self.metric_class.items():
            if isinstance(metric, recbole_metrics.TopkMetric):
                hits_and_relevant = metric.used_info(self._ranked)
                of_users = metric.metric_info(*hits_and_relevant[: len(signature(metric.metric_info).parameters)])
                values |= {f"{name}@{k}": of_users[:, k - 1] for k in metric.topk}
        return values
