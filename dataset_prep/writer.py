"""The three files of a dataset, and the one step that puts them in place."""

from __future__ import annotations

import filecmp
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_prep.engine import Engine, literal
from dataset_prep.errors import PreparationError
from dataset_prep.text import token

SUFFIXES = (".inter", ".review.jsonl", ".stats.json")


@contextmanager
def new_dataset(output: Path) -> Iterator[Path]:
    """A temporary folder beside ``output``; what the body writes to its ``output.name`` becomes ``output`` at its end.

    Whatever ends the body early, ``output`` stays as it was. A dataset that is the same already is left alone; another
    is replaced whole.

    Raises:
        PreparationError: ``output`` isn't a place for a dataset, or the folder can't be written.
    """
    output = output.absolute().resolve()
    _check_output(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{output.name}-", dir=output.parent, ignore_cleanup_errors=True
        ) as work:
            (Path(work) / output.name).mkdir()
            yield Path(work)
            _put_in_place(Path(work) / output.name, output, Path(work) / "replaced")
    except OSError as error:
        raise PreparationError(f"{error.filename or output}: {error.strerror or error}") from error


def _check_output(output: Path) -> None:
    if not output.name:
        raise PreparationError(f"{output}: give the folder of the dataset, such as dataset/NAME")
    if output.exists() and not output.is_dir():
        raise PreparationError(f"{output}: there is a file of this name; choose another --output")
    foreign = sorted({path.name for path in output.glob("*")} - {output.name + suffix for suffix in SUFFIXES})
    if foreign:
        raise PreparationError(
            f"{output}: the folder holds other files ({', '.join(foreign[:3])}), which replacing it would take away; "
            "move them or choose another --output"
        )


def _put_in_place(new: Path, output: Path, replaced: Path) -> None:
    names = [output.name + suffix for suffix in SUFFIXES]
    if filecmp.cmpfiles(new, output, names, shallow=False)[0] == names:
        return
    if output.exists():
        output.replace(replaced)
    try:
        new.replace(output)
    except OSError:
        if replaced.exists():
            replaced.replace(output)
        raise


def write_interactions(engine: Engine, folder: Path) -> None:
    """``folder/NAME.inter``, NAME the folder's own: RecBole's atomic file, in the order of time.

    Timestamps are seconds since 1970, written so that they read back exactly. A missing rating is an empty field,
    which RecBole reads as NaN.
    """
    path = literal(str(folder / f"{folder.name}.inter"))
    engine.execute(
        f"""COPY (
            SELECT {token("user_id")} AS "user_id:token", {token("item_id")} AS "item_id:token",
                rating AS "rating:float", seconds AS "timestamp:float", 'r' || position AS "review_id:token"
            FROM interactions ORDER BY position
        ) TO {path} (FORMAT csv, DELIMITER '\t', HEADER, QUOTE '', ESCAPE '')""",
        task="writing interactions",
    )


def write_reviews(engine: Engine, folder: Path) -> None:
    """``folder/NAME.review.jsonl``: ``review_id`` and ``review`` of each interaction, in the same order."""
    path = literal(str(folder / f"{folder.name}.review.jsonl"))
    engine.execute(
        f"""COPY (
            SELECT 'r' || position AS review_id, review
            FROM interactions JOIN (SELECT row, review FROM reviews) USING (row) ORDER BY position
        ) TO {path} (FORMAT json)""",
        task="writing reviews",
    )


def write_statistics(statistics: dict[str, Any], folder: Path) -> None:
    """``folder/NAME.stats.json``."""
    path = folder / f"{folder.name}.stats.json"
    path.write_text(json.dumps(statistics, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
