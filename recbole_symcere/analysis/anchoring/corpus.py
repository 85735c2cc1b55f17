"""Checkpoints, the reviews that they share, and what their words do: what ``anchoring`` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recbole_symcere.analysis.anchoring.attribution import Similarity, lime, occlusion, text_references
from recbole_symcere.analysis.anchoring.index import (
    DRAWS,
    Anchoring,
    Estimate,
    WordAttributions,
    anchoring,
    by_word,
    index_difference,
)
from recbole_symcere.analysis.trained import TrainedModel, load_trained
from recbole_symcere.analysis.words import GROUPS, Occurrences, WordGroups, languages_of, occurrences, word_groups
from recbole_symcere.data.tokens import TokenisedReviews
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
    def name(self) -> str:
        return str(self.checkpoints[0].config["dataset"])

    @cached_property
    def reviews(self) -> TokenisedReviews:
        return self._tokenised(self.part)

    @cached_property
    def words(self) -> Occurrences:
        """Of all the part's reviews."""
        return self._words(self.reviews)

    @cached_property
    def groups(self) -> WordGroups:
        train = self.checkpoints[0].train
        words = self._words(self._tokenised("train")).lettered()
        items = train.inter_feat[train.iid_field].numpy()
        return word_groups(words, items, languages_of(train.review_texts()), self.seed)

    def review_ids(self) -> np.ndarray:
        """Of the part's reviews, text [n]."""
        return self.checkpoints[0].review_ids(self.part)

    @cached_property
    def texts(self) -> list[str]:
        """Of the part's reviews."""
        return self.checkpoints[0].parts[self.part].review_texts()

    def _tokenised(self, part: str) -> TokenisedReviews:
        return self.checkpoints[0].parts[part].tokenised_reviews(self.checkpoints[0].encoder)

    def _words(self, reviews: TokenisedReviews) -> Occurrences:
        return occurrences(reviews, self.checkpoints[0].encoder.fast_tokenizer)


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
    """

    label: str
    corpus: Corpus
    cosine: float
    anchoring: Anchoring
    less_first: Estimate
    words: WordAttributions
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
    for trained in load_trained(checkpoints, settings, taken=[PRETRAINED]):
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


@dataclass(frozen=True)
class _Model:
    label: str
    encoder: ReviewEncoder
    similarity: Similarity


def look_into(corpus: Corpus, explained: np.ndarray, perturbations: int) -> list[Found]:
    """Returns what was measured of each checkpoint, and last of the pre-trained encoder."""
    words = corpus.words.lettered().of(corpus.rows)
    group_of = {text: GROUPS.index(corpus.groups.of(text)) for text in np.unique(words.texts).tolist()}
    group = np.array([group_of[text] for text in words.texts.tolist()], int)
    rows = np.union1d(corpus.rows, explained)
    labels = [*(trained.label for trained in corpus.checkpoints), PRETRAINED]
    hidden: dict[str, np.ndarray] = {}
    found: dict[str, Found] = {}
    for models in _by_encoder([*_trained(corpus), _pretrained(corpus)]):
        encoder, similarities = models[0].encoder, [model.similarity for model in models]
        attributions = occlusion(encoder, corpus.reviews, words, similarities)
        hidden |= dict(zip((model.label for model in models), attributions, strict=True))
        weights = [
            lime(encoder, corpus.reviews, row, similarities, perturbations, corpus.seed)
            for row in tqdm(explained, desc="LIME", unit="review", delay=3)
        ]
        vectors = torch.from_numpy(encoder.embed(corpus.reviews, rows, 0.0, 0))
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
                by_word(hidden[model.label], *where[1:]),
                [Explained(int(row), float(c), bool(c >= np.median(drawn)), w[number]) for row, c, w in of_explained],
            )
    return [found[label] for label in labels]


def _by_encoder(models: Sequence[_Model]) -> list[list[_Model]]:
    """Models of one encoder share what it encodes, by far the longest part."""
    groups: dict[str, list[_Model]] = {}
    for model in models:
        groups.setdefault(model.encoder.fingerprint(), []).append(model)
    return list(groups.values())


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
    trained = corpus.checkpoints[0]
    encoder = ReviewEncoder.frozen_from_config(trained.config).to(trained.config["device"])
    vectors = torch.from_numpy(np.array(trained.train.embedded_reviews(encoder, 0, 0.0)[0]))
    own = vectors if corpus.part == "train" else None
    groups = list(zip(trained.pairs("train"), trained.pairs(corpus.part), strict=True))
    centre = vectors.mean(0)
    return _Model(
        PRETRAINED, encoder, Similarity(lambda found: found.cpu() - centre, text_references(vectors, groups, own))
    )
