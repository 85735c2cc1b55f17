"""Semantic anchoring (section 6.2): which words pull reviews to their interactions, checkpoints side by side."""

from __future__ import annotations

import argparse
import csv
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recbole_symcere.analysis import words as word_rules
from recbole_symcere.analysis.aligned import PARTS, Aligned
from recbole_symcere.analysis.anchoring_figures import draw_index, draw_words
from recbole_symcere.analysis.anchoring_index import (
    DRAWS,
    Anchoring,
    Estimate,
    WordAttributions,
    anchoring,
    by_word,
    index_difference,
)
from recbole_symcere.analysis.attribution import KERNEL_WIDTH, RIDGE, Similarity, lime, occlusion, text_references
from recbole_symcere.analysis.neighbours import as_table, at_least_one
from recbole_symcere.analysis.words import (
    GROUPS,
    LEAST_BITS,
    LEAST_REVIEWS,
    LEAST_VALENCE,
    Occurrences,
    WordGroups,
    languages_of,
    occurrences,
    word_groups,
)
from recbole_symcere.data.reviews import TokenisedReviews
from recbole_symcere.errors import AnalysisError
from recbole_symcere.model.text import ReviewEncoder
from recbole_symcere.provenance import versions

HELP = "which words pull reviews to their interactions: objective ones, or sentiment; and LIME of single reviews"
PRETRAINED = "pre-trained encoder"
EXAMPLES = 5  # words of a group
TOP, BOTTOM = 6, 3  # words of a review: those that pull most to its interaction, and away from it
TEXT_WIDTH = 300  # characters of a review that a table with --show-text holds
RULES = ("LEAST_REVIEWS", "LEAST_BITS", "PERMUTATIONS", "LEAST_VALENCE", "MOST_IN_MAIN")
LIBRARIES = ("captum", "py3langid", "scikit-learn", "stopwordsiso", "vaderSentiment")
CSV_COLUMNS = ("dataset", "model", "word", "group", "reviews", "occurrences", "mean", "low", "high")

ABOUT = """\
Anchoring index: how much more an objective word pulls a review to its own interaction than a sentiment word does, in
units of the mean size of all words' pulls; 0 is no anchoring. A word's pull is what the cosine of the review's vector
and its interaction's, less the mean cosine with all interactions of the part, loses without the word. In brackets: 95%
intervals over reviews and words. "{pretrained}" knows no interaction: the mean direction of the user's and of the
item's other training reviews stands for it, so that it shows what the texts alone give. Share of pull: of the sum over
all words; it is signed, and says little where that sum is about 0. Less the first's: the index less that of the
dataset's first model, on the same resamples.
"""
GROUPING = """\
Words by group: sentiment (VADER, English only, a valence of {valence:g} or more either way), stop-word
(stopwords-iso), other language (next to never in a training review of the main one), objective (concentrated in few
items: at least {bits:g} bits beyond chance, p < 0.001, in {least} training reviews or more), other. Main language, by
dataset: {languages}.
"""
LIME = """\
LIME on the cosine of a review's vector and its interaction's, {samples:,} perturbations. A signal is strong if the
cosine is at least the median of the reviews above, else weak.
"""


