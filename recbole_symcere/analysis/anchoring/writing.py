"""What ``anchoring`` writes: records, tables and figures."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

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


def write(found: Sequence[Found], given: argparse.Namespace) -> str:
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
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
    with (folder / "anchoring-words.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([CSV_COLUMNS, *_csv_rows(found)])
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


def _sections(found: Sequence[Found], records: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> Iterator[str]:
    corpora = {id(result.corpus): result.corpus for result in found}.values()
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
