"""Recommends from a checkpoint alone: to users of the data, and to people of whom nothing is in it.

Everything here reads what it was given and changes nothing, so that any number of threads can share one recommender.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recbole_symcere.checkpoint import SERVING_FORMAT, load_checkpoint
from recbole_symcere.errors import CheckpointError, UserError
from recbole_symcere.model.choice import OTHERS, STRANGERS
from recbole_symcere.model.evidence import EVIDENCE, People, standardised
from recbole_symcere.model.item_statistics import ItemStatistics, ItemTexts
from recbole_symcere.model.registry import import_modules
from recbole_symcere.properties import nearest
from recbole_symcere.ranking import top_items
from recbole_symcere.serving.additions import NewInteraction, Record, with_interactions, with_items
from recbole_symcere.serving.texts import Texts

if TYPE_CHECKING:
    from typing_extensions import Self

SCORES_AT_ONCE = 2**22  # of each piece of evidence
Met = str | tuple[str, float]


@dataclass(frozen=True)
class Request:
    """A person for whom items are wanted.

    Attributes:
        user: the token of a user of the data, whose own interactions and reviews count, too; None for anybody else.
        history: items that the person has met beside those, each a token, or a token and the moment in seconds since
            1970. An item without a moment was met last.
        reviews: texts that the person wrote; of what does not matter.
        at: the moment for which items are wanted: ``trend`` and ``newness`` read nothing later, but all that the person
            did counts. None: the last moment that is known, of the data and of the history.
    """

    user: str | None = None
    history: Sequence[Met] = ()
    reviews: Sequence[str] = ()
    at: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """An item for a person.

    Attributes:
        item: the token.
        score: comparable among the items of one list only.
        is_new: whether nobody has met the item, so that its text and its moment alone speak for it.
        why: what each piece of evidence adds to the score, if that was asked for.
    """

    item: str
    score: float
    is_new: bool = False
    why: Mapping[str, float] = field(default_factory=dict)


class Recommender:
    """Ranks items for anybody, from what a checkpoint of SymCEREPlus holds.

    Args:
        record: what the checkpoint holds for this purpose: see ``SymCEREPlus.to_serve``.
        texts: encodes what people write.

    Attributes:
        users, items: the tokens of the data, in their order.
        evidence: the names of the pieces of evidence.
    """

    def __init__(self, record: Record, texts: Texts) -> None:
        self._record, self._texts = record, texts
        self.users, self.items = tuple(record["users"][1:]), tuple(record["items"][1:])
        self._user_ids = {token: number for number, token in enumerate(record["users"]) if number}
        self._item_ids = {token: number for number, token in enumerate(record["items"]) if number}
        self._pieces = {name: EVIDENCE.find(name)() for name in record["evidence"]}
        self.evidence = tuple(self._pieces)
        self._weights: Tensor = record["weights"]
        self._latest = float(record["statistics"]["moment"].max())
        tables = dict(record["statistics"])
        folding, vectors = tables.pop("folding"), tables.pop("vectors")
        self._statistics = ItemStatistics(ItemTexts(**record["texts"]), **tables)
        self._statistics.take_graph(folding, vectors)
        if "listed" in record:
            self._statistics.first = torch.minimum(self._statistics.first, record["listed"])
        self._offered = self._statistics.first.isfinite()

    @classmethod
    def load(cls, path: str | Path, imports: Sequence[str] = (), trust_remote_code: bool = False) -> Self:
        """Loads what a checkpoint of SymCEREPlus holds; no dataset and no review is read.

        Args:
            path: the checkpoint of a finished run.
            imports: modules that register pieces of evidence of your own.
            trust_remote_code: whether Python code that comes with the text encoder is run.

        Raises:
            CheckpointError: the file can't be read, or is not of a finished run of SymCEREPlus.
            ConfigError: a piece of evidence is not known.
        """
        checkpoint = load_checkpoint(path)
        record = checkpoint.get("serving")
        if not record or record["format"] != SERVING_FORMAT:
            model = checkpoint["config"].get("model")
            why = (
                "its run has not finished, or an older version made it: give the command of the run again"
                if model == "SymCEREPlus"
                else f"{model} knows only users of its dataset; train SymCEREPlus"
            )
            raise CheckpointError(f"{path} can't recommend without its dataset: {why}")
        import_modules(list(imports))
        return cls(record, Texts(record["encoder"], len(record["texts"]["mean"]), trust_remote_code))

    def recommend(
        self,
        user: str | None = None,
        *,
        history: Sequence[Met] = (),
        reviews: Sequence[str] = (),
        at: float | None = None,
        k: int = 10,
        why: bool = False,
    ) -> list[Recommendation]:
        """Returns the best items for a person, best first; what the person has met is left out.

        Args:
            user, history, reviews, at: who it is; see :class:`Request`.
            k: how many items at most, at least 1.
            why: whether each item says what each piece of evidence adds.

        Raises:
            UserError: there is no such user or item, or an argument can't be used.
            EncoderError: there are reviews, and their encoder can't be had.
        """
        return self.recommend_many([Request(user, history, reviews, at)], k, why)[0]

    def recommend_many(self, requests: Sequence[Request], k: int = 10, why: bool = False) -> list[list[Recommendation]]:
        """Returns what :meth:`recommend` returns for several people at once, which is faster than one by one."""
        if k < 1:
            raise UserError(f"k is {k}, but must be at least 1")
        known = [self._known(request) for request in requests]
        vectors = self._texts.encode([text for request in requests for text in request.reviews])
        written = vectors.split([len(request.reviews) for request in requests])
        size = max(1, SCORES_AT_ONCE // self._statistics.n_items)
        found = []
        for start in range(0, len(requests), size):
            some = slice(start, start + size)
            found += self._ranked(known[some], written[some], k, why)
        return found

    def with_items(self, items: Mapping[str, Sequence[str]], listed: float | None = None) -> Self:
        """Returns a recommender that also knows items that nobody has met, each by its texts.

        Args:
            items: the texts of each new token, such as a description, or first reviews.
            listed: the moment at which the items came, in seconds since 1970. None: the last one of the data.

        Raises:
            UserError: a token is not new, or has no text.
            EncoderError: the encoder can't be had.
        """
        if old := [token for token in items if token in self._item_ids]:
            raise UserError(f"item {old[0]!r} is not new: the data has it")
        if silent := [token for token, texts in items.items() if not texts]:
            raise UserError(f"item {silent[0]!r} has no text, by which a new item gets its place")
        if listed is not None and not math.isfinite(listed):
            raise UserError("listed is not a number; moments are seconds since 1970")
        found = self._texts.encode([text for texts in items.values() for text in texts])
        vectors = [part.mean(0) for part in found.split([len(texts) for texts in items.values()])]
        moments = torch.full((len(items),), self._latest if listed is None else listed, dtype=torch.float64)
        return type(self)(with_items(self._record, list(items), torch.stack(vectors), moments), self._texts)

    def with_interactions(self, rows: Sequence[NewInteraction]) -> Self:
        """Returns a recommender that also knows interactions that came after training, and their users and items.

        Histories, trends and the moments of items go on, and an item that is new gets its place by its reviews, if
        there are any. What the model has learned of other items stays as it was.

        Args:
            rows: in any order; a row that training had, with the same time, is passed over.

        Raises:
            UserError: a row can't be used.
            EncoderError: there are reviews, and their encoder can't be had.
        """
        rows = [row for row in rows if not self._has(row)]
        if not rows:
            return self
        if wrong := [row for row in rows if not math.isfinite(row.time)]:
            raise UserError(f"user {wrong[0].user!r} met {wrong[0].item!r} at no time: times are seconds since 1970")
        numbers = [number for number, row in enumerate(rows) if row.text]
        vectors = dict(zip(numbers, self._texts.encode([rows[number].text or "" for number in numbers]), strict=True))
        record, new = self._record, [row.item for row in rows if row.item not in self._item_ids]
        if new:
            unknown = torch.full((len(record["texts"]["mean"]),), torch.nan)
            of_items = {token: [number for number, row in enumerate(rows) if row.item == token] for token in new}
            means = [
                torch.stack(told).mean(0) if (told := [vectors[n] for n in of_item if n in vectors]) else unknown
                for of_item in of_items.values()
            ]
            first = torch.tensor([min(rows[n].time for n in of_item) for of_item in of_items.values()]).double()
            record = with_items(record, list(of_items), torch.stack(means), first)
        return type(self)(with_interactions(record, rows, vectors), self._texts)

    def _has(self, row: NewInteraction) -> bool:
        own = _span(self._record["start"], self._user_ids.get(row.user))
        same = self._record["item"][own] == self._item_ids.get(row.item, -1)
        return bool((same & (self._record["moment"][own] == row.time)).any())

    @torch.no_grad()
    def _ranked(
        self, known: Sequence[_Person], written: Sequence[Tensor], k: int, why: bool
    ) -> list[list[Recommendation]]:
        people = self._people(known, written)
        told = (people.n_met + people.n_written) > 0
        weights = self._weights[torch.where(told, OTHERS, STRANGERS)]
        added = {
            name: weights[:, place, None] * standardised(piece, people, self._statistics)
            for place, (name, piece) in enumerate(self._pieces.items())
        }
        scores = sum(added.values(), torch.zeros(()))
        scores[:, ~self._offered] = -torch.inf
        for row, person in enumerate(known):
            scores[row, person.met] = -torch.inf
        ids = torch.tensor([person.user or 0 for person in known])
        best, items = top_items(scores, ids, min(k, scores.shape[1]))
        return [
            [
                Recommendation(
                    item=self.items[item - 1],
                    score=score,
                    is_new=not self._statistics.known[item],
                    why={name: float(of_all[row, item]) for name, of_all in added.items()} if why else {},
                )
                for score, item in zip(best[row].tolist(), items[row].tolist(), strict=True)
                if score > -torch.inf
            ]
            for row in range(len(known))
        ]

    def _known(self, request: Request) -> _Person:
        """Looks up what the data tells of a person, and the ids of the items that the request names."""
        user = None if request.user is None else _look_up("user", request.user, self._user_ids)
        tokens, times = [], []
        for met in request.history:
            token, time = (met, None) if isinstance(met, str) else met
            tokens.append(_look_up("item", token, self._item_ids))
            times.append(time)
        given = [time for time in times if time is not None]
        if not all(map(math.isfinite, given)):
            raise UserError("a moment of the history is not a number; moments are seconds since 1970")
        if request.at is not None and not math.isfinite(request.at):
            raise UserError("at is not a number; moments are seconds since 1970")
        own, past = (_span(self._record[start], user) for start in ("start", "past_start"))
        if request.at is not None:
            now = float(request.at)
        else:
            now = max([float(self._record["now"][user]) if user is not None else self._latest, *given])
        moments = torch.tensor([now if time is None else time for time in times], dtype=torch.float64)
        items = torch.tensor(tokens, dtype=torch.long)
        return _Person(
            user=user,
            item=torch.cat([self._record["item"][own], items]),
            moment=torch.cat([self._record["moment"][own], moments]),
            met=torch.cat([self._record["past_item"][past], items]),
            now=now,
        )

    def _people(self, known: Sequence[_Person], written: Sequence[Tensor]) -> People:
        texts = self._statistics.texts
        assert texts.mean is not None
        n_own = [0 if person.user is None else int(self._record["n_written"][person.user]) for person in known]
        n_written = torch.tensor([own + len(new) for own, new in zip(n_own, written, strict=True)])
        sums = torch.stack(
            [
                (own * texts.of_users[person.user or 0]) + (new - texts.mean).sum(0)
                for own, person, new in zip(n_own, known, written, strict=True)
            ]
        )
        sizes = torch.tensor([len(person.item) for person in known])
        return People(
            owner=torch.repeat_interleave(torch.arange(len(known)), sizes),
            item=torch.cat([person.item for person in known]),
            moment=torch.cat([person.moment for person in known]),
            now=torch.tensor([person.now for person in known], dtype=torch.float64),
            words=sums / n_written.clamp(min=1)[:, None],
            n_written=n_written,
        )


@dataclass(frozen=True)
class _Person:
    """What is known of a person: the id of a user or None, the history, all items met, and the moment that is asked."""

    user: int | None
    item: Tensor
    moment: Tensor
    met: Tensor
    now: float


def _span(start: Tensor, user: int | None) -> slice:
    """Returns where the values of a user stand; nowhere for nobody."""
    return slice(0, 0) if user is None else slice(int(start[user]), int(start[user + 1]))


def _look_up(kind: str, token: str, ids: Mapping[str, int]) -> int:
    if token not in ids:
        raise UserError(f"there is no {kind} {token!r}{nearest(token, ids)}")
    return ids[token]