@dataclass(frozen=True)
class Corpus:
    """Checkpoints that share training reviews, held-out reviews and words, and a part's reviews to look into.

    Attributes:
        rows: int, ascending: which of the part's reviews are drawn.
    """

    checkpoints: list[Aligned]
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
        return _review_ids(self.checkpoints[0], self.part)

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
    """What was measured of one model on its corpus.

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", nargs="+", required=True, metavar="[LABEL=]PATH", help="one or several, of any datasets")
    add("--part", choices=PARTS, default="valid", help="whose reviews; held-out ones show what was learned, not kept "
        "in mind (default: %(default)s)")  # fmt: skip
    add("--reviews", type=at_least_one, default=500, help="to draw, all if there are fewer (default: %(default)s)")
    add("--lime", type=int, default=3, metavar="K", help="of these, how many LIME explains (default: %(default)s)")
    add("--review", nargs="+", metavar="ID", help="explain these instead, by review_id")
    add("--perturbations", type=at_least_one, default=1000, help="of LIME, by review (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    add("--output", type=Path, default=Path("analysis"), help="folder (default: %(default)s)")
    add("--show-text", action="store_true", help="write the texts of explained reviews")


def run(given: argparse.Namespace, settings: dict[str, Any]) -> str:
    """Writes ``anchoring.json``, ``.md``, ``anchoring-words.csv`` and figures; the same command, the same files.

    Returns:
        The tables, as Markdown.

    Raises:
        AnalysisError: labels are not distinct, a checkpoint reads no reviews, there is no such review, or ``--lime``,
            ``--seed`` or ``--output`` can't be used.
        CheckpointError, ConfigError, DatasetError, ReviewFileError, EncoderError: as ``Aligned`` does.
    """
    if given.lime < 0 or given.seed < 0:
        raise AnalysisError(f"--lime is {given.lime} and --seed {given.seed}, but both must be 0 or more")
    if given.output.exists() and not given.output.is_dir():
        raise AnalysisError(f"--output {given.output} is a file; name a folder")
    corpora = _corpora(given, settings)
    chosen = [_explained_rows(corpus, given) for corpus in corpora]
    if missing := set(given.review or ()).difference(*(corpus.review_ids() for corpus in corpora)):
        raise AnalysisError(f"--review {sorted(missing)[0]}: no review of the part {given.part}; see --part")
    found = [
        result
        for corpus, rows in zip(corpora, chosen, strict=True)
        for result in _look_into(corpus, rows, given.perturbations)
    ]
    return _write(found, given)


def _corpora(given: argparse.Namespace, settings: dict[str, Any]) -> list[Corpus]:
    """All checkpoints are loaded before any is looked into: what can't be used shows at once."""
    loaded = [Aligned(checkpoint, {"show_progress": True} | settings) for checkpoint in given.checkpoint]
    labels = [aligned.label for aligned in loaded]
    if PRETRAINED in labels or len(set(labels)) < len(labels):
        raise AnalysisError(
            f"--checkpoint: labels must be distinct and not {PRETRAINED!r}, but are {', '.join(labels)}; A=PATH B=PATH"
        )
    alike: dict[tuple[Any, ...], list[Aligned]] = {}
    for aligned in loaded:
        encoder = aligned.encoder  # refuses a model that reads no reviews
        key = aligned.config["dataset"], encoder.fast_tokenizer.to_str(), encoder.max_length
        ids = tuple(_review_ids(aligned, part).tobytes() for part in ("train", given.part))
        alike.setdefault((*key, *ids), []).append(aligned)
    corpora = []
    for checkpoints in alike.values():
        n = len(checkpoints[0].parts[given.part])
        rows = np.random.default_rng(given.seed).choice(n, min(given.reviews, n), replace=False)
        corpora.append(Corpus(checkpoints, given.part, np.sort(rows), given.seed))
    return corpora


def _review_ids(aligned: Aligned, part: str) -> np.ndarray:
    data = aligned.parts[part]
    return np.asarray(data.field2id_token[data.review_field])[data.inter_feat[data.review_field].numpy()].astype(str)


def _explained_rows(corpus: Corpus, given: argparse.Namespace) -> np.ndarray:
    """Those of the reviews that were named, else some drawn."""
    if given.review is not None:
        return np.flatnonzero(np.isin(corpus.review_ids(), given.review))
    n = min(given.lime, len(corpus.rows))
    return np.sort(np.random.default_rng([given.seed, 1]).choice(corpus.rows, n, replace=False))


# Measuring


@dataclass(frozen=True)
class _Model:
    label: str
    encoder: ReviewEncoder
    similarity: Similarity


def _look_into(corpus: Corpus, explained: np.ndarray, perturbations: int) -> list[Found]:
    """Of each checkpoint, then of the pre-trained encoder."""
    words = corpus.words.lettered().of(corpus.rows)
    group_of = {text: GROUPS.index(corpus.groups.of(text)) for text in np.unique(words.texts).tolist()}
    group = np.array([group_of[text] for text in words.texts.tolist()], int)
    rows = np.union1d(corpus.rows, explained)
    labels = [*(aligned.label for aligned in corpus.checkpoints), PRETRAINED]
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
            aligned.label,
            aligned.encoder,
            Similarity(aligned.projected, F.normalize(aligned.interaction_vectors(corpus.part), dim=1)),
        )
        for aligned in corpus.checkpoints
    ]


