"""Full ranking of all users, as RecBole evaluates it, without what RecBole does anew at every evaluation."""

from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector
from torch import Tensor

NOT_AT_K = ("rec.meanrank", "rec.score", "data.label")  # what metrics that need more than the best k read


class RankingDataLoader(FullSortEvalDataLoader):
    """The batches of users, with their histories and positives, are put together once: they are always the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._batches: dict[tuple[int, int], Any] = {}
        super().__init__(*args, **kwargs)

    def update_config(self, config: Any) -> None:
        self._batches.clear()
        super().update_config(config)

    def collate_fn(self, index: list[int]) -> Any:
        key = (index[0], len(index))
        if key not in self._batches:
            self._batches[key] = super().collate_fn(index)
        return self._batches[key]


class RankingCollector(Collector):
    """One top-k for all metrics, and hits looked up by key: RecBole ranks twice and fills a users x items table."""

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """As RecBole's.

        Args:
            scores_tensor: [n_users, n_items].
            positive_u, positive_i: [n] long, rows of ``scores_tensor`` and items that belong to them, each pair once.
        """
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
