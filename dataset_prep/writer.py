"""Writes the three files of a dataset, and puts them in place in one step."""

from __future__ import annotations

import filecmp
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_prep.engine import Executor
from dataset_prep.errors import PreparationError
from dataset_prep.text import token

SUFFIXES = (".inter", ".review.jsonl", ".stats.json")
COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float", "review_id:token")


@contextmanager
def new_dataset(output: Path) -> Iterator[tuple[Path, Path]]:
    """Yields a temporary folder to work in, and a folder for the files of the dataset, which becomes ``output``.

    If the body ends early, for whatever reason, ``output`` stays as it was. If ``output`` has the same files already,
    it is left alone; otherwise the new folder replaces it as a whole.

    Raises:
        PreparationError: ``output`` can't be a dataset, for example because it holds other files; or a folder can't be
            written.
    """
    # If ``output`` is a link, the dataset is named after the link, and the folder that it points to is replaced.
    name, place = output.absolute().name, _resolved(output)
    names = [name + suffix for suffix in SUFFIXES]
    try:
        _check_place(name, place, names)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place.parent, ignore_cleanup_errors=True) as work:
            new = Path(work) / "new" / name
            new.mkdir(parents=True)
            yield Path(work), new
            _put_in_place(new, place, names, Path(work) / "replaced")
    except OSError as error:
        raise PreparationError(f"{error.filename or output}: {error.strerror or error}") from error


def _resolved(output: Path) -> Path:
    try:
        return output.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, or a NUL
        raise PreparationError(f"{output}: {error}; choose another --output") from error


def _check_place(name: str, place: Path, names: Sequence[str]) -> None:
    if not name:
        raise PreparationError(f"{place}: give the folder of the dataset, such as dataset/NAME")
    if place.exists() and not place.is_dir():
        raise PreparationError(f"{place}: there is a file of this name; choose another --output")
    foreign = sorted({path.name for path in place.glob("*")} - set(names))
    if foreign:
        raise PreparationError(
            f"{place}: the folder holds other files ({', '.join(foreign[:3])}), which would be lost; "
            "move them or choose another --output"
        )


def _put_in_place(new: Path, place: Path, names: Sequence[str], replaced: Path) -> None:
    if _are_the_same(new, place, names):
        return
    if place.exists():
        place.replace(replaced)
    try:
        new.replace(place)
    except OSError:
        if replaced.exists():
            replaced.replace(place)
        elif _are_the_same(new, place, names):
            return  # another run has made the same dataset in the meantime
        raise


def _are_the_same(new: Path, place: Path, names: Sequence[str]) -> bool:
    return filecmp.cmpfiles(new, place, names, shallow=False)[0] == names


def write_interactions(engine: Executor, folder: Path) -> None:
    """Writes RecBole's atomic file ``folder/NAME.inter`` in the order of time. NAME is the name of the folder.

    Timestamps are seconds since 1970, with enough digits to be read back exactly. A missing rating is an empty
    field, which RecBole reads as NaN.
    """
    fields = (
        token("user_id"),
        token("item_id"),
        "coalesce(rating::VARCHAR, '')",
        "seconds::VARCHAR",
        "'r' || position",
    )
    engine.write(
        folder / f"{folder.name}.inter",
        "SELECT position, user_id, item_id, rating, seconds FROM interactions",
        f"SELECT position, {' || chr(9) || '.join(f'({field})' for field in fields)} AS line FROM batch",
        header="\t".join(COLUMNS),
        task="writing interactions",
    )


def write_reviews(engine: Executor, folder: Path, text: str) -> None:
    """Writes ``folder/NAME.review.jsonl``: the ``review_id`` and the ``review`` of each interaction, in the same order.

    Args:
        text: the SQL that ``pipeline.cleaned`` returned.
    """
    engine.write(
        folder / f"{folder.name}.review.jsonl",
        "SELECT position, review FROM interactions JOIN (SELECT row, review FROM parsed) USING (row)",
        f"SELECT position, to_json({{'review_id': 'r' || position, 'review': {text}}})::VARCHAR AS line FROM batch",
        task="writing reviews",
    )


def write_statistics(statistics: dict[str, Any], folder: Path) -> None:
    """Writes the statistics to ``folder/NAME.stats.json``."""
    path = folder / f"{folder.name}.stats.json"
    path.write_text(json.dumps(statistics, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
