"""What ``geometry`` and ``anchoring`` wrote, as parts of a report's page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_symcere.analysis.anchoring.corpus import PRETRAINED
from recbole_symcere.analysis.anchoring.writing import ABOUT
from recbole_symcere.analysis.report.page import DASH, Cell, Figures, Grid, Plot, Row, minus
from recbole_symcere.analysis.shared import file_name, read_json
from recbole_symcere.errors import AnalysisError

GAP = 20  # characters that may stand between two words that were read of a text
FAINT = 0.15  # of a review's greatest weight; less is not shaded


@dataclass(frozen=True)
class Part:
    """Of a text: a word with its weight, or what stands between words, with None.

    Attributes:
        strength: the size of the weight, 1 for the greatest of the review; 0 for what is not to be shaded.
    """

    text: str
    weight: float | None = None
    strength: float = 0.0


@dataclass(frozen=True)
class Geometry:
    grid: Grid
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Reading:
    """A review's text as one model reads it."""

    model: str
    signal: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Anchoring:
    """``texts`` by the titles of reviews; none where the texts were not to be shown."""

    about: str
    plots: Sequence[Plot]
    index: Grid
    groups: Sequence[Grid]
    words: Grid
    texts: Mapping[str, Sequence[Reading]]


def geometry(folder: Path | None, figures: Figures) -> Geometry | None:
    """Table 4, Figures 1 and 4, and cosines; None, if the folder has no ``geometry.json``.

    Raises:
        AnalysisError: a file is not as ``geometry`` writes it.
    """
    if not folder or not (file := folder / "geometry.json").is_file():
        return None
    try:
        content = read_json(file)
        checkpoints, part = content["checkpoints"], content["part"]
        labels = [each["label"] for each in checkpoints]
        values = [{**each["settings"], **each["values"]} for each in checkpoints]
        rows = [Row(name, [_number(of[name]) for of in values]) for name in values[0]]
    except (LookupError, TypeError) as error:
        raise AnalysisError(f"{file}: not as geometry writes it ({error!r}); make it again") from error
    of_maps = f"Interactions of the part {part}, coloured by modality, by the item's popularity, and by item."
    drawn = [
        *(
            (f"figure-1-{file_name(label)}", f"Figure 1 of {label}: before and after training", of_maps)
            for label in labels
        ),
        ("figure-4", "Figure 4: variance by dimension", "Of user and of item vectors, at unit length."),
        ("figure-cosines", "Cosines of users and items", "All users with all items."),
    ]
    grid = Grid("Geometry of each checkpoint", ["measure", *labels], rows)
    return Geometry(grid, [figures.read(folder / f"{name}.svg", title, caption) for name, title, caption in drawn])


def anchoring(folder: Path | None, figures: Figures) -> Anchoring | None:
    """The anchoring index, groups of words and words of reviews; None, if the folder has no ``anchoring.json``.

    Reviews are called by their items: their ids may hold user tokens.

    Raises:
        AnalysisError: a file is not as ``anchoring`` writes it.
    """
    if not folder or not (file := folder / "anchoring.json").is_file():
        return None
    try:
        content = read_json(file)
        models = content["models"]
        several = len({model["dataset"] for model in models}) > 1
        names = [f"{model['dataset']}: {model['label']}" if several else model["label"] for model in models]
        index = _index(models, names, content["part"])
        groups = [_groups(model, name) for model, name in zip(models, names, strict=True)]
        words, texts = _words(models, names), _texts(models)
        corpora = sum(model["label"] == PRETRAINED for model in models)
    except (LookupError, TypeError, ValueError) as error:
        raise AnalysisError(f"{file}: not as anchoring writes it ({error!r}); make it again") from error
    caption = "Bars are 95% intervals over reviews and words."
    plots = [figures.read(folder / "anchoring-index.svg", "Anchoring index of each model", caption, index)]
    for number in range(1, corpora + 1):
        name = "anchoring-words" if corpora == 1 else f"anchoring-words-{number}"
        plots.append(figures.read(folder / f"{name}.svg", "Words that pull most", caption))
    return Anchoring(" ".join(ABOUT.format(pretrained=PRETRAINED).split()), plots, index, groups, words, texts)


