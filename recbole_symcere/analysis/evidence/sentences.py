"""Which sentences of training reviews speak for a pair of a user and an item, in the space of ``own_words``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.model.item_statistics import ItemStatistics
from recbole_symcere.model.symcere_plus import SymCEREPlus

ENDS = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")
OF_USER, OF_ITEM, OF_HISTORY = "the user's own", "others' on the item", "others' on {}"


@dataclass(frozen=True)
class Sentence:
    """A sentence of a training review.

    Attributes:
        source: whose review it is, and of what, without a user's token.
        cosine: with the mean review of the item, or for a review of the item with the mean review of the user.
    """

    source: str
    cosine: float
    text: str


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text in any language that ends sentences by ``.``, ``!``, ``?``, ``…`` or ``。``."""
    return [" ".join(part.split()) for part in ENDS.split(text) if part.strip()]


@torch.no_grad()
def speaking_sentences(trained: TrainedModel, user: int, item: int, k: int) -> list[Sentence]:
    """Returns the sentences that are nearest to the other side of a pair, at most k from each source.

    The sources are the reviews of the user, those of others on the item, and those of others on the k items of the
    history to which the item is nearest by ``nearby_texts``. The space is that of ``own_words``. Nearness is no cause:
    the evidence compares mean reviews, and not sentences.

    Raises:
        AnalysisError: the model reads no reviews.
    """
    texts = _statistics(trained).texts
    of_item = texts.words[item]
    of_user = F.normalize(texts.of_users[user] @ texts.to_words, dim=0)
    users, items = trained.pairs()
    sources = [
        (OF_USER, (users == user) & (items != item), of_item),
        (OF_ITEM, (items == item) & (users != user), of_user),
    ]
    for met in _nearest_met(trained, user, item)[:k]:
        source = OF_HISTORY.format(trained.item_tokens()[met])
        sources.append((source, (items == met) & (users != user), of_item))

    reviews = trained.train.review_texts()
    split = [
        [part for row in mask.nonzero().flatten().tolist() for part in split_sentences(reviews[row])]
        for _, mask, _ in sources
    ]
    if not (sentences := [text for of_source in split for text in of_source]):
        return []
    centred = trained.encoder.encode(sentences).cpu() - trained.encoder_vectors().mean(0)
    vectors = F.normalize(centred.to(texts.to_words) @ texts.to_words, dim=1).split(list(map(len, split)))
    found = []
    for (source, _, direction), of_source, placed in zip(sources, split, vectors, strict=True):
        cosines = (placed @ direction).tolist()
        nearness = dict(zip(of_source, cosines, strict=True))  # a sentence that occurs twice is shown once
        best = sorted(nearness, key=lambda text: -nearness[text])[:k]
        found += [Sentence(source, nearness[text], text) for text in best]
    return found


def _statistics(trained: TrainedModel) -> ItemStatistics:
    assert isinstance(trained.model, SymCEREPlus)
    return trained.model.statistics


def _nearest_met(trained: TrainedModel, user: int, item: int) -> list[int]:
    """Returns the items of a user's history that ``nearby_texts`` counts for an item, the nearest first."""
    users, items = trained.pairs()
    nearest = _statistics(trained).nearest.cpu().coalesce()
    sources, ends = nearest.indices()
    counted = ends == item
    cosines = dict(zip(sources[counted].tolist(), nearest.values()[counted].tolist(), strict=True))
    met = [other for other in items[users == user].unique().tolist() if other != item and cosines.get(other, 0.0) > 0]
    return sorted(met, key=lambda other: -cosines[other])
