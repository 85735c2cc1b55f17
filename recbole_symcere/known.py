"""What is known before a part is ranked, and how every ranking uses it.

1. With ``candidates: seen``, only items that somebody met before the part are ranked.
2. With ``cold_users: recent_popularity``, an item without a training interaction comes last, and a user without one is
   ranked by recent popularity. The vectors of such items and users are random, so no model is praised or blamed for
   them. Only a model that ranks such users by what needs no history keeps its scores (``ranks_strangers``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_symcere.decay import decayed_counts
from recbole_symcere.questions import QUESTION, Questions, questions_of

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_symcere.config import Config
    from recbole_symcere.data.dataset import ReviewDataset

HALF_LIVES = (math.inf, 730.0, 365.0, 180.0, 90.0, 30.0, 7.0)  # days
STRANGER, VALIDATION_ONLY, TRAINED = range(3)  # the history of a user before the part


class Ranks(Protocol):
    """Says whether scores of strangers and of new items are the model's own, by two attributes of ``Recommender``."""

    @property
    def ranks_strangers(self) -> bool: ...

    @property
    def ranks_new_items(self) -> bool: ...


@dataclass(frozen=True)
class Known:
    """What is known before a part is ranked. Where there are questions, each of them stands in the place of a user.

    Attributes:
        history: STRANGER, VALIDATION_ONLY or TRAINED for each user, [n_users] long.
        seen: whether an item occurs before the part, [n_items] bool.
        unranked: items that are no candidates, [n] long.
        last: items that come last, [n] long.
        cold: whether a user is ranked by recent popularity, [n_users] bool.
        moments: for which time each user is ranked, [n_users] float64: see :func:`asking_moments`. None if the
            interactions have no times.
        recent: the place of each item by recent popularity, from the least popular, [n_items] float.
        half_life: that of the recent popularity, in days.
        validates: whether the part is validation, of whose interactions a model may have learned.
        questions: for whom and for when the part is ranked, if not for each user once.
        listed: [n_items] float64, the moment from which on each item is a candidate, if the list of items goes on.
    """

    history: Tensor
    seen: Tensor
    unranked: Tensor
    last: Tensor
    cold: Tensor
    moments: Tensor | None
    recent: Tensor
    half_life: float
    validates: bool
    questions: Questions | None = None
    listed: Tensor | None = None

    def to(self, device: torch.device) -> Known:
        """Returns a copy whose tensors are on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Questions)
        }
        return replace(self, **moved)

    def asked(self, interaction: Interaction, user_field: str) -> Tensor:
        """Returns the users of a batch by their numbers here: those of questions, or else of users, [B] long."""
        return interaction[QUESTION if self.questions else user_field].to(self.cold.device)

    def ranked(self, scores: Tensor, users: Tensor, model: Ranks) -> Tensor:
        """Returns the scores by which a part is ranked, and overwrites ``scores`` with them.

        Args:
            scores: [B, n_items], the scores of the model; -inf for what is not ranked.
            users: [B] long, their numbers here.
            model: whose scores of users and items without a training interaction are kept if it says so.
        """
        if not (self.listed is not None and model.ranks_new_items):
            scores[:, self.last] = scores[:, self.last].where(scores[:, self.last] == -torch.inf, _lowest(scores))
        if not model.ranks_strangers:
            cold = self.cold[users].nonzero().flatten()
            recent = self._recent_for(users[cold]).to(scores.dtype)
            scores[cold] = scores[cold].where(scores[cold] == -torch.inf, recent)
        scores[:, self.unranked] = -torch.inf
        if self.listed is not None and self.moments is not None:
            scores[self.listed > self.moments[users, None]] = -torch.inf
        return scores

    def _recent_for(self, users: Tensor) -> Tensor:
        """Returns the place of each item by recent popularity for some users, [B, n_items] or [n_items]."""
        if self.questions is None or not self.questions.goes_on or not len(users):
            return self.recent
        asked = self.questions
        now, place = asked.now[users].unique(return_inverse=True)
        popularity = decayed_counts(asked.item, asked.moment, self.half_life, len(self.seen), now)
        return torch.stack([_places(of_items) for of_items in popularity])[place]


def _lowest(scores: Tensor) -> Tensor:
    return scores.new_tensor(torch.finfo(scores.dtype).min)


def known_before(
    config: Config,
    train: ReviewDataset,
    valid: ReviewDataset | None,
    refit: bool,
    part: ReviewDataset | None = None,
) -> Known:
    """Returns what is known before validation, or before the test part.

    Args:
        train: the training part.
        valid: the validation part, if the test part is ranked.
        refit: whether the model that ranks was trained on both.
        part: the part that is ranked, if its interactions may make questions; None ranks each user once.
    """
    earlier = train if valid is None else train.joined_with(valid)
    trained_on = earlier if refit else train
    seen = _occurring(earlier, earlier.iid_field, earlier.item_num)
    history = torch.zeros(train.user_num, dtype=torch.long)
    history[earlier.inter_feat[earlier.uid_field]] = VALIDATION_ONLY
    history[train.inter_feat[train.uid_field]] = TRAINED
    unranked = ~seen if config["candidates"] == "seen" else torch.zeros_like(seen)
    last = ~_occurring(trained_on, train.iid_field, train.item_num)
    cold = ~_occurring(trained_on, train.uid_field, train.user_num)
    if config["cold_users"] == "model":
        last, cold = torch.zeros_like(last), torch.zeros_like(cold)
    # Under a split per user, nobody but the padding is cold.
    nobody = torch.zeros(train.item_num), math.inf
    recent, half_life = recent_popularity(earlier) if cold[1:].any() or config["questions"] == "days" else nobody
    known = Known(
        history=history,
        seen=seen,
        cold=cold,
        moments=asking_moments(config, earlier) if earlier.time_field in earlier.inter_feat else None,
        recent=recent,
        half_life=half_life,
        validates=valid is None,
        unranked=unranked.nonzero().flatten(),
        last=last.nonzero().flatten(),
    )
    questions = None if part is None else questions_of(config, earlier, part)
    return known if questions is None else _of_questions(config, known, questions)


def _of_questions(config: Config, known: Known, asked: Questions) -> Known:
    """Returns what is known before a part whose users are questions."""
    has_history = asked.n_met > 0
    history = known.history[asked.user]
    history[(history == STRANGER) & has_history] = VALIDATION_ONLY
    cold = known.cold[asked.user]
    if config.model_class.folds_in and config["cold_users"] != "model":
        cold = ~has_history
    lists = asked.goes_on and config["candidates"] == "seen"
    return replace(
        known,
        questions=asked,
        history=history,
        cold=cold,
        moments=asked.now,
        unranked=known.unranked[:0] if lists else known.unranked,
        listed=asked.first if lists else None,
    )


def asking_moments(config: Config, earlier: ReviewDataset) -> Tensor:
    """Returns for which time each user is ranked, float64 [n_users], in seconds.

    Where each user's history is split by itself, this is the time of the user's own last interaction, so that nothing
    later need be known. Under one cut in time for everybody it is the last time of all.

    Args:
        earlier: what is known; its interactions have times.
    """
    feat = earlier.inter_feat
    last = last_moments(feat[earlier.uid_field], feat[earlier.time_field], earlier.num(earlier.uid_field))
    return last if config["eval_args"]["group_by"] == "user" else last.max().expand(len(last)).clone()


def last_moments(users: Tensor, times: Tensor, n_users: int) -> Tensor:
    """Returns the time of each user's last interaction; the last time of all for a user who has none.

    Args:
        users, times: [n] of the interactions.

    Returns:
        [n_users] float64.
    """
    times = times.double()
    last = torch.full((n_users,), -torch.inf, dtype=times.dtype).scatter_reduce_(0, users, times, "amax")
    return torch.where(last.isinf(), times.max(), last)


def _occurring(part: ReviewDataset, field: str, n: int) -> Tensor:
    found = torch.zeros(n, dtype=torch.bool)
    found[part.inter_feat[field]] = True
    return found


def recent_popularity(part: ReviewDataset) -> tuple[Tensor, float]:
    """Ranks items by their popularity at the end of a part, in which an interaction counts less the older it is.

    The half-life is the one of ``HALF_LIVES`` whose popularity, taken from the first nine tenths of the interactions,
    ranks the items of the last tenth best (in NDCG@10). Nothing outside the part is looked at.

    Returns:
        The place of each item, from the least popular and the same for equally popular ones, [n_items] float; and the
        half-life in days, which is infinite if the interactions have no times.
    """
    items = part.inter_feat[part.iid_field]
    has_times = part.time_field in part.inter_feat
    times = part.inter_feat[part.time_field].double() if has_times else torch.zeros(len(items)).double()
    order = times.argsort(stable=True)
    earlier, later = order.tensor_split([len(order) - len(order) // 10])

    def popularity_of(rows: Tensor, half_life: float) -> np.ndarray:
        last = times[rows].max()[None]
        return decayed_counts(items[rows], times[rows], half_life, part.item_num, last)[0].numpy()

    def gain(half_life: float) -> float:
        popularity = popularity_of(earlier, half_life)
        place = np.empty(part.item_num, np.int64)
        place[np.argsort(-popularity, kind="stable")] = np.arange(part.item_num)
        of_rows = place[items[later].numpy()]
        return float((1 / np.log2(of_rows[of_rows < 10] + 2)).sum())

    half_life = max(HALF_LIVES, key=gain)  # the longest of several that are equally good
    return _places(torch.from_numpy(popularity_of(order, half_life))), half_life


def _places(popularity: Tensor) -> Tensor:
    """Returns the place of each item, from the least popular and the same for equally popular ones, float [n]."""
    return popularity.unique(return_inverse=True)[1].float()
