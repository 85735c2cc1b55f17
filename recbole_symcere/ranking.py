"""Full ranking of all users with the same results as RecBole, but without the work that RecBole repeats each time."""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import numpy as np
import recbole.evaluator.metrics as recbole_metrics
import torch
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_symcere import distributed
from recbole_symcere.metrics import metric_of

NOT_AT_K = ("rec.meanrank", "rec.score", "data.label")  # resources of metrics that need more than the best k items


class RankingDataLoader(FullSortEvalDataLoader):
    """A dataloader that assembles each batch of users only once, because the batches never change.

    A batch holds the histories and the held-out items of its users. If several processes rank, each of them gets a
    share of the users.
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
    """A collector that ranks once for all metrics, and finds hits without a table of users x items.

    RecBole's own collector ranks twice and fills such a table.

    Attributes:
        shared_out: whether several processes each collect for their own users.
    """

    shared_out = False

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collects what the metrics read of a batch, as RecBole's collector does.

        Args:
            scores_tensor: [n_users, n_items] float.
            positive_u, positive_i: [n] long, the held-out pairs, each once. ``positive_u`` has the rows of
                ``scores_tensor`` in ascending order, ``positive_i`` the items.
        """
        if self.register.need("rec.positives"):
            self.data_struct.update_tensor("rec.positives", positive_i)
        if any(map(self.register.need, NOT_AT_K)):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        n_users, n_items = scores_tensor.shape
        best = scores_tensor.topk(max(self.topk), dim=-1)
        if best.values.isnan().any():  # PyTorch ranks NaN first, so any NaN is among the best; rank it last
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
        """Returns everything that was collected, for the users of all processes."""
        for key in [*self.data_struct._data_dict] if self.shared_out else ():
            if key.startswith("rec.") or key == "data.label":
                self.data_struct[key] = distributed.gather(self.data_struct[key])
        return super().get_data_struct()


class RankingEvaluator(Evaluator):
    """RecBole's evaluator, but with the metric classes in the records of ``recbole_symcere.metrics``."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name in self.metric_class:
            if function := metric_of(name).function:
                self.metric_class[name] = function(config)

    def evaluate(self, dataobject: DataStruct) -> Mapping[str, float]:
        """Returns the value of each metric, and keeps ``dataobject`` for :meth:`of_each_user`."""
        self._ranked = dataobject
        return super().evaluate(dataobject)

    def of_each_user(self) -> dict[str, np.ndarray]:
        """Returns the last evaluation's value of each user, for metrics that are means over users.

        Returns:
            ``{"ndcg@10": [n_users], ...}``, with users in the order of the dataloader. A user who does not count in
            the mean has the value NaN.
        """
        values: dict[str, np.ndarray] = {}
        for name, metric in self.metric_class.items():
            if isinstance(metric, recbole_metrics.TopkMetric):
                hits_and_relevant = metric.used_info(self._ranked)
                of_users = metric.metric_info(*hits_and_relevant[: len(signature(metric.metric_info).parameters)])
                values |= {f"{name}@{k}": of_users[:, k - 1] for k in metric.topk}
        return values
