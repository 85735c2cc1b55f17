"""Checkpoints, the reviews that they share, and what their words do: what ``anchoring`` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recbole_symcere.analysis.anchoring.attribution import Similarity, lime, occlusion, text_references
from recbole_symcere.analysis.anchoring.index import (
    DRAWS,
    Anchoring,
    Estimate,
    anchoring,
    by_word,
    index_difference,
)
from recbole_symcere.analysis.trained import TrainedModel, load_trained
from recbole_symcere.analysis.words import GROUPS, Occurrences, WordGroups, languages_of, word_groups
from recbole_symcere.model.text.encoder import ReviewEncoder

PRETRAINED = "pre-trained encoder"


@dataclass(frozen=True)
class Corpus:
    """Checkpoints that share training reviews, held-out reviews and words, and a part's reviews to look into.

    Attributes:
        rows: int, ascending: which of the part's reviews are drawn.
    """

    checkpoints: list[TrainedModel]
    part: str
    rows: np.ndarray
    seed: int

    @property
    def first(self) -> TrainedModel:
        """One of the checkpoints, for what they share."""
        return self.checkpoints[0]

    @property
    def name(self) -> str:
        return str(self.first.config["dataset"])

    @cached_property
    def words(self) -> Occurrences:
        """The words of all the part's reviews."""
        return self.first.words(self.part)

    @cached_property
    def groups(self) -> WordGroups:
        items = self.first.pairs("train")[1].numpy()
        languages = languages_of(self.first.train.review_texts())
        return word_groups(self.first.words("train").lettered(), items, languages, self.seed)

    def review_ids(self) -> np.ndarray:
        """Returns the ids of the part's reviews, [n] text."""
        return self.first.review_ids(self.part)


@dataclass(frozen=True)
class Explained:
    """LIME of one review: the weight of each of its words, by place."""

    row: int
    cosine: float
    strong: bool
    weights: np.ndarray


@dataclass(frozen=True)
class Found:
    """Holds what was measured of one model on its corpus.

    Attributes:
        cosine: mean of the reviews.
        less_first: the index less that of the corpus's first checkpoint.
        words: as :func:`by_word` returns them, with the text of each ``word`` and its ``group``.
    """

    label: str
    corpus: Corpus
    cosine: float
    anchoring: Anchoring
    less_first: Estimate
    words: pd.DataFrame
    explained: list[Explained]


def load_corpora(
    checkpoints: Sequence[str], part: str, reviews: int, seed: int, settings: Mapping[str, Any]
) -> list[Corpus]:
    """Loads all checkpoints; those that share reviews and words become one corpus.

    Raises:
        AnalysisError: a model reads no reviews.
        UserError: as for :func:`load_trained`.
    """
    alike: dict[tuple[Any, ...], list[TrainedModel]] = {}
    for trained in load_trained(checkpoints, part, settings, taken=[PRETRAINED]):
        encoder = trained.encoder  # refuses a model that reads no reviews
        key = trained.config["dataset"], encoder.fast_tokenizer.to_str(), encoder.max_length
        ids = tuple(trained.review_ids(part).tobytes() for part in ("train", part))
        alike.setdefault((*key, *ids), []).append(trained)
    corpora = []
    for same in alike.values():
        n = len(same[0].parts[part])
        rows = np.random.default_rng(seed).choice(n, min(reviews, n), replace=False)
        corpora.append(Corpus(same, part, np.sort(rows), seed))
    return corpora


def explained_rows(corpus: Corpus, named: Sequence[str] | None, drawn: int) -> np.ndarray:
    """Returns the rows of the reviews that were named; if none was, of some that are drawn."""
    if named is not None:
        return np.flatnonzero(np.isin(corpus.review_ids(), named))
    n = min(drawn, len(corpus.rows))
    return np.sort(np.random.default_rng([corpus.seed, 1]).choice(corpus.rows, n, replace=False))


class _Model(NamedTuple):
    label: str
    encoder: ReviewEncoder
    similarity: Similarity


def look_into(corpus: Corpus, explained: np.ndarray, perturbations: int) -> list[Found]:
    """Returns what was measured of each checkpoint, and last of the pre-trained encoder."""
    reviews = corpus.first.parts[corpus.part].tokenised_reviews(corpus.first.encoder)
    words = corpus.words.lettered().of(corpus.rows)
    group = np.array([GROUPS.index(corpus.groups.of(text)) for text in words.vocabulary.tolist()], int)[words.word]
    rows = np.union1d(corpus.rows, explained)
    labels = [*(trained.label for trained in corpus.checkpoints), PRETRAINED]
    by_encoder: dict[str, list[_Model]] = {}  # models of one encoder share what it encodes, by far the longest part
    for model in [*_trained(corpus), _pretrained(corpus)]:
        by_encoder.setdefault(model.encoder.fingerprint(), []).append(model)
    hidden: dict[str, np.ndarray] = {}
    found: dict[str, Found] = {}
    for models in by_encoder.values():
        encoder, similarities = models[0].encoder, [model.similarity for model in models]
        attributions = occlusion(encoder, reviews, words, similarities)
        hidden |= dict(zip((model.label for model in models), attributions, strict=True))
        weights = [
            lime(encoder, reviews, row, similarities, perturbations, corpus.seed)
            for row in tqdm(explained, desc="LIME", unit="review", delay=3)
        ]
        vectors = torch.from_numpy(encoder.embed(reviews, rows, 0.0, 0))
        for number, model in enumerate(models):
            cosine = model.similarity.cosine(vectors, rows).numpy()
            drawn = cosine[np.isin(rows, corpus.rows)]
            of_explained = zip(explained, cosine[np.searchsorted(rows, explained)], weights, strict=True)
            where = group, words.word, words.review, DRAWS, corpus.seed
            found[model.label] = Found(
                model.label,
                corpus,
                float(drawn.mean()),
                anchoring(hidden[model.label], *where),
                index_difference(hidden[model.label], hidden[labels[0]], *where),
                _named(by_word(hidden[model.label], *where[1:]), corpus),
                [Explained(int(row), float(c), bool(c >= np.median(drawn)), w[number]) for row, c, w in of_explained],
            )
    return [found[label] for label in labels]


def _named(words: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    texts = corpus.words.vocabulary[words["word"]].tolist()
    return words.assign(word=texts, group=list(map(corpus.groups.of, texts)))


def _trained(corpus: Corpus) -> list[_Model]:
    return [
        _Model(
            trained.label,
            trained.encoder,
            Similarity(trained.projected, F.normalize(trained.interaction_vectors(corpus.part), dim=1)),
        )
        for trained in corpus.checkpoints
    ]


def _pretrained(corpus: Corpus) -> _Model:
    """The language model before training, its vectors seen from their mean over the training reviews."""
    trained = corpus.first
    encoder = ReviewEncoder.frozen_from_config(trained.config).to(trained.config["device"])
    vectors = torch.from_numpy(np.array(trained.train.embedded_reviews(encoder, 0, 0.0)[0]))
    own = vectors if corpus.part == "train" else None
    groups = list(zip(trained.pairs("train"), trained.pairs(corpus.part), strict=True))
    centre = vectors.mean(0)
    return _Model(
        PRETRAINED, encoder, Similarity(lambda found: found.cpu() - centre, text_references(vectors, groups, own))
    )