def _index(models: Sequence[Mapping[str, Any]], names: Sequence[str], part: str) -> Grid:
    rows = [
        Row(
            name,
            [
                _number(model["reviews"]),
                _number(model["cosine"]),
                *(_estimate(model[key], 2) for key in ("index", "less_first")),
                *(_estimate(model["groups"][group]["mean"], 4) for group in ("objective", "sentiment")),
            ],
        )
        for model, name in zip(models, names, strict=True)
    ]
    index = "anchoring index", "less the first's"
    heads = ["model", f"{part} reviews", "mean cosine", *index, "objective words", "sentiment words"]
    return Grid("Anchoring index, and the mean pull of objective and of sentiment words", heads, rows)


def _groups(model: Mapping[str, Any], name: str) -> Grid:
    rows = [
        Row(
            keywords,
            [
                Cell(", ".join(group["examples"])),
                Cell(group["contribution"]),
                _estimate(group["mean"], 4),
                *(_share(group[share]) for share in ("share_of_words", "share_of_mass")),
            ],
        )
        for keywords, group in model["groups"].items()
    ]
    heads = ["keyword type", "example words", "contribution", "mean pull", "share of words", "share of pull"]
    return Grid(f"Words by type: {name}", heads, rows)


def _words(models: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Grid:
    """LIME of single reviews."""
    rows = [
        Row(
            name,
            [
                Cell(_title(number, review)),
                Cell(_signal(review)),
                *(Cell(", ".join(map(_weighed, review[side]))) for side in ("towards", "away")),
            ],
        )
        for model, name in zip(models, names, strict=True)
        for number, review in enumerate(model["lime"], start=1)
    ]
    heads = ["model", "review", "signal", "words towards the interaction", "words away from it"]
    return Grid("Words of single reviews (LIME)", heads, rows)


def _texts(models: Sequence[Mapping[str, Any]]) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {}
    for model in models:
        for number, review in enumerate(model["lime"], start=1):
            if "text" in review:
                title = f"{_title(number, review).capitalize()} of {model['dataset']}"
                reading = Reading(model["label"], _signal(review), shaded(review["text"], review["words"]))
                found.setdefault(title, []).append(reading)
    return found


def shaded(text: str, words: Sequence[tuple[str, float]]) -> list[Part]:
    """A text in parts, which together are the text; those that are among the words have their weights.

    The tokenizer may write a word otherwise than the text does, without its accents, say: such a one has no part.

    Args:
        words: in the text's order, with weights.
    """
    greatest = max((abs(weight) for word, weight in words if any(map(str.isalnum, word))), default=0.0)
    parts: list[Part] = []
    end, skipped = 0, 0
    for word, weight in words:
        pattern = re.compile(re.escape(word), re.IGNORECASE)
        found = pattern.search(text, end, end + len(word) + GAP + skipped) if word else None
        if found is None:
            skipped += len(word)
            continue
        shows = any(map(str.isalnum, word)) and abs(weight) >= FAINT * greatest > 0
        parts += [Part(text[end : found.start()]), Part(found[0], weight, abs(weight) / greatest if shows else 0.0)]
        end, skipped = found.end(), 0
    return [part for part in (*parts, Part(text[end:])) if part.text]


def _title(number: int, review: Mapping[str, Any]) -> str:
    return f"review {number}, of item {review['item']}"


def _signal(review: Mapping[str, Any]) -> str:
    return f"{review['signal']}, cosine {minus(format(review['cosine'], '.2f'))}"


def _weighed(word: Mapping[str, Any]) -> str:
    return f"{word['word']} {minus(format(word['weight'], '+.2f'))} ({word['group']})"


def _number(value: Any) -> Cell:
    """A setting or a measure; None is what is not defined."""
    if value is None:
        return Cell("n/a")
    if isinstance(value, float):
        return Cell(minus(f"{value:.4g}"), value)
    return Cell(str(value), value if type(value) is int else None)


def _estimate(estimate: Mapping[str, float | None], digits: int) -> Cell:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return DASH
    interval = "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
    return Cell(minus(f"{value:.{digits}f}"), value, minus(interval))


def _share(value: float | None) -> Cell:
    return DASH if value is None else Cell(minus(f"{value:.1%}"), value)
