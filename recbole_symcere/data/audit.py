"""Checks a split for leaks before training, and counts what else decides a ranking beside the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import LeakError

CHOSEN_ON_TEST = "epochs and settings are chosen on the part that is reported, so all its numbers are too high"


@dataclass(frozen=True)
class Strangers:
    """The users and items of a held-out part without an interaction in training. Nothing trains their vectors.

    Attributes:
        rows: the number of interactions of the part.
        users, items: the numbers of such users and items.
        user_rows, item_rows: the numbers of the part's interactions that they have.
    """

    rows: int
    users: int
    items: int
    user_rows: int
    item_rows: int

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.users or self.items)

    def __str__(self) -> str:
        return (
            f"{self.users:,} users ({_share(self.user_rows, self.rows)} of the rows) and {self.items:,} items "
            f"({_share(self.item_rows, self.rows)} of the rows) have no training interaction"
        )


@dataclass(frozen=True)
class Audit:
    """What a split lets through.

    Attributes:
        test_pairs: the number of different (user, item) pairs in the test part.
        recurring_pairs: how many of these pairs also occur in training or validation. RecBole does not mask such pairs
            in the ranking.
        reachable_texts: the number of reviews of held-out interactions that the text encoder can reach.
        time_inversions: if each user's history is split by itself, the number of users with a training interaction
            later than one of their held-out interactions; if all interactions are split together, the number of
            held-out interactions earlier than the last training interaction. None if the interactions have no times,
            so that nobody knows.
        users: the number of users with interactions on both sides of a cut.
        tied_cuts: how many of them have interactions of the same time on both sides, so that ``tie_break`` decides what
            is held out; None if the interactions have no times.
        others_future: the share of the training interactions that are later than the first held-out one of a user,
            which a model knows when it ranks for that user, as a mean over users; None if the interactions have no
            times.
        unseen_candidates: if one cut is for all, the number of held-out items that nobody met before the cut and that
            are ranked all the same, so that the list of candidates tells the future.
        strangers: users and items without training, by ``validation`` or ``test``; a part that is empty is left out.
        chosen_on_test: whether the part that is reported is validation, too.
    """

    test_pairs: int
    recurring_pairs: int
    reachable_texts: int
    time_inversions: int | None
    users: int
    tied_cuts: int | None
    others_future: float | None
    unseen_candidates: int
    strangers: dict[str, Strangers]
    chosen_on_test: bool = False

    @property
    def leaks(self) -> bool:
        """Whether anything that training must not know reaches it, or the choice of its best epoch."""
        return bool(self.recurring_pairs or self.reachable_texts or self.time_inversions or self.chosen_on_test)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"audit: {self._leaks()}",
                *([f"  CHOSEN ON TEST: {CHOSEN_ON_TEST}"] if self.chosen_on_test else []),
                *([f"  ties: {self._ties()}"] if self.tied_cuts else []),
                *([f"  time: {self._time()}"] if self.others_future else []),
                *([f"  candidates: {self._candidates()}"] if self.unseen_candidates else []),
                *(f"  {part}: {strangers}" for part, strangers in self.strangers.items() if strangers.any),
            ]
        )

    def _leaks(self) -> str:
        inversions = "time inversions not checked, since no times are loaded"
        if self.time_inversions is not None:
            inversions = f"{self.time_inversions:,} time inversions"
        return (
            f"{self.recurring_pairs:,} of {self.test_pairs:,} test pairs recur from training "
            f"({_share(self.recurring_pairs, self.test_pairs)}), {self.reachable_texts:,} held-out texts reachable by "
            f"the encoder, {inversions}"
        )

    def _ties(self) -> str:
        return (
            f"the cuts of {self.tied_cuts:,} of {self.users:,} users ({_share(self.tied_cuts or 0, self.users)}) fall "
            "between interactions of the same time, so tie_break decides what is held out"
        )

    def _time(self) -> str:
        return (
            f"{self.others_future:.1%} of the training interactions are later than the first held-out one of the user "
            "for whom they are used (mean over users), so models know the future of others; --protocol=temporal has "
            "one cut for all"
        )

    def _candidates(self) -> str:
        return (
            f"{self.unseen_candidates:,} held-out items that nobody met before the cut are ranked, and a list that "
            "begins with them, in any order, beats many models; candidates: seen leaves them out"
        )

    def check(self) -> None:
        """Checks that there are no leaks.

        Raises:
            LeakError: there is one.
        """
        if self.leaks:
            raise LeakError(
                f"audit: {self._leaks()}{f'; {CHOSEN_ON_TEST}' if self.chosen_on_test else ''}. To mend it: "
                "rm_dup_inter: first removes recurring pairs, order: TO in eval_args removes time inversions, and "
                "three shares in its split make a part for choosing; where benchmark_filename names the parts, mend "
                "their files; audit: warn trains in spite of leaks"
            )


def audit(train: ReviewDataset, valid: ReviewDataset, test: ReviewDataset) -> Audit:
    """Looks at the three parts of a split; validation may be empty, or the same as test."""
    held_out = {name: part for name, part in (("validation", valid), ("test", test)) if len(part)}
    if valid is test:
        del held_out["validation"]
    parts = [train, *held_out.values()]
    earlier = np.concatenate([_pairs(part) for part in parts if part is not test])
    test_pairs = np.unique(_pairs(test)) if len(test) else np.empty(0, np.int64)
    both_sides, tied = _cuts(parts)
    return Audit(
        test_pairs=len(test_pairs),
        recurring_pairs=int(np.isin(test_pairs, earlier).sum()),
        reachable_texts=sum(_reachable_texts(train, part) for part in held_out.values()),
        time_inversions=_time_inversions(train, list(held_out.values())),
        users=both_sides,
        tied_cuts=tied,
        others_future=_others_future(train, list(held_out.values())),
        unseen_candidates=_unseen_candidates(parts),
        strangers={name: _strangers(train, part) for name, part in held_out.items()},
        chosen_on_test=valid is test,
    )


def _unseen_candidates(parts: Sequence[ReviewDataset]) -> int:
    config = parts[0].config
    if config["candidates"] == "seen" or config["eval_args"]["group_by"] == "user":
        return 0
    items = [_column(part, part.iid_field) for part in parts]
    return len(np.setdiff1d(items[-1], np.concatenate(items[:-1])))


def _share(count: int, of: int) -> str:
    return f"{count / max(of, 1):.1%}"


def _strangers(train: ReviewDataset, part: ReviewDataset) -> Strangers:
    unmet = {field: ~np.isin(_column(part, field), _column(train, field)) for field in (part.uid_field, part.iid_field)}
    users, items = (len(np.unique(_column(part, field)[rows])) for field, rows in unmet.items())
    return Strangers(len(part), users, items, *(int(rows.sum()) for rows in unmet.values()))


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


def _time_inversions(train: ReviewDataset, held_out: Sequence[ReviewDataset]) -> int | None:
    if train.time_field not in train.inter_feat:
        return None
    if not held_out:
        return 0
    if train.config["eval_args"]["group_by"] == "user":
        return int((_last(train) > _first(held_out)).sum())
    cut = _column(train, train.time_field).max()
    return int(sum((_column(part, train.time_field) < cut).sum() for part in held_out))


def _last(part: ReviewDataset) -> np.ndarray:
    """Returns the time of each user's last interaction in a part, [n_users]; -inf for a user who has none."""
    last = np.full(part.user_num, -np.inf)
    np.maximum.at(last, _column(part, part.uid_field), _column(part, part.time_field))
    return last


