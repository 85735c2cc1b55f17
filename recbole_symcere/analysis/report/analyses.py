"""The parts of a report's page that show what ``geometry``, ``anchoring`` and ``evidence`` wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_symcere.analysis.anchoring.corpus import PRETRAINED
from recbole_symcere.analysis.anchoring.tables import group_grid, index_grid, lime_grid, review_title, signal
from recbole_symcere.analysis.anchoring.writing import ABOUT
from recbole_symcere.analysis.evidence.measuring import evidence_grids
from recbole_symcere.analysis.geometry.measuring import geometry_grid
from recbole_symcere.analysis.report.page import Figures
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
class Reading:
    """A review's text as one model reads it."""

    model: str
    signal: str
    parts: Sequence[Part]


def geometry(folder: Path | None, figures: Figures) -> dict[str, Any] | None:
    """Returns the grid and the plots of the geometry; None if the folder has no ``geometry.json``.

    Raises:
        AnalysisError: a file is not as ``geometry`` writes it.
    """
    if not folder or not (file := folder / "geometry.json").is_file():
        return None
    with _written_by("geometry", file):
        content = read_json(file)
        grid, part = geometry_grid(content["checkpoints"]), content["part"]
    of_maps = f"Interactions of the part {part}, coloured by modality, by the item's popularity, and by item."
    drawn = [
        (f"figure-1-{file_name(label)}", f"Figure 1 of {label}: before and after training", of_maps)
        for label in grid.heads[1:]
    ]
    drawn.append(("figure-4", "Figure 4: variance by dimension", "Of user and of item vectors, at unit length."))
    drawn.append(("figure-cosines", "Cosines of users and items", "All users with all items."))
    plots = [figures.read(folder / f"{name}.svg", title, caption) for name, title, caption in drawn]
    return {"grid": grid, "plots": plots}


def anchoring(folder: Path | None, figures: Figures) -> dict[str, Any] | None:
    """Returns grids, plots and texts of the anchoring; None if the folder has no ``anchoring.json``.

    Reviews are called by their items, because their ids may hold user tokens.

    Raises:
        AnalysisError: a file is not as ``anchoring`` writes it.
    """
    if not folder or not (file := folder / "anchoring.json").is_file():
        return None
    with _written_by("anchoring", file):
        content = read_json(file)
        models = content["models"]
        several = len({model["dataset"] for model in models}) > 1
        names = [f"{model['dataset']}: {model['label']}" if several else model["label"] for model in models]
        shown: dict[str, Any] = {
            "about": " ".join(ABOUT.format(pretrained=PRETRAINED).split()),
            "index": index_grid(models, names, content["part"]),
            "groups": [group_grid(model, name) for model, name in zip(models, names, strict=True)],
            "words": lime_grid(models, names),
            "texts": _texts(models),
        }
        corpora = sum(model["label"] == PRETRAINED for model in models)
    caption = "Bars are 95% intervals over reviews and words."
    plots = [figures.read(folder / "anchoring-index.svg", "Anchoring index of each model", caption, shown["index"])]
    for number in range(1, corpora + 1):
        name = "anchoring-words" if corpora == 1 else f"anchoring-words-{number}"
        plots.append(figures.read(folder / f"{name}.svg", "Words that pull most", caption))
    return shown | {"plots": plots}


def evidence(folder: Path | None, figures: Figures) -> dict[str, Any] | None:
    """Returns the grids and the plot of the evidence; None if the folder has no ``evidence.json``.

    Raises:
        AnalysisError: a file is not as ``evidence`` writes it.
    """
    if not folder or not (file := folder / "evidence.json").is_file():
        return None
    with _written_by("evidence", file):
        content = read_json(file)
        grids, label = evidence_grids(content), content["checkpoint"]
    title = f"Why {label} recommends what it does"
    caption = (
        "What each piece of evidence adds to the scores of the best items for some users; to the left of 0, against."
    )
    return {"grids": grids, "plots": [figures.read(folder / "figure-evidence.svg", title, caption)]}


@contextmanager
def _written_by(command: str, file: Path) -> Iterator[None]:
    """Raises an AnalysisError where a file is not as the command writes it."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise AnalysisError(f"{file}: not as {command} writes it ({error!r}); make it again") from error


def _texts(models: Sequence[Mapping[str, Any]]) -> dict[str, list[Reading]]:
    """The texts of reviews by title, as each model reads them; none where the texts were not to be shown."""
    found: dict[str, list[Reading]] = {}
    for model in models:
        for number, review in enumerate(model["lime"], start=1):
            if "text" in review:
                title = f"{review_title(number, review).capitalize()} of {model['dataset']}"
                reading = Reading(model["label"], signal(review), shaded(review["text"], review["words"]))
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
