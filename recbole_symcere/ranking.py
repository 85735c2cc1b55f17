"""Full ranking of all users with the same results as RecBole, but without the work that RecBole repeats each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from math import nan
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import recbole.evaluator.metrics as recbole_metrics
import torch
from recbole.config import Config
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from torch import Tensor

from recbole_symcere import distributed
from recbole_symcere.best_items import top_items
from recbole_symcere.known import Known
from recbole_symcere.metrics import metric_of
from recbole_symcere.questions import QUESTION, Questions, spans

if TYPE_CHECKING:
    from recbole_symcere.data.dataset import ReviewDataset

# Pairs that a model scores at once which knows no faster way. What a CPU computes of them should fit in its caches.
PAIRS_ON_CPU, PAIRS_ON_GPU = 2**12, 2**18
NOT_AT_K = ("rec.meanrank", "rec.score", "data.label")  # resources of metrics that need more than the best k items


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics as plain numbers, because those of RecBole are NumPy's."""
    return {name: float(value) for name, value in metrics.items()}


class RankingDataLoader(FullSortEvalDataLoader):
    """RecBole's dataloader of users to rank, but from two sorted tensors in place of a Python set for each user.

    A batch holds the histories and the held-out items of its users. It is assembled only once, because the batches
    never change. If several processes rank, each of them gets a share of the users.

    Args:
        config: the configuration.
        dataset: the part to rank. Its interactions are sorted by user, as RecBole does it.
        earlier: the parts that the histories come from. An item that is held out of a user is not in the history.

    Attributes:
        known: what is known before the part.
    """

    known: Known

    def __init__(self, config: Config, dataset: ReviewDataset, earlier: Sequence[ReviewDataset]) -> None:
        self._batches: dict[tuple[int, int], Any] = {}
        self.is_sequential = False
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        dataset.sort(by=self.uid_field, ascending=True)
        self._n_items = dataset.item_num
        self._held_out = pairs_of([dataset])
        met = pairs_of(earlier)
        self._met = met[~torch.isin(met, self._held_out)]
        self.uid_list = (self._held_out // self._n_items).unique_consecutive()
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))
        self.sample_size = len(self.uid_list)
        AbstractDataLoader.__init__(self, config, dataset, None, shuffle=False)

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
            self._batches[key] = self._assembled(index)
        return self._batches[key]

    def _assembled(self, index: list[int]) -> Any:
        numbers = torch.tensor(index)
        users = self.uid_list[numbers]
        return self.user_df[numbers], self._of(users, self._met), *self._of(users, self._held_out)

    def _of(self, users: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the items that some users [B] have in sorted pairs: the position in ``users``, and the item."""
        start, end = (torch.searchsorted(pairs, (users + more) * self._n_items) for more in (0, 1))
        owner, place = spans(start, end)
        return owner, pairs[place] % self._n_items

    @property
    def uid2history_item(self) -> np.ndarray:
        """The history of each user, which functions of RecBole such as ``full_sort_topk`` read; [n_users] of [n]."""
        return self._by_user(self._met)

    @property
    def uid2positive_item(self) -> np.ndarray:
        """The held-out items of each user, [n_users] of [n]."""
        return self._by_user(self._held_out)

    def _by_user(self, pairs: Tensor) -> np.ndarray:
        found = np.empty(self._dataset.user_num, dtype=object)
        n = torch.bincount(pairs // self._n_items, minlength=len(found))
        for user, items in enumerate((pairs % self._n_items).split(n.tolist())):
            found[user] = items
        return found


def pairs_of(parts: Sequence[ReviewDataset]) -> Tensor:
    """Returns the different pairs of user and item in some parts as sorted numbers, user times items plus item."""
    return torch.cat(
        [part.inter_feat[part.uid_field] * part.item_num + part.inter_feat[part.iid_field] for part in parts]
    ).unique()


class QuestionDataLoader(RankingDataLoader):
    """A dataloader of questions, each with the number of its user; see ``recbole_symcere.questions``."""

    def __init__(self, config: Config, dataset: ReviewDataset, questions: Questions) -> None:
        self._batches = {}
        self._questions = questions
        self.is_sequential = False
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.uid_list = questions.user
        self.user_df = Interaction({self.uid_field: questions.user, QUESTION: torch.arange(len(questions))})
        self.sample_size = len(questions)
        AbstractDataLoader.__init__(self, config, dataset, None, shuffle=False)

    def _assembled(self, index: list[int]) -> Any:
        numbers, items = torch.tensor(index), self._questions.item
        (met_by, met), (held_out_of, held_out) = self._questions.met(numbers), self._questions.held_out(numbers)
        return self.user_df[numbers], (met_by, items[met]), held_out_of, items[held_out]


class RankingCollector(Collector):
    """A collector that ranks once for all metrics, and finds hits without a table of users x items.

    RecBole's own collector ranks twice and fills such a table.

    Attributes:
        shared_out: whether several processes each collect for their own users.
        known: what is known before the part that is ranked; None if nobody says it.
    """

    register: Any
    shared_out = False
    known: Known | None = None

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Collects what the metrics read of a batch, as RecBole's collector does.

        Args:
            scores_tensor: [n_users, n_items] float.
            interaction: the users, one for each row of the scores.
            positive_u, positive_i: [n] long, the held-out pairs, each once. ``positive_u`` has the rows of
                ``scores_tensor`` in ascending order, ``positive_i`` the items.
        """
        if self.register.need("rec.positives"):
            self.data_struct.update_tensor("rec.positives", positive_i)
        users = interaction[self.config["USER_ID_FIELD"]].to(scores_tensor.device)
        self.data_struct.update_tensor("rec.user", users)
        asked = self.known.asked(interaction, self.config["USER_ID_FIELD"]) if self.known else users
        if self.known and self.known.questions:
            self.data_struct.update_tensor("rec.now", self.known.questions.now[asked])
        if self.known and self.register.need("rec.history"):
            self.data_struct.update_tensor("rec.history", self.known.history[asked])
        if self.known and self.register.need("data.seen"):
            self.data_struct.set("data.seen", self.known.seen)
        if any(map(self.register.need, NOT_AT_K)):
            self._collect_what_needs_all_scores(scores_tensor, interaction, positive_u, positive_i)
        n_users, n_items = scores_tensor.shape
        values, items = top_items(scores_tensor, users, max(self.topk))
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", items)
        if self.register.need("rec.topk"):
            row = torch.arange(n_users, device=items.device)
            positive_u, positive_i = positive_u.to(row.device), positive_i.to(row.device)
            hits = torch.isin(row[:, None] * n_items + items, positive_u * n_items + positive_i)
            hits &= values > -torch.inf  # an item that is not ranked for a user is no hit
            relevant = torch.bincount(positive_u, minlength=n_users)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, relevant[:, None]], dim=1).int())

    def _collect_what_needs_all_scores(self, *batch: Any) -> None:
        """Lets RecBole's collector collect the resources ``NOT_AT_K``, and no others."""
        register = self.register
        self.register = SimpleNamespace(need=lambda key: key in NOT_AT_K and register.need(key))
        try:
            super().eval_batch_collect(*batch)
        finally:
            self.register = register

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
        """Returns the value of each metric, and keeps ``dataobject``, what was ranked, as ``ranked``.

        A user with several questions counts once, by the mean over the questions.
        """
        self.ranked = dataobject
        found = super().evaluate(dataobject)
        if len(self.users) < len(dataobject.get("rec.user")):
            for name, values in self.of_each_user().items():
                counted = values[~np.isnan(values)]
                found[name] = round(float(counted.mean()), self.config["metric_decimal_place"]) if len(counted) else nan
        return found

    @property
    def users(self) -> np.ndarray:
        """The users of the last evaluation, ascending."""
        return np.unique(self.ranked.get("rec.user").numpy())

    def of_each_user(self) -> dict[str, np.ndarray]:
        """Returns the last evaluation's value of each user, for metrics that are means over users.

        Returns:
            ``{"ndcg@10": [n_users], ...}``, in the order of ``users``. A user who does not count in the mean has the
            value NaN.
        """
        values, users = self.of_each_row(), self.ranked.get("rec.user").numpy()
        frame = pl.DataFrame({"user": users} | values).fill_nan(None)
        means = frame.group_by("user").mean().sort("user").fill_null(nan)
        return {name: means[name].to_numpy() for name in values}

    def of_each_row(self) -> dict[str, np.ndarray]:
        """Returns what :meth:`of_each_user` does, but for each question where there are questions."""
        values: dict[str, np.ndarray] = {}
        for name, metric in self.metric_class.items():
            if isinstance(metric, recbole_metrics.TopkMetric):
                hits_and_relevant = metric.used_info(self.ranked)
                of_users = metric.metric_info(*hits_and_relevant[: len(signature(metric.metric_info).parameters)])
                values |= {f"{name}@{k}": of_users[:, k - 1] for k in metric.topk}
        return values


