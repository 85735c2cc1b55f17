"""What the evidence of SymCEREPlus reads where it is asked questions: people as they were, and items as they were."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_symcere.decay import DAY
from recbole_symcere.model.evidence import People
from recbole_symcere.model.item_statistics import ItemStatistics, ItemTexts
from recbole_symcere.model.placing import Placed, placed
from recbole_symcere.model.text.groups import mean_of_members
from recbole_symcere.questions import Questions


class Asked:
    """The people and the items of questions.

    Where the list of items goes on, an item that came after training is placed by the reviews of its first day, and is
    known from the next day on.

    Args:
        questions: on the device of the statistics.
        trained: the statistics of the training interactions.
        vectors: [n, hidden], the vectors of the reviews of ``questions.past``, in its order.

    Attributes:
        statistics: those that the evidence reads.
    """

    _placed: Placed | None

    def __init__(self, questions: Questions, trained: ItemStatistics, vectors: Tensor) -> None:
        assert trained.texts.mean is not None  # the model was trained here
        self.questions, self.statistics = questions, trained
        ordered = vectors.to(questions.order.device)[questions.order]
        self._words = ordered - trained.texts.mean
        self._trained, self._placed = trained.known, None
        if questions.goes_on:
            new = (questions.first.isfinite() & ~trained.known).nonzero().flatten()
            self._placed = placed(_tables(trained), new, _of_first_days(questions, ordered)[new])
            self.statistics = _going_on(trained, self._placed, questions)

    def take_graph(self, folding: Tensor, vectors: Tensor) -> None:
        """Takes over the item vectors of the graph model, as ``ItemStatistics`` does."""
        if self._placed is not None:
            folding, vectors = (self._placed.taken_over(table * self._trained[:, None]) for table in (folding, vectors))
        self.statistics.take_graph(folding, vectors)

    def people(self, questions: Tensor) -> People:
        """Returns those who ask some questions [B]."""
        asked = self.questions
        owner, met = asked.histories(questions)
        n = torch.bincount(owner, minlength=len(questions))
        words = mean_of_members(self._words[met], owner, len(questions))
        return People(
            owner=owner,
            item=asked.item[met],
            moment=asked.moment[met],
            now=asked.now[questions],
            words=words if asked.gives_reviews else torch.zeros_like(words),
            n_written=n if asked.gives_reviews else torch.zeros_like(n),
        )

    def chosen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what is held out of all questions: the question, the item, and whether the item was known, [n]."""
        asked = self.questions
        owner, held_out = asked.held_out(torch.arange(len(asked), device=asked.user.device))
        item = asked.item[held_out]
        known = self.statistics.first[item] <= asked.now[owner] if asked.goes_on else self.statistics.known[item]
        return owner, item, known

    def alternatives(self, questions: Tensor) -> Tensor:
        """Returns which items each of some questions [U] could have led to, [U, n_items] bool."""
        asked = self.questions
        owner, met = asked.met(questions)
        unmet = torch.ones(len(questions), self.statistics.n_items, dtype=torch.bool, device=owner.device)
        unmet[owner, asked.item[met]] = False
        if asked.goes_on:
            unmet &= self.statistics.first <= asked.now[questions, None]
        return unmet


def _tables(statistics: ItemStatistics) -> dict[str, Tensor]:
    named = dict(statistics.named_buffers(recurse=False)) | dict(statistics.texts.named_buffers())
    return {name: named[name] for name in ("profiles", "words", "walks", "nearest", "mean", "to_profiles", "to_words")}


def _of_first_days(questions: Questions, vectors: Tensor) -> Tensor:
    """Returns the mean vector of the reviews that each item got on its first day, [n_items, hidden]."""
    first = (questions.first / DAY).floor()[questions.item] == (questions.moment / DAY).floor()
    return mean_of_members(vectors[first], questions.item[first], questions.past.item_num)


def _going_on(trained: ItemStatistics, places: Placed, questions: Questions) -> ItemStatistics:
    texts = trained.texts
    going_on = ItemStatistics(
        ItemTexts(profiles=places.profiles, words=places.words, to_words=texts.to_words, of_users=texts.of_users),
        item=questions.item,
        moment=questions.moment,
        usual_age=trained.usual_age,
        walks=places.walks,
        nearest=places.nearest,
    )
    going_on.goes_on = True
    return going_on
