"""Who asks: users of the data, with what they did later, and anybody else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_symcere.errors import UserError
from recbole_symcere.model.evidence import People
from recbole_symcere.properties import nearest
from recbole_symcere.serving.additions import Record

Met = str | tuple[str, float]


@dataclass(frozen=True)
class Request:
    """A person for whom items are wanted.

    Attributes:
        user: the token of a user of the data, whose own interactions and reviews count, too; None for anybody else.
        history: items that the person has met beside those, each a token, or a token and the moment in seconds since
            1970. An item without a moment counts as met at the moment that is asked for.
        reviews: texts that the person wrote; of what does not matter.
        at: the moment for which items are wanted: nothing later counts for trends, but all that the person did counts.
            None: the last moment that is known, of the data and of the history.
    """

    user: str | None = None
    history: Sequence[Met] = ()
    reviews: Sequence[str] = ()
    at: float | None = None


@dataclass(frozen=True)
class Person:
    """What is known of a person.

    Attributes:
        user: the id of a user of the data, or None.
        item, moment: [n], the history.
        met: [m] long, all items that the person has met.
        now: the moment that is asked for.
    """

    user: int | None
    item: Tensor
    moment: Tensor
    met: Tensor
    now: float


class Directory:
    """Finds what a record knows of people.

    Args:
        record: see ``SymCEREPlus.to_serve``.
        offered: [n_items] bool, which items of the record there are; the dataset has names of later ones, too.

    Attributes:
        users, items: the number of each token.
        latest: the last moment of the record.
    """

    def __init__(self, record: Record, offered: Tensor) -> None:
        self._record = record
        self.users = {token: number for number, token in enumerate(record["users"]) if number}
        self.items = {record["items"][number]: number for number in offered.nonzero().flatten().tolist()}
        self.latest = float(record["statistics"]["moment"].max())

    def person(self, request: Request) -> Person:
        """Looks up a person, and the items that a request names.

        Raises:
            UserError: there is no such user or item, or a moment is not a number.
        """
        record = self._record
        user = None if request.user is None else _look_up("user", request.user, self.users)
        pairs = [(met, None) if isinstance(met, str) else met for met in request.history]
        items = torch.tensor([_look_up("item", token, self.items) for token, _ in pairs], dtype=torch.long)
        given = [moment for _, moment in pairs if moment is not None]
        if not all(map(math.isfinite, given)):
            raise UserError("a moment of the history is not a number; moments are seconds since 1970")
        if request.at is None:
            now = max([self.latest if user is None else float(record["now"][user]), *given])
        elif math.isfinite(request.at):
            now = float(request.at)
        else:
            raise UserError("at is not a number; moments are seconds since 1970")
        moments = torch.tensor([now if moment is None else moment for _, moment in pairs], dtype=torch.float64)
        own, past = (_span(record[start], user) for start in ("start", "past_start"))
        return Person(
            user=user,
            item=torch.cat([record["item"][own], items]),
            moment=torch.cat([record["moment"][own], moments]),
            met=torch.cat([record["past_item"][past], items]),
            now=now,
        )

    def people(self, persons: Sequence[Person], written: Sequence[Tensor]) -> People:
        """Returns what the evidence reads of persons.

        Args:
            written: the vectors of what each wrote beside the reviews of the data, [m, hidden] each.
        """
        texts = self._record["texts"]
        n_own = [0 if person.user is None else int(self._record["n_written"][person.user]) for person in persons]
        n_written = torch.tensor([own + len(new) for own, new in zip(n_own, written, strict=True)])
        words = [
            own * texts["of_users"][person.user or 0] + (new - texts["mean"]).sum(0)
            for own, person, new in zip(n_own, persons, written, strict=True)
        ]
        n_met = torch.tensor([len(person.item) for person in persons])
        return People(
            owner=torch.repeat_interleave(torch.arange(len(persons)), n_met),
            item=torch.cat([person.item for person in persons]),
            moment=torch.cat([person.moment for person in persons]),
            now=torch.tensor([person.now for person in persons], dtype=torch.float64),
            words=torch.stack(words) / n_written.clamp(min=1)[:, None],
            n_written=n_written,
        )

    def has(self, user: str, item: str, moment: float) -> bool:
        """Returns whether this interaction is in the user's history."""
        own = _span(self._record["start"], self.users.get(user))
        same = self._record["item"][own] == self.items.get(item, -1)
        return bool((same & (self._record["moment"][own] == moment)).any())


def _span(start: Tensor, user: int | None) -> slice:
    """Returns where the values of a user stand; nowhere for nobody."""
    return slice(0, 0) if user is None else slice(int(start[user]), int(start[user + 1]))


def _look_up(kind: str, token: str, ids: Mapping[str, int]) -> int:
    if token not in ids:
        raise UserError(f"there is no {kind} {token!r}{nearest(token, ids)}")
    return ids[token]
