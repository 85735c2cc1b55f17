"""Pieces of evidence for a recommendation: each scores all items for people, from what they did until a moment.

A piece is a class with one method, and a name in :data:`EVIDENCE`. It reads the histories of people and the statistics
of the items. ``trend``, ``surge``, ``burst`` and ``newness`` read nothing that happened after the moment at which a
person is asked. The other pieces know items by all training interactions, as other models do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_symcere.decay import DAY, decayed_counts, faded
from recbole_symcere.model.item_statistics import ItemStatistics
from recbole_symcere.model.parts import Registry
from recbole_symcere.sparse import dense

if TYPE_CHECKING:
    from recbole_symcere.config import Config

LOWEST, HIGHEST = -3.0, 12.0  # of a standardised score
HALF_TRUSTED = 3  # the length of a history whose evidence counts half as much as that of a very long one
FEW = 0.05  # added to decayed counts before the logarithm


@dataclass(frozen=True)
class People:
    """Those for whom items are scored: what each of them met and wrote, and the moment at which each is asked.

    Attributes:
        owner: [n] long, the person whose interaction it is, from 0, ascending.
        item: [n] long.
        moment: [n] float64, in seconds.
        now: [B] float64, when each person is asked, in seconds.
        words: [B, hidden], the mean of the vectors of the reviews that each person wrote, minus the mean over all
            training reviews; zeros for a person without a review.
        n_written: [B] long, the number of these reviews.
    """

    owner: Tensor
    item: Tensor
    moment: Tensor
    now: Tensor
    words: Tensor
    n_written: Tensor

    def __len__(self) -> int:
        return len(self.now)

    @property
    def n_met(self) -> Tensor:
        """The number of interactions of each person, [B] long."""
        return torch.bincount(self.owner, minlength=len(self))

    def histories(self, n_items: int, half_life: float | None = None) -> Tensor:
        """Returns what each person met, float32 [B, n_items] sparse.

        Args:
            half_life: the days after which an interaction counts half; see ``faded``. None: every interaction counts 1.
        """
        weight = torch.ones(len(self.item), device=self.item.device)
        if half_life is not None:
            weight = faded(self.owner, self.moment, len(self), half_life)
        places = torch.stack([self.owner, self.item])
        return torch.sparse_coo_tensor(places, weight, (len(self), n_items), check_invariants=False)


class Need(Enum):
    """Without what a piece of evidence says nothing about a person."""

    NOTHING = "nothing"
    HISTORY = "interactions"
    WORDS = "reviews"


class Evidence(Protocol):
    """A piece of evidence.

    Attributes:
        needs: without what it says nothing about a person.
    """

    needs: ClassVar[Need]

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns what speaks for each item, [B, n_items]; the scale has no meaning."""
        ...


EVIDENCE: Registry[type[Evidence]] = Registry("evidence")
"""What the setting ``evidence`` can name."""


class Lately:
    """The base of evidence of how often an item was met lately.

    Attributes:
        part: an interaction counts half after this part of an item's usual age.
    """

    needs = Need.NOTHING
    part: ClassVar[float]

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns the sum over the item's interactions until now of 2^(-age / half-life), [B, n_items]."""
        now, place = people.now.unique(return_inverse=True)
        half_life = items.usual_age * self.part / DAY
        return decayed_counts(items.item, items.moment, half_life, items.n_items, now)[place]


@EVIDENCE.register("trend")
class Trend(Lately):
    """How often an item was met lately, as a logarithm, which tells the seldom met items apart."""

    part = 1 / 4

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns log(FEW + the sum that ``Lately`` returns), [B, n_items]."""
        return (super().scores(people, items) + FEW).log()


@EVIDENCE.register("surge")
class Surge(Lately):
    """How often an item was met lately, as a number, so that the most popular items stand out."""

    part = 1 / 4


@EVIDENCE.register("burst")
class Burst(Lately):
    """How often an item was met in the last days."""

    part = 1 / 32


@EVIDENCE.register("newness")
class Newness:
    """The moment at which somebody first met an item; an item that nobody has met yet counts as the oldest."""

    needs = Need.NOTHING

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns the moments, [B, n_items]."""
        oldest = items.moment.min()
        return torch.where(items.first <= people.now[:, None], items.first, oldest)


@EVIDENCE.register("recent")
class Recent:
    """Where people went on from the items of the history, of which the latest count most."""

    needs = Need.HISTORY

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns the decayed history times the directed walks between items, [B, n_items]."""
        return dense(people.histories(items.n_items, items.usual_age / 2 / DAY) @ items.walks)


@EVIDENCE.register("graph")
class Graph:
    """The graph model, which places a person by the history alone."""

    needs = Need.HISTORY

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns dot products of the people's and items' vectors, [B, n_items]."""
        return (people.histories(items.n_items) @ items.folding) @ items.vectors.T


@EVIDENCE.register("own_words")
class OwnWords:
    """How near the mean review of a person is to that of an item, in directions in which items differ."""

    needs = Need.WORDS

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns cosines, [B, n_items]."""
        return F.normalize(people.words @ items.texts.to_words, dim=1) @ items.texts.words.T


@EVIDENCE.register("nearby_texts")
class NearbyTexts:
    """The cosines of items with the items of the history whose reviews are nearest to theirs."""

    needs = Need.HISTORY

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        """Returns the history times the nearest items of each item, [B, n_items]."""
        return dense(people.histories(items.n_items) @ items.nearest)


def evidence_names(config: Config) -> list[str]:
    """Returns the names of the pieces of evidence that the settings ask for, in their order.

    What is short-lived is only asked for where validation asks as the test part does, with ``questions``. Under one cut
    in time the first days after it, which validation has more of, would give it too high a weight.
    """
    names = [*config["evidence"], *(config["short_lived"] if config["questions"] != "users" else ())]
    return list(dict.fromkeys(names))


def standardised(evidence: Evidence, people: People, items: ItemStatistics) -> Tensor:
    """Returns the scores of a piece of evidence on a scale that pieces and people share, float32 [B, n_items].

    For each person the scores of the known items have mean 0 and standard deviation 1; what lies below ``LOWEST`` or
    above ``HIGHEST`` is cut. Evidence from n interactions or n reviews is multiplied by n / (n + HALF_TRUSTED).
    """
    scores = over_items(evidence.scores(people, items).float(), items.known_to(people.now)).clamp(LOWEST, HIGHEST)
    if evidence.needs is not Need.NOTHING:
        n = people.n_met if evidence.needs is Need.HISTORY else people.n_written
        scores *= (n / (n + HALF_TRUSTED))[:, None]
    return scores


def over_items(scores: Tensor, known: Tensor) -> Tensor:
    """Returns scores [B, n_items] that have mean 0 and standard deviation 1 over the known items.

    Args:
        known: [n_items] bool, or [B, n_items] if each person knows others.
    """
    if known.dim() == 1:
        deviation, mean = torch.std_mean(scores[:, known], 1, correction=0, keepdim=True)
    else:
        n = known.sum(1, keepdim=True).clamp(min=1)
        mean = scores.where(known, 0).sum(1, keepdim=True) / n
        deviation = ((scores - mean).where(known, 0).square().sum(1, keepdim=True) / n).sqrt()
    return (scores - mean) / deviation.clamp(min=1e-9)
