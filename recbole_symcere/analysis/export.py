"""A trained model's vectors with their tokens, for vector stores, and its LoRA adapter.

The README has a program that finds the nearest items and the best for a user from the files alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.checkpoint import FREE_SETTINGS
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.errors import AnalysisError
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments
from recbole_symcere.provenance import versions

HELP = "user, item and review vectors with their tokens, and the LoRA adapter, as files without pickle"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --output vectors
  %(prog)s --checkpoint saved/demo.pth --output vectors --format parquet --without-users
"""
FORMATS = ("safetensors", "parquet")


@dataclass(frozen=True)
class Table:
    """Holds the vectors of one kind, such as items, and their tokens.

    Attributes:
        tokens: column name -> [n] text, row by row.
        vectors: float32 [n, d].
    """

    tokens: dict[str, np.ndarray]
    vectors: np.ndarray


def tables(trained: TrainedModel, with_users: bool = True) -> dict[str, Table]:
    """Returns all that is exported, without the rows of the padding.

    - ``users`` and ``items``: ``ranking_vectors``, whose dot products are the model's scores. SymCEREPlus's have its
      text profiles behind the graph's columns.
    - ``reviews``: the training reviews in the graph's space, of unit length where the model normalises; a model
      without text has none. Review ids may be made of user tokens, so without users they are left out. The rows are
      then sorted by item, because the order of the interactions would tell which reviews have the same writer.

    Returns:
        Tables by name.
    """
    with torch.no_grad():
        users, items = (_array(vectors[1:]) for vectors in trained.model.ranking_vectors())
    found = {"items": Table({"item": trained.item_tokens()[1:]}, items)}
    if with_users:
        found["users"] = Table({"user": trained.user_tokens()[1:]}, users)
    try:
        vectors = _array(trained.review_vectors())
    except AnalysisError:  # trained without
        return found
    of_items = trained.item_tokens()[trained.pairs()[1].numpy()]
    if with_users:
        found["reviews"] = Table({"review_id": trained.review_ids("train"), "item": of_items}, vectors)
    else:
        order = np.lexsort((vectors[:, 0], of_items))
        found["reviews"] = Table({"item": of_items[order]}, vectors[order])
    return found


def write_safetensors(folder: Path, found: Mapping[str, Table]) -> None:
    """Writes ``vectors.safetensors``, a tensor for each table, and ``tokens.json``: table -> column -> tokens."""
    save_file({name: table.vectors for name, table in found.items()}, folder / "vectors.safetensors")
    tokens = {name: {key: column.tolist() for key, column in table.tokens.items()} for name, table in found.items()}
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")


def write_parquet(folder: Path, found: Mapping[str, Table]) -> None:
    """Writes a file ``NAME.parquet`` for each table, with its columns of tokens and ``vector``, of fixed length."""
    for name, table in found.items():
        vector = pl.Series(table.vectors, dtype=pl.Array(pl.Float32, table.vectors.shape[1]))
        pl.DataFrame({**table.tokens, "vector": vector}).write_parquet(folder / f"{name}.parquet")


def describe(trained: TrainedModel, found: Mapping[str, Table]) -> dict[str, Any]:
    """Returns what ``export.json`` holds: how the vectors were made, without a folder or a date."""
    settings = {key: value for key, value in trained.config.settings.items() if key not in FREE_SETTINGS}
    return {
        "model": trained.config["model"],
        "dataset": trained.config["dataset"],
        "scores": "dot products of users and items",
        "shapes": {name: list(table.vectors.shape) for name, table in found.items()},
        "settings": {key: _portable(value) for key, value in settings.items()},
        "fingerprints": {
            "data": source_fingerprint(trained.config),
            "checkpoint": hashlib.sha256(trained.path.read_bytes()).hexdigest(),
        },
        "versions": versions(),
    }


def _portable(value: Any) -> Any:
    """A setting without this machine's folders: of a path that begins at the root or at home, the last part."""
    is_own = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return Path(value).name if is_own else value


def _array(vectors: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.float().cpu().numpy())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``folder``, which takes its name at the end and goes if an error comes first."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if folder.is_dir():
            folder.rmdir()  # Windows renames onto no folder, be it empty
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(folder: Path) -> None:
    """Makes the folder that ``folder`` is to stand in.

    Raises:
        AnalysisError: ``folder`` holds something already.
        ConfigError: the folder above ``folder`` can't be made or written to.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise AnalysisError(f"--output: {folder} exists and is not empty; name a new folder, or move it")
    make_output_folder(folder.parent, "--output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--checkpoint", required=True, help="a checkpoint of SymCERE")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the vectors (%(default)s)")
    parser.add_argument(
        "--without-users",
        action="store_true",
        help="neither user vectors nor user tokens, nor review ids, which may hold them; review vectors stay, and "
        "are still made of what persons wrote",
    )


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the folder and prints what is in it.

    Raises:
        UserError: the output is not a new folder, or the checkpoint can't be used or is not one of SymCERE's.
    """
    settings = parse_assignments(rest)
    output = given.output.resolve()
    check_output(output)
    trained = TrainedModel(given.checkpoint, {"show_progress": True, **settings})
    found = tables(trained, with_users=not given.without_users)
    with new_folder(output) as folder:
        (write_safetensors if given.format == "safetensors" else write_parquet)(folder, found)
        trained.model.save_adapter(folder / "adapter")
        description = json.dumps(describe(trained, found), indent=2, ensure_ascii=False)
        (folder / "export.json").write_text(description + "\n", encoding="utf-8")
        files = sorted(path.name for path in folder.iterdir())
    shapes = [f"{name} {table.vectors.shape[0]:,} x {table.vectors.shape[1]}" for name, table in found.items()]
    missing = "" if "reviews" in found else " (no reviews: the model was trained without)"
    print(f"{given.output}: {', '.join(files)}\n{trained.label}: {', '.join(shapes)}{missing}")