def _first(parts: Sequence[ReviewDataset]) -> np.ndarray:
    """Returns the time of each user's first interaction in several parts, [n_users]; inf for a user who has none."""
    first = np.full(parts[0].user_num, np.inf)
    for part in parts:
        np.minimum.at(first, _column(part, part.uid_field), _column(part, part.time_field))
    return first


def _cuts(parts: Sequence[ReviewDataset]) -> tuple[int, int | None]:
    """Counts the users with interactions on both sides of a cut, and those with the same time on both sides."""
    met = [np.bincount(_column(part, part.uid_field), minlength=part.user_num) > 0 for part in parts]
    users = int((np.sum(met, axis=0) > 1).sum())
    if parts[0].time_field not in parts[0].inter_feat:
        return users, None
    tied = np.zeros(parts[0].user_num, bool)
    for number in range(1, len(parts)):
        before = np.max([_last(part) for part in parts[:number]], axis=0)
        tied |= before == _first(parts[number:])
    return users, int(tied.sum())


def _others_future(train: ReviewDataset, held_out: Sequence[ReviewDataset]) -> float | None:
    if train.time_field not in train.inter_feat or not held_out:
        return None
    first = _first(held_out)
    times = np.sort(_column(train, train.time_field))
    later = len(times) - np.searchsorted(times, first[np.isfinite(first)], side="right")
    return float(later.mean() / len(times))
