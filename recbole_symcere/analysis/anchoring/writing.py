"""What ``anchoring`` writes: records, tables and figures."""

from __future__ import annotations

import argparse
import csv
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from recbole_symcere.analysis import words as word_rules
from recbole_symcere.analysis.anchoring.attribution import KERNEL_WIDTH, RIDGE
from recbole_symcere.analysis.anchoring.corpus import PRETRAINED, Corpus, Explained, Found
from recbole_symcere.analysis.anchoring.figures import draw_index, draw_words
from recbole_symcere.analysis.anchoring.index import DRAWS, Estimate
from recbole_symcere.analysis.shared import as_table, write_text
from recbole_symcere.analysis.words import LEAST_BITS, LEAST_REVIEWS, LEAST_VALENCE
from recbole_symcere.provenance import versions

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


def write(found: Sequence[Found], given: argparse.Namespace) -> str:
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
    write_text(folder / "anchoring.json", json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")
    with (folder / "anchoring-words.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([CSV_COLUMNS, *_csv_rows(found)])
    markdown = "\n".join(_sections(found, given))
    write_text(folder / "anchoring.md", markdown)
    _draw(found, folder)
    return markdown


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
