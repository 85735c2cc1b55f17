"""A trained model's vectors with their tokens, for vector stores, and its LoRA adapter.

docs/everyday.md has a program that finds the nearest items and the best for a user from the files alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

from recbole_symcere.analysis.shared import write_json
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.checkpoint import FREE_SETTINGS
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.errors import AnalysisError
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import parse_assignments
from recbole_symcere.provenance import versions, without_folders

HELP = "user, item and review vectors with their tokens, and the LoRA adapter, as files without pickle"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --output vectors
  %(prog)s --checkpoint saved/demo.pth --output vectors --format parquet --without-users
"""
FORMATS = ("safetensors", "parquet")


VECTOR = "vector"  # the column of vectors


def tables(trained: TrainedModel, with_users: bool = True) -> dict[str, pl.DataFrame]:
    """Returns all that is exported, without the rows of the padding.

    - ``users`` and ``items``: ``ranking_vectors``, whose dot products are the model's scores, or for SymCEREPlus those
      of its graph model, which are a part of its scores.
    - ``reviews``: the training reviews in the graph's space, of unit length where the model normalises; a model
      without text has none. Review ids may be made of user tokens, so without users they are left out. The rows are
      then sorted by item, because the order of the interactions would tell which reviews have the same writer.

    Returns:
        Tables by name, each with one or two columns of tokens and the column ``vector``, of fixed length.
    """
    with torch.no_grad():
        users, items = (vectors[1:] for vectors in trained.model.ranking_vectors())
    found = {"items": _table(items, item=trained.item_tokens()[1:])}
    if with_users:
        found["users"] = _table(users, user=trained.user_tokens()[1:])
    if not trained.reads_reviews:
        return found
    vectors = trained.review_vectors()
    of_items = trained.item_tokens()[trained.pairs()[1].numpy()]
    if with_users:
        found["reviews"] = _table(vectors, review_id=trained.review_ids("train"), item=of_items)
    else:
        order = np.lexsort((vectors[:, 0].numpy(), of_items))
        found["reviews"] = _table(vectors[torch.from_numpy(order)], item=of_items[order])
    return found


def _table(vectors: torch.Tensor, **tokens: np.ndarray) -> pl.DataFrame:
    array = np.ascontiguousarray(vectors.float().cpu().numpy())
    return pl.DataFrame({**tokens, VECTOR: pl.Series(array, dtype=pl.Array(pl.Float32, array.shape[1]))})


def write_safetensors(folder: Path, found: Mapping[str, pl.DataFrame]) -> None:
    """Writes ``vectors.safetensors``, a tensor for each table, and ``tokens.json``: table -> column -> tokens."""
    save_file({name: table[VECTOR].to_numpy() for name, table in found.items()}, folder / "vectors.safetensors")
    tokens = {name: table.drop(VECTOR).to_dict(as_series=False) for name, table in found.items()}
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")


def write_parquet(folder: Path, found: Mapping[str, pl.DataFrame]) -> None:
    """Writes a file ``NAME.parquet`` for each table."""
    for name, table in found.items():
        table.write_parquet(folder / f"{name}.parquet")


def describe(trained: TrainedModel, found: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Returns what ``export.json`` holds: how the vectors were made, without a folder or a date."""
    settings = {key: value for key, value in trained.config.settings.items() if key not in FREE_SETTINGS}
    return {
        "model": trained.config["model"],
        "dataset": trained.config["dataset"],
        "scores": "dot products of users and items",
        "shapes": {name: _shape(table) for name, table in found.items()},
        "settings": without_folders(settings),
        "fingerprints": {
            "data": source_fingerprint(trained.config),
            "checkpoint": hashlib.sha256(trained.path.read_bytes()).hexdigest(),
        },
        "versions": versions(),
    }


def _shape(table: pl.DataFrame) -> list[int]:
    return [len(table), *table.schema[VECTOR].shape]  # type: ignore[attr-defined]


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
    with TemporaryDirectory(dir=output.parent, prefix=f"{output.name}.") as temporary:  # it goes if an error comes
        folder = Path(temporary) / output.name
        folder.mkdir()
        (write_safetensors if given.format == "safetensors" else write_parquet)(folder, found)
        trained.model.save_adapter(folder / "adapter")
        write_json(folder / "export.json", describe(trained, found))
        files = sorted(path.name for path in folder.iterdir())
        if output.is_dir():
            output.rmdir()  # Windows renames onto no folder, be it empty
        folder.rename(output)
    shapes = ["{} {:,} x {}".format(name, *_shape(table)) for name, table in found.items()]
    missing = "" if "reviews" in found else " (no reviews: the model was trained without)"
    print(f"{given.output}: {', '.join(files)}\n{trained.label}: {', '.join(shapes)}{missing}")
