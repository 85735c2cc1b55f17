"""The best items for the users of a dataset, and what a checkpoint holds of a model so that it gives them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from recbole_symcere.best_items import top_items
from recbole_symcere.errors import UserError
from recbole_symcere.known import Known
from recbole_symcere.properties import nearest

FORMAT = 1  # of what ``Lists.stored`` returns
SCORES_AT_ONCE = 2**22

Items = list[tuple[str, float]]  # tokens and scores, best first


@dataclass(frozen=True)
class Lists:
    """Ranks the items that users have not met, as the test part is ranked.

    Users and items have the numbers of the dataset, where 0 is padding.

    Attributes:
        dataset: the name of the dataset.
        users, items: the tokens by their numbers.
        start, met: the items that the users have met in training or validation; those of user u are from ``start[u]``
            to ``start[u + 1]``.
        trained_users, trained_items: [n] bool, whether a training interaction has the user or the item.
        known: what is known before the test part.
        ranks_strangers, ranks_new_items: as for ``Recommender``.
        scores: returns the scores of the model, float [B, n_items], for users [B] long.
    """

    dataset: str
    users: Sequence[str]
    items: Sequence[str]
    start: Tensor
    met: Tensor
    trained_users: Tensor
    trained_items: Tensor
    known: Known
    ranks_strangers: bool
    ranks_new_items: bool
    scores: Callable[[Tensor], Tensor]

    def stored(self) -> dict[str, Any]:
        """Returns all but the scores, as a checkpoint can hold it."""
        plain = {name: value for name, value in vars(self).items() if name not in ("known", "scores")}
        known = {name: value for name, value in vars(self.known).items() if name != "questions"}
        return {"format": FORMAT, "known": known, **plain}

    @classmethod
    def of_stored(cls, record: Mapping[str, Any], scores: Callable[[Tensor], Tensor]) -> Lists:
        """Makes the lists of what :meth:`stored` returned, with the scores of the model."""
        rest = {name: value for name, value in record.items() if name not in ("format", "vectors")}
        return cls(scores=scores, **rest | {"known": Known(**rest["known"])})

    @torch.no_grad()
    def best(self, users: Sequence[str] | None, k: int) -> dict[str, Items]:
        """Returns the best items for users, best first, and logs which users and items nothing has trained.

        Args:
            users: tokens; None for all users.
            k: how many items at most.

        Raises:
            UserError: there is no such user.
        """
        tokens = list(dict.fromkeys(self.users[1:] if users is None else users))
        numbers = torch.tensor(self._numbers(tokens), dtype=torch.long)
        found: dict[str, Items] = {}
        for some in numbers.split(max(1, SCORES_AT_ONCE // len(self.items))):
            scores = self.scores(some)
            scores[:, 0] = -torch.inf  # padding
            for row, user in enumerate(some.tolist()):
                scores[row, self.met[self.start[user] : self.start[user + 1]]] = -torch.inf
            scores = self.known.ranked(scores, some, self)
            values, items = top_items(scores, some, min(k, scores.shape[1]))
            for row, user in enumerate(some.tolist()):
                best = zip(items[row].tolist(), values[row].tolist(), strict=True)
                found[self.users[user]] = [(self.items[item], score) for item, score in best if score > -torch.inf]
        self._warn_of_untrained(numbers, found)
        return found

    def _numbers(self, tokens: Sequence[str]) -> list[int]:
        number_of = {token: number for number, token in enumerate(self.users) if number}
        for token in tokens:
            if token not in number_of:
                raise UserError(f"{self.dataset} has no user {token!r}{nearest(token, number_of)}")
        return [number_of[token] for token in tokens]

    def _warn_of_untrained(self, users: Tensor, found: Mapping[str, Items]) -> None:
        nothing = of_users = "so the model knows nothing of them"
        if self.ranks_strangers:
            of_users = "so the model ranks for them by what needs no history"
        elif self.known.cold.any():
            of_users = f"so they get the items that were popular recently (half-life {self.known.half_life:g} days)"
        listed = {item for best in found.values() for item, _ in best}
        trained = {self.items[number] for number in self.trained_items.nonzero().flatten().tolist()}
        strangers = [self.users[user] for user in users[~self.trained_users[users]].tolist()]
        for kind, n, untrained, so in (
            ("users", len(found), strangers, of_users),
            ("recommended items", len(listed), listed - trained, nothing),
        ):
            if untrained:
                named = ", ".join(sorted(untrained)[:3]) + ", …" * (len(untrained) > 3)
                getLogger().warning(f"{len(untrained):,} of {n:,} {kind} have no training interaction, {so}: {named}")
