"""Recommends from a checkpoint alone: to users of the data, and to people of whom nothing is in it.

Everything here reads what it was given and changes nothing, so that any number of threads can share one recommender.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_symcere.best_items import top_items
from recbole_symcere.checkpoint import SERVING_FORMAT, load_checkpoint
from recbole_symcere.errors import CheckpointError, UserError
from recbole_symcere.model.choice import OTHERS, STRANGERS
from recbole_symcere.model.evidence import EVIDENCE, People, over_items, standardised
from recbole_symcere.model.item_statistics import ItemStatistics, ItemTexts
from recbole_symcere.model.parts import import_modules
from recbole_symcere.serving.additions import NewInteraction, Record, with_interactions, with_items
from recbole_symcere.serving.people import Directory, Met, Request
from recbole_symcere.serving.terms import Terms
from recbole_symcere.serving.texts import Texts

if TYPE_CHECKING:
    from typing_extensions import Self

SCORES_AT_ONCE = 2**22  # of each piece of evidence


@dataclass(frozen=True)
class Recommendation:
    """An item for a person.

    Attributes:
        item: the token.
        score: comparable among the items of one list only.
        is_new: whether nobody has met the item, so that its text and its moment alone speak for it.
        why: what each part adds to the score, if that was asked for.
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
        self._pieces = {name: EVIDENCE.find(name)() for name in record["evidence"]}
        self.evidence = tuple(self._pieces)
        tables = dict(record["statistics"])
        folding, vectors = tables.pop("folding"), tables.pop("vectors")
        self._statistics = ItemStatistics(ItemTexts(**record["texts"]), **tables)
        self._statistics.take_graph(folding, vectors)
        if "listed" in record:
            self._statistics.first = torch.minimum(self._statistics.first, record["listed"])
        self._offered = self._statistics.first.isfinite()
        self._directory = Directory(record, self._offered)
        self.users, self.items = tuple(self._directory.users), tuple(self._directory.items)
        self._terms = Terms(record["words"]) if record["words"] else None

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

    @torch.no_grad()
    def recommend_many(self, requests: Sequence[Request], k: int = 10, why: bool = False) -> list[list[Recommendation]]:
        """Returns what :meth:`recommend` returns for several people at once, which is faster than one by one."""
        _check_k(k)
        found: list[list[Recommendation]] = []
        persons = [self._directory.person(request) for request in requests]
        written = self._written(requests)
        for some in self._batches(len(requests)):
            added = self._contributions(self._directory.people(persons[some], written[some]))
            met = torch.zeros(len(persons[some]), self._statistics.n_items, dtype=torch.bool)
            for row, person in enumerate(persons[some]):
                met[row, person.met] = True
            found += self._best(added, requests[some], ~met, k, why)
        return found

    @torch.no_grad()
    def scores(self, requests: Sequence[Request]) -> Tensor:
        """Returns the scores of all items for people, [B, n_items], also of items that :meth:`recommend` leaves out."""
        persons = [self._directory.person(request) for request in requests]
        people = self._directory.people(persons, self._written(requests))
        return sum(self._contributions(people).values(), torch.zeros(()))

    def search(
        self,
        text: str,
        user: str | None = None,
        *,
        history: Sequence[Met] = (),
        reviews: Sequence[str] = (),
        at: float | None = None,
        k: int = 10,
        why: bool = False,
    ) -> list[Recommendation]:
        """Returns the items whose reviews are nearest to a text, best first; a person may have met them.

        The score of an item is the sum of two scores over the items, each of mean 0 and standard deviation 1: BM25 of
        the text among the item's reviews (``terms``), and the cosine of the text and the item's mean review, in
        directions in which items differ (``meaning``). If anything is told of a person, what :meth:`recommend` ranks
        by is the third, on the same scale (``person``). Of an item that nobody has met, the meaning counts twice, and
        the words do not count.

        Args:
            text: what is looked for.
            user, history, reviews, at: who looks for it; see :class:`Request`.
            k: how many items at most, at least 1.
            why: whether each item says what each score adds.

        Raises:
            UserError: the text is empty, the model was trained with other texts, or as for :meth:`recommend`.
            EncoderError: the encoder can't be had.
        """
        return self.search_many([text], [Request(user, history, reviews, at)], k, why)[0]

    @torch.no_grad()
    def search_many(
        self, texts: Sequence[str], requests: Sequence[Request] | None = None, k: int = 10, why: bool = False
    ) -> list[list[Recommendation]]:
        """Returns what :meth:`search` returns for several texts at once.

        Args:
            requests: who looks for each text; None for nobody in particular.
        """
        _check_k(k)
        requests = [Request()] * len(texts) if requests is None else requests
        found: list[list[Recommendation]] = []
        for some in self._batches(len(texts)):
            parts, offered = self.search_parts(texts[some], requests[some])
            added = self.added_by(parts)
            found += self._best(added, requests[some], offered.expand_as(added["terms"]), k, why)
        return found

    @torch.no_grad()
    def search_parts(
        self, texts: Sequence[str], requests: Sequence[Request], vectors: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the scores of all items from which :meth:`search` makes its own, and which items can be found.

        Args:
            texts, requests: B each.
            vectors: what :meth:`encode` returns for the texts, if the caller has it already.

        Returns:
            ``terms``, ``meaning`` and, if anything is told of anybody, ``person``, [B, n] each, with the columns that
            :attr:`columns` names; and bool [n].
        """
        added = self._found_by_text(self.encode(texts) if vectors is None else vectors, texts)
        persons = [self._directory.person(request) for request in requests]
        people = self._directory.people(persons, self._written(requests))
        if _told(people).any():
            own = sum(self._contributions(people).values(), torch.zeros(()))
            added["person"] = over_items(own, self._statistics.known) * _told(people)[:, None]
        return added, self._offered

    def added_by(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what each part adds to the score by which :meth:`search` ranks, [B, n] each.

        BM25 finds the words of a text in the many reviews of an old item rather than in the one text of a new item, so
        that it would rank new items last.

        Args:
            parts: the scores that :meth:`search_parts` returns.
        """
        known = self._statistics.known
        meaning = parts["meaning"] * torch.where(known, 1.0, 2.0)
        return {**parts, "terms": parts["terms"] * known, "meaning": meaning}

    @property
    def columns(self) -> Mapping[str, int]:
        """The column of each item in the tables of :meth:`search_parts`."""
        return self._directory.items

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns vectors of texts as the text encoder makes them, float32 [n, hidden]."""
        return self._texts.encode(texts)

    def with_items(self, items: Mapping[str, Sequence[str]], listed: float | None = None) -> Self:
        """Returns a recommender that also knows items that nobody has met, each by its texts.

        Args:
            items: the texts of each new token, such as a description, or first reviews.
            listed: the moment at which the items came, in seconds since 1970. None: the last one of the data.

        Raises:
            UserError: a token is not new, or has no text.
            EncoderError: the encoder can't be had.
        """
        if old := [token for token in items if token in self._directory.items]:
            raise UserError(f"item {old[0]!r} is not new: the data has it")
        if silent := [token for token, texts in items.items() if not texts]:
            raise UserError(f"item {silent[0]!r} has no text, by which a new item gets its place")
        if listed is not None and not math.isfinite(listed):
            raise UserError("listed is not a number; moments are seconds since 1970")
        moment = self._directory.latest if listed is None else listed
        texts = [(token, moment, text) for token, of_item in items.items() for text in of_item]
        return type(self)(self._with_new(texts, self._texts.encode([text for *_, text in texts])), self._texts)

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
        rows = [row for row in rows if not self._directory.has(row.user, row.item, row.time)]
        if not rows:
            return self
        if wrong := [row for row in rows if not math.isfinite(row.time)]:
            raise UserError(f"user {wrong[0].user!r} met {wrong[0].item!r} at no time: times are seconds since 1970")
        told = [number for number, row in enumerate(rows) if row.text]
        vectors = torch.full((len(rows), len(self._record["texts"]["mean"])), torch.nan)
        vectors[told] = self._texts.encode([rows[number].text or "" for number in told])
        new = [number for number, row in enumerate(rows) if row.item not in self._directory.items]
        record = self._with_new([(rows[n].item, rows[n].time, rows[n].text) for n in new], vectors[new])
        return type(self)(with_interactions(record, rows, dict(zip(told, vectors[told], strict=True))), self._texts)

    def _with_new(self, texts: Sequence[tuple[str, float, str | None]], vectors: Tensor) -> Record:
        """Returns the record with new items.

        Args:
            texts: of each text its item, the moment at which the item came, and the text or None.
            vectors: [n, hidden], those of the texts; NaN where there is none.
        """
        numbers = defaultdict(list)
        for number, (token, *_) in enumerate(texts):
            numbers[token].append(number)
        if not numbers:
            return self._record
        written = [(place, text) for place, own in enumerate(numbers.values()) for n in own if (text := texts[n][2])]
        return with_items(
            self._record,
            list(numbers),
            torch.stack([vectors[own].nanmean(0) for own in numbers.values()]),
            self._words(written),
            torch.tensor([min(texts[n][1] for n in own) for own in numbers.values()], dtype=torch.float64),
        )

    def _words(self, texts: Sequence[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of its text, and the hash, for each word of texts that have numbers."""
        if not texts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        owner, word = self._texts.words([text for _, text in texts])
        return np.array([number for number, _ in texts])[owner], word

    def _written(self, requests: Sequence[Request]) -> tuple[Tensor, ...]:
        vectors = self._texts.encode([text for request in requests for text in request.reviews])
        return vectors.split([len(request.reviews) for request in requests])

    def _batches(self, n: int) -> list[slice]:
        size = max(1, SCORES_AT_ONCE // self._statistics.n_items)
        return [slice(start, start + size) for start in range(0, n, size)]

    def _contributions(self, people: People) -> dict[str, Tensor]:
        """Returns what each piece of evidence adds to the scores of all items, [B, n_items] each."""
        weights = self._record["weights"][torch.where(_told(people), OTHERS, STRANGERS)]
        return {
            name: weights[:, place, None] * standardised(piece, people, self._statistics)
            for place, (name, piece) in enumerate(self._pieces.items())
        }

    def _found_by_text(self, vectors: Tensor, written: Sequence[str]) -> dict[str, Tensor]:
        """Returns what the words and the meaning of each text add to the scores of all items, [B, n_items] each."""
        texts = self._statistics.texts
        assert self._terms is not None and texts.mean is not None  # else the encoder had refused the text
        meaning = F.normalize((vectors - texts.mean) @ texts.to_words, dim=1) @ texts.words.T
        terms = self._terms.scores(*self._words(list(enumerate(written))), len(written))
        known = self._statistics.known
        return {"terms": over_items(terms, known), "meaning": over_items(meaning, known)}

    def _best(
        self, added: Mapping[str, Tensor], requests: Sequence[Request], allowed: Tensor, k: int, why: bool
    ) -> list[list[Recommendation]]:
        """Returns the best of the allowed items [B, n_items] by the sum of what is added, for each request."""
        scores = sum(added.values(), torch.zeros(())).masked_fill(~(allowed & self._offered), -torch.inf)
        ids = torch.tensor([self._directory.users.get(request.user or "", 0) for request in requests])
        best, items = top_items(scores, ids, min(k, scores.shape[1]))
        return [
            [
                Recommendation(
                    item=self._record["items"][item],
                    score=score,
                    is_new=not self._statistics.known[item],
                    why={name: float(of_all[row, item]) for name, of_all in added.items()} if why else {},
                )
                for score, item in zip(best[row].tolist(), items[row].tolist(), strict=True)
                if score > -torch.inf
            ]
            for row in range(len(requests))
        ]


def _told(people: People) -> Tensor:
    """Returns whether anything is known of each person, [B] bool."""
    return (people.n_met + people.n_written) > 0


def _check_k(k: int) -> None:
    if k < 1:
        raise UserError(f"k is {k}, but must be at least 1")