def _pretrained(corpus: Corpus) -> _Model:
    """The language model before training, its vectors seen from their mean over the training reviews."""
    aligned = corpus.checkpoints[0]
    encoder = ReviewEncoder.frozen_from_config(aligned.config).to(aligned.config["device"])
    vectors = torch.from_numpy(np.array(aligned.train.embedded_reviews(encoder, 0, 0.0)[0]))
    own = vectors if corpus.part == "train" else None
    groups = list(zip(aligned.pairs("train"), aligned.pairs(corpus.part), strict=True))
    centre = vectors.mean(0)
    return _Model(
        PRETRAINED, encoder, Similarity(lambda found: found.cpu() - centre, text_references(vectors, groups, own))
    )


# Writing


def _write(found: Sequence[Found], given: argparse.Namespace) -> str:
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "part": given.part,
        "reviews": given.reviews,
        "seed": given.seed,
        "draws": DRAWS,
        "lime": {"perturbations": given.perturbations, "kernel_width": KERNEL_WIDTH, "ridge": RIDGE},
        "word_groups": {name.lower(): getattr(word_rules, name) for name in RULES},
        "versions": versions() | {name: metadata.version(name) for name in LIBRARIES},
        "models": [_record(result, given) for result in found],
    }
    _save(folder / "anchoring.json", json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")
    with (folder / "anchoring-words.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([CSV_COLUMNS, *_csv_rows(found)])
    markdown = "\n".join(_sections(found, given))
    _save(folder / "anchoring.md", markdown)
    _draw(found, folder)
    return markdown


def _save(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


def _plain(value: Any) -> Any:
    """For JSON: what is not defined is null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _record(result: Found, given: argparse.Namespace) -> dict[str, Any]:
    corpus = result.corpus
    record = {
        "label": result.label,
        "dataset": corpus.name,
        "language": corpus.groups.language,
        "reviews": len(corpus.rows),
        "cosine": result.cosine,
        **asdict(result.anchoring),
        "less_first": asdict(result.less_first),
        "lime": [_lime_record(result, explained, given) for explained in result.explained],
    }
    for name, group in record["groups"].items():
        group["examples"] = _examples(result, name)
    return record


def _examples(result: Found, group: str) -> list[str]:
    """A group's words with the greatest sum of attributions, greatest first."""
    measured, vocabulary = result.words, result.corpus.words.vocabulary
    order = np.argsort(-measured.mean * measured.occurrences, kind="stable")
    texts = vocabulary[measured.word[order]].tolist()
    return [text for text in texts if result.corpus.groups.of(text) == group][:EXAMPLES]


def _lime_record(result: Found, explained: Explained, given: argparse.Namespace) -> dict[str, Any]:
    """Words by weight; with ``--show-text`` also all of them in order.

    The review's id may hold a user token: it is there if it was given, or texts are shown.
    """
    corpus, row = result.corpus, explained.row
    train = corpus.checkpoints[0].train
    item = int(corpus.checkpoints[0].pairs(corpus.part)[1][row])
    order = np.argsort(-explained.weights, kind="stable")
    texts = corpus.words.of(np.array([row])).texts.tolist()
    weighed = [(texts[place], float(explained.weights[place])) for place in order]
    lettered = [(text, weight) for text, weight in weighed if any(map(str.isalpha, text))]
    record = {
        "item": str(train.field2id_token[train.iid_field][item]),
        "cosine": explained.cosine,
        "signal": "strong" if explained.strong else "weak",
        "towards": [_weighed(corpus, *word) for word in lettered[:TOP] if word[1] > 0],
        "away": [_weighed(corpus, *word) for word in lettered[: -BOTTOM - 1 : -1] if word[1] < 0],
    }
    if given.show_text or given.review is not None:
        record["review"] = str(corpus.review_ids()[row])
    if given.show_text:
        record["text"] = corpus.texts[row]
        record["words"] = [[text, weight] for text, weight in zip(texts, explained.weights.tolist(), strict=True)]
    return record


def _weighed(corpus: Corpus, text: str, weight: float) -> dict[str, Any]:
    return {"word": text, "weight": weight, "group": corpus.groups.of(text)}


def _csv_rows(found: Sequence[Found]) -> Iterator[list[Any]]:
    for result in found:
        columns = asdict(result.words)
        texts = result.corpus.words.vocabulary[columns.pop("word")].tolist()
        for text, *numbers in zip(texts, *(column.tolist() for column in columns.values()), strict=True):
            yield [result.corpus.name, result.label, text, result.corpus.groups.of(text), *numbers]


def _sections(found: Sequence[Found], given: argparse.Namespace) -> Iterator[str]:
    corpora = {id(result.corpus): result.corpus for result in found}.values()
    languages = ", ".join(f"{corpus.name}: {corpus.groups.language}" for corpus in corpora)
    yield ABOUT.format(pretrained=PRETRAINED)
    yield GROUPING.format(valence=LEAST_VALENCE, bits=LEAST_BITS, least=LEAST_REVIEWS, languages=languages)
    yield _index_table(found, given.part) + "\n"
    for result in found:
        yield f"{result.corpus.name}, {result.label}\n\n{_group_table(result)}\n"
    if any(result.explained for result in found):
        yield LIME.format(samples=given.perturbations)
        yield _lime_table(found, given) + "\n"


def _index_table(found: Sequence[Found], part: str) -> str:
    means = {
        f"{name} words' pull": [_shown(result.anchoring.groups[name].mean, 4) for result in found]
        for name in ("objective", "sentiment")
    }
    return as_table(
        {
            "dataset": [_cell(result.corpus.name) for result in found],
            "model": [_cell(result.label) for result in found],
            f"{part} reviews": [f"{len(result.corpus.rows):,}" for result in found],
            "mean cosine": [f"{result.cosine:.3f}" for result in found],
            "anchoring index": [_shown(result.anchoring.index, 2) for result in found],
            "less the first's": [_shown(result.less_first, 2) for result in found],
            **means,
        }
    )


def _group_table(result: Found) -> str:
    groups = result.anchoring.groups
    return as_table(
        {
            "keyword type": list(groups),
            "example words": [_cell(", ".join(_examples(result, name))) for name in groups],
            "contribution": [group.contribution for group in groups.values()],
            "mean pull": [_shown(group.mean, 4) for group in groups.values()],
            "share of words": [f"{group.share_of_words:.1%}" for group in groups.values()],
            "share of pull": [f"{group.share_of_mass:.1%}" for group in groups.values()],
        }
    )


def _lime_table(found: Sequence[Found], given: argparse.Namespace) -> str:
    pairs = [(result, _lime_record(result, one, given)) for result in found for one in result.explained]
    records = [record for _, record in pairs]
    columns = {
        "model": [_cell(result.label) for result, _ in pairs],
        "item": [_cell(record["item"]) for record in records],
        "signal": [f"{record['signal']} ({record['cosine']:.2f})" for record in records],
        "words towards the interaction": [_words(record["towards"]) for record in records],
        "words away from it": [_words(record["away"]) for record in records],
    }
    if "review" in records[0]:
        columns["review"] = [_cell(record["review"]) for record in records]
    if "text" in records[0]:
        columns["text"] = [_cell(textwrap.shorten(record["text"], TEXT_WIDTH, placeholder="…")) for record in records]
    return as_table(columns)


def _words(weighed: Sequence[Mapping[str, Any]]) -> str:
    return _cell(", ".join(f"{word['word']} {word['weight']:+.2f} ({word['group']})" for word in weighed))


def _shown(estimate: Estimate, digits: int) -> str:
    if np.isnan(estimate.value):
        return "n/a"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")


def _draw(found: Sequence[Found], folder: Path) -> None:
    corpora: dict[int, list[Found]] = {}
    for result in found:
        corpora.setdefault(id(result.corpus), []).append(result)
    several = len(corpora) > 1
    names = [f"{result.corpus.name}: {result.label}" if several else result.label for result in found]
    draw_index(names, [result.anchoring.index for result in found], folder)
    for number, results in enumerate(corpora.values(), start=1):
        groups = results[0].corpus.groups
        vocabulary = results[0].corpus.words.vocabulary
        columns = {result.label: (result.words, vocabulary[result.words.word].tolist()) for result in results}
        draw_words(columns, groups.of, folder, f"anchoring-words-{number}" if several else "anchoring-words")