def joined(ranked: Sequence[DataStruct]) -> DataStruct:
    """Returns what was ranked in several evaluations as if it were one; what is not of users is that of the first."""
    whole = DataStruct()
    for key, value in ranked[0]._data_dict.items():
        of_users = key.startswith("rec.")
        whole.set(key, torch.cat([one.get(key) for one in ranked]) if of_users else value)
    return whole


class RankingTrainer(Trainer):
    """RecBole's trainer, but with the dataloaders, the collector and the evaluator of this module."""

    def __init__(self, config: Config, model: AbstractRecommender) -> None:
        super().__init__(config, model)
        self.eval_collector = RankingCollector(config)
        self.evaluator = RankingEvaluator(config)
        if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:
            # Such a model scores each (user, item) pair alone and may need kilobytes for it; others need 4 bytes.
            at_once = PAIRS_ON_CPU if self.device.type == "cpu" else PAIRS_ON_GPU
            self.test_batch_size = min(config["eval_batch_size"], at_once)

    def evaluate(self, eval_data: AbstractDataLoader, *args: Any, **kwargs: Any) -> Mapping[str, float]:
        """Ranks as RecBole does; what the dataloader says is known before the part is applied to all scores."""
        self.eval_collector.shared_out = distributed.world_size() > 1 and isinstance(eval_data, RankingDataLoader)
        known: Known | None = getattr(eval_data, "known", None)  # a dataloader of RecBole has none
        self.eval_collector.known = known.to(self.device) if known else None
        if known:
            self.model.about_to_rank(known)
        return super().evaluate(eval_data, *args, **kwargs)

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Interaction, Tensor, Tensor, Tensor]:
        interaction, *others = batched_data
        users = interaction
        if (known := self.eval_collector.known) and known.questions and self.model.folds_in:
            users = Interaction({self.config["USER_ID_FIELD"]: interaction[QUESTION]})
        _, *scored = super()._full_sort_batch_eval((users, *others))
        return self._ranked(interaction, *scored)

    def _neg_sample_batch_eval(self, batched_data: Any) -> tuple[Interaction, Tensor, Tensor, Tensor]:
        interaction, *others = super()._neg_sample_batch_eval(batched_data)
        row = batched_data[1]  # the row of the scores for each pair of the batch, in ascending order
        first_of_row = torch.cat([row.new_zeros(1), row.diff().nonzero().flatten() + 1])
        return self._ranked(interaction[first_of_row], *others)

    def _ranked(
        self, interaction: Interaction, scores: Tensor, positive_u: Tensor, positive_i: Tensor
    ) -> tuple[Interaction, Tensor, Tensor, Tensor]:
        if known := self.eval_collector.known:
            scores = known.ranked(scores, known.asked(interaction, self.config["USER_ID_FIELD"]), self.model)
        return interaction, scores, positive_u, positive_i
