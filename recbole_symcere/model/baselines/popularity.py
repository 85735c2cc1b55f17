"""Scorers that count interactions: recent ones, those that came later, and the user's own."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.decay import decayed_counts
from recbole_symcere.known import Known, asking_moments
from recbole_symcere.model.baselines.history import history_matrix, last_moments, moments
from recbole_symcere.model.baselines.untrained import UserScorer


class RecentPop(UserScorer):
    """Scores an item by its training interactions, of which each counts half as much with every half-life that passed.

    The score is the sum of 2^(-(now - t) / half-life) over the item's interactions at moments t up to ``now``. Where
    each user's history is split by itself, ``now`` is the moment of the user's own last interaction that is known when
    the user is ranked, so the score holds nothing that came later: for validation it is the last one in training, and
    for the test part the last one in validation. Under one cut in time for everybody, and for users without training
    interactions, it is the moment of the last training interaction of all. Popularity at the user's own time is from
    Ji et al., "A Re-visit of the Popularity Baseline in Recommender Systems" (SIGIR 2020).

    Args:
        config: see ``properties/model/RecentPop.yaml``.
        dataset: the interactions that train.

    Raises:
        DatasetError: the interactions have no times.
    """

    folds_in = True
    ranks_new_items = True
    now: Tensor
    moment: Tensor
    item: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.half_life = config["half_life"]
        self.register_buffer("moment", moments(dataset), persistent=False)
        self.register_buffer("now", asking_moments(config, dataset), persistent=False)
        self.register_buffer("item", dataset.inter_feat[dataset.iid_field], persistent=False)

    def about_to_rank(self, known: Known) -> None:
        """Sets ``now`` of each user, or of each question."""
        super().about_to_rank(known)
        if known.moments is not None:
            self.now = known.moments.to(self.now)

    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users, [B, n_items] float64."""
        now, place = self.now[users].unique(return_inverse=True)
        met = self.asked if self.asked and self.asked.goes_on else self
        return decayed_counts(met.item, met.moment, self.half_life, self.n_items, now)[place]


class LaterPopularity(UserScorer):
    """Scores an item by how often others met it in training after the user's last training interaction.

    Ties are broken by the number of all training interactions. The model can't be deployed, because nobody knows the
    future: it shows how much of it a split per user tells. Under one cut in time the users who were there until the cut
    have nothing later, and the model ranks by popularity for them; only for users who left before the cut does it still
    look ahead, and never beyond the cut. A user without training interactions gets popularity, too.

    Args:
        config: the model has no settings of its own.
        dataset: the interactions that train.

    Raises:
        DatasetError: the interactions have no times.
    """

    is_probe = True
    last: Tensor
    moment: Tensor
    item: Tensor
    tie_break: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        items = dataset.inter_feat[dataset.iid_field]
        self.register_buffer("last", last_moments(dataset), persistent=False)
        self.register_buffer("moment", moments(dataset), persistent=False)
        self.register_buffer("item", items, persistent=False)
        self.register_buffer("tie_break", _below_one(torch.bincount(items, minlength=self.n_items)), persistent=False)

    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users, [B, n_items] float64."""
        last, place = self.last[users].unique(return_inverse=True)
        n_before = torch.searchsorted(last, self.moment)  # the number of moments strictly before the interaction
        size = (len(last) + 1) * self.n_items
        counts = torch.bincount(n_before * self.n_items + self.item, minlength=size).view(-1, self.n_items)
        later = counts.flip(0).cumsum(0).flip(0)[1:]
        return later[place] + self.tie_break


class Repurchase(UserScorer):
    """Scores a pair by how often the user met the item in training, and then by how often anybody met the item.

    The model shows what repeated pairs do to a protocol that keeps them. Where a user's history is masked, the model
    ranks by popularity.

    Args:
        config: the model has no settings of its own.
        dataset: the interactions that train.
    """

    is_probe = True
    met: Tensor
    tie_break: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        met = history_matrix(dataset, half_life=None).double()
        self.register_buffer("met", met, persistent=False)
        self.register_buffer("tie_break", _below_one(met.sum(0).to_dense()), persistent=False)

    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users, [B, n_items] float64."""
        return self.met.index_select(0, users).to_dense() + self.tie_break


def _below_one(popularity: Tensor) -> Tensor:
    """Scales popularity below 1, so that added to whole numbers it only breaks ties; float64 [n_items]."""
    return popularity.double() / (1 + popularity.max())
