"""Checks a split for leaks before training."""

from dataclasses import dataclass

import numpy as np

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import LeakError


@dataclass(frozen=True)
class Audit:
    """The number of faults of each kind in a split.

    Attributes:
        test_pairs: the number of different (user, item) pairs in the test part.
        recurring_pairs: how many of these pairs also occur in training or validation. RecBole does not mask such pairs
            in the ranking.
        reachable_texts: the number of reviews of held-out interactions that the text encoder can reach.
        time_inversions: if each user's history is split by itself, the number of users with a training interaction
            later than one of their held-out interactions; if all interactions are split together, the number of
            held-out interactions earlier than the last training interaction. None if the interactions have no times,
            so that nobody knows.
        untrained_users, untrained_items: the numbers of users and of items in the test part without an interaction in
            training. They are ranked by vectors that nothing trained, which is no leak.
    """

    test_pairs: int
    recurring_pairs: int
    reachable_texts: int
    time_inversions: int | None
    untrained_users: int
    untrained_items: int

    @property
    def leaks(self) -> bool:
        """Whether anything that training must not know reaches it."""
        return bool(self.recurring_pairs or self.reachable_texts or self.time_inversions)

    def __str__(self) -> str:
        share = self.recurring_pairs / max(self.test_pairs, 1)
        inversions = "time inversions not checked, since no times are loaded"
        if self.time_inversions is not None:
            inversions = f"{self.time_inversions:,} time inversions"
        return (
            f"audit: {self.recurring_pairs:,} of {self.test_pairs:,} test pairs recur from training ({share:.1%}), "
            f"{self.reachable_texts:,} held-out texts reachable by the encoder, "
            f"{inversions}; of the test part, {self.untrained_users:,} users and {self.untrained_items:,} items never "
            "trained"
        )

    def check(self) -> None:
        """Checks that there are no leaks.

        Raises:
            LeakError: there is one.
        """
        if self.leaks:
            raise LeakError(
                f"{self}. To mend it: rm_dup_inter: first removes recurring pairs, and order: TO in eval_args removes "
                "time inversions; where benchmark_filename names the parts, mend their files; audit: warn trains in "
                "spite of leaks"
            )


def audit(train: ReviewDataset, valid: ReviewDataset, test: ReviewDataset) -> Audit:
    """Counts the faults of a split from its three parts."""
    held_out_part = [part for part in (valid, test) if len(part)]
    earlier = np.concatenate([_pairs(part) for part in (train, valid) if len(part)])
    test_pairs = np.unique(_pairs(test)) if len(test) else np.empty(0, np.int64)
    return Audit(
        test_pairs=len(test_pairs),
        recurring_pairs=int(np.isin(test_pairs, earlier).sum()),
        reachable_texts=sum(_reachable_texts(train, part) for part in held_out_part),
        time_inversions=_time_inversions(train, held_out_part),
        untrained_users=_untrained(train, test, train.uid_field),
        untrained_items=_untrained(train, test, train.iid_field),
    )


def _untrained(train: ReviewDataset, test: ReviewDataset, field: str) -> int:
    return len(np.setdiff1d(_column(test, field), _column(train, field)))


def _pairs(part: ReviewDataset) -> np.ndarray:
    """Returns a number for each interaction, which is the same only for the same user and item."""
    return _column(part, part.uid_field) * part.item_num + _column(part, part.iid_field)


def _column(part: ReviewDataset, field: str) -> np.ndarray:
    return part.inter_feat[field].numpy()


def _reachable_texts(train: ReviewDataset, held_out: ReviewDataset) -> int:
    if not train.has_reviews:
        return 0
    rows = train.review_rows()[held_out.inter_feat[train.review_field]]
    return int((rows < len(train)).sum())


def _time_inversions(train: ReviewDataset, held_out: list[ReviewDataset]) -> int | None:
    if train.time_field not in train.inter_feat:
        return None
    if not held_out:
        return 0
    time, user = train.time_field, train.uid_field
    if train.config["eval_args"]["group_by"] == "user":
        last_trained = np.full(train.user_num, -np.inf)
        np.maximum.at(last_trained, _column(train, user), _column(train, time))
        first_held_out = np.full(train.user_num, np.inf)
        for part in held_out:
            np.minimum.at(first_held_out, _column(part, user), _column(part, time))
        return int((last_trained > first_held_out).sum())
    cut = _column(train, time).max()
    return int(sum((_column(part, time) < cut).sum() for part in held_out))
