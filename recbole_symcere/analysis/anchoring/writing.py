"""What ``anchoring`` writes: records, tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_symcere.analysis import words as word_rules
from recbole_symcere.analysis.anchoring.attribution import KERNEL_WIDTH, RIDGE
from recbole_symcere.analysis.anchoring.corpus import PRETRAINED, Corpus, Explained, Found
from recbole_symcere.analysis.anchoring.figures import draw_index, draw_words
from recbole_symcere.analysis.anchoring.index import DRAWS
from recbole_symcere.analysis.anchoring.tables import group_grid, index_grid, lime_grid
from recbole_symcere.analysis.shared import without_nan, write_json, write_text
from recbole_symcere.analysis.words import LEAST_BITS, LEAST_REVIEWS, LEAST_VALENCE
from recbole_symcere.provenance import versions

EXAMPLES = 5  # words of a group
TOP, BOTTOM = 6, 3  # words of a review: those that pull most to its interaction, and away from it
RULES = ("LEAST_REVIEWS", "LEAST_BITS", "PERMUTATIONS", "LEAST_VALENCE", "MOST_IN_MAIN")
LIBRARIES = ("captum", "py3langid", "scikit-learn", "stopwordsiso", "vaderSentiment")
CSV_COLUMNS = ["dataset", "model", "word", "group", "reviews", "occurrences", "mean", "low", "high"]

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


def write(found: Sequence[Found], given: argparse.Namespace) -> str:
    folder: Path = given.output
    records = without_nan([_record(result, given) for result in found])
    content = {
        "part": given.part,
        "reviews": given.reviews,
        "seed": given.seed,
        "draws": DRAWS,
        "lime": {"perturbations": given.perturbations, "kernel_width": KERNEL_WIDTH, "ridge": RIDGE},
        "word_groups": {name.lower(): getattr(word_rules, name) for name in RULES},
        "versions": versions() | {name: metadata.version(name) for name in LIBRARIES},
        "models": records,
    }
    write_json(folder / "anchoring.json", content)
    words = pd.concat([result.words.assign(dataset=result.corpus.name, model=result.label) for result in found])
    write_text(folder / "anchoring-words.csv", words.to_csv(index=False, columns=CSV_COLUMNS, lineterminator="\n"))
    markdown = "\n".join(_sections(found, records, given))
    write_text(folder / "anchoring.md", markdown)
    _draw(found, folder)
    return markdown


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
        group["examples"] = _examples(result.words, name)
    return record


def _examples(words: pd.DataFrame, group: str) -> list[str]:
    """A group's words with the greatest sum of attributions, greatest first."""
    found = words[words["group"] == group]
    sums = (found["mean"] * found["occurrences"]).sort_values(ascending=False, kind="stable")
    examples: list[str] = found["word"][sums.index[:EXAMPLES]].tolist()
    return examples


def _lime_record(result: Found, explained: Explained, given: argparse.Namespace) -> dict[str, Any]:
    """Words by weight; with ``--show-text`` also all of them in order.

    The review's id may hold a user token: it is there if it was given, or texts are shown.
    """
    corpus, row = result.corpus, explained.row
    item = corpus.first.pairs(corpus.part)[1][row]
    order = np.argsort(-explained.weights, kind="stable")
    texts = corpus.words.of(np.array([row])).texts.tolist()
    weighed = [(texts[place], float(explained.weights[place])) for place in order]
    lettered = [(text, weight) for text, weight in weighed if any(map(str.isalpha, text))]
    record = {
        "item": str(corpus.first.item_tokens()[item]),
        "cosine": explained.cosine,
        "signal": "strong" if explained.strong else "weak",
        "towards": [_weighed(corpus, *word) for word in lettered[:TOP] if word[1] > 0],
        "away": [_weighed(corpus, *word) for word in lettered[: -BOTTOM - 1 : -1] if word[1] < 0],
    }
    if given.show_text or given.review is not None:
        record["review"] = str(corpus.review_ids()[row])
    if given.show_text:
        record["text"] = corpus.first.parts[corpus.part].review_texts()[row]
        record["words"] = [[text, weight] for text, weight in zip(texts, explained.weights.tolist(), strict=True)]
    return record


def _weighed(corpus: Corpus, text: str, weight: float) -> dict[str, Any]:
    return {"word": text, "weight": weight, "group": corpus.groups.of(text)}


def _sections(found: Sequence[Found], records: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> Iterator[str]:
    corpora = [results[0].corpus for results in _by_corpus(found)]
    languages = ", ".join(f"{corpus.name}: {corpus.groups.language}" for corpus in corpora)
    names = [f"{record['dataset']}, {record['label']}" for record in records]
    yield ABOUT.format(pretrained=PRETRAINED)
    yield GROUPING.format(valence=LEAST_VALENCE, bits=LEAST_BITS, least=LEAST_REVIEWS, languages=languages)
    yield index_grid(records, names, given.part).to_markdown() + "\n"
    for record, name in zip(records, names, strict=True):
        yield f"{name}\n\n{group_grid(record, name).to_markdown()}\n"
    if any(result.explained for result in found):
        yield LIME.format(samples=given.perturbations)
        yield lime_grid(records, names, quoted=True).to_markdown() + "\n"


def _by_corpus(found: Sequence[Found]) -> list[list[Found]]:
    return [list(results) for _, results in groupby(found, key=lambda result: id(result.corpus))]


def _draw(found: Sequence[Found], folder: Path) -> None:
    corpora = _by_corpus(found)
    several = len(corpora) > 1
    names = [f"{result.corpus.name}: {result.label}" if several else result.label for result in found]
    draw_index(names, [result.anchoring.index for result in found], folder)
    for number, results in enumerate(corpora, start=1):
        words = {result.label: result.words for result in results}
        draw_words(words, folder, f"anchoring-words-{number}" if several else "anchoring-words")
