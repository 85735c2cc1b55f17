"""Checkpoints: files that hold a model and the state of its training, and nothing that can be executed.

The checkpoint of a run, for example ``run.pth``, holds the best epoch. Beside it, ``run.resume.pth`` holds the newest
epoch with everything that is needed to continue the run, and ``run.lock`` is locked while the run writes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from filelock import FileLock, Timeout

from recbole_symcere.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from recbole.data.dataloader import AbstractDataLoader
    from recbole.model.abstract_recommender import AbstractRecommender

    from recbole_symcere.config import Config

FORMAT = 4
SERVING_FORMAT = 1  # of what ``Recommender.to_serve`` returns
# What checkpoints of older formats that can still be loaded do not say, because there was no choice.
OLDER_SETTINGS: dict[int, dict[str, Any]] = {
    3: {"tie_break": "file", "candidates": "all", "cold_users": "model", "refit": False}
}
# Settings that a resumed run may change: where it reads and writes, what it shows, and when it ends.
FREE_SETTINGS = frozenset({
    "checkpoint_file", "checkpoint_dir", "result_file", "config_files", "data_path", "text_cache_dir", "gpu_id",
    "use_gpu", "state", "show_progress", "epochs", "stopping_step", "log_wandb", "wandb_project", "audit",
    "trust_pickles", "imports",
})  # fmt: skip


def resume_path(checkpoint: str | Path) -> Path:
    """Returns the path of the file with the newest epoch, from which a run is continued."""
    checkpoint = Path(checkpoint)
    return checkpoint.with_name(f"{checkpoint.stem}.resume{checkpoint.suffix}")


def validation_path(checkpoint: str | Path) -> Path:
    """Returns the path of the checkpoint that validation chose, if ``checkpoint`` holds the second fit of ``refit``."""
    checkpoint = Path(checkpoint)
    return checkpoint.with_name(f"{checkpoint.stem}.validation{checkpoint.suffix}")


def lock_path(checkpoint: str | Path) -> Path:
    """Returns the path of the file that a run keeps locked while it writes ``checkpoint``."""
    return Path(checkpoint).with_suffix(".lock")


@contextmanager
def locked(checkpoint: Path) -> Iterator[None]:
    """Keeps other runs from writing a checkpoint while the body runs.

    Raises:
        CheckpointError: another run is writing the checkpoint.
    """
    try:
        with FileLock(lock_path(checkpoint), timeout=0):
            yield
    except Timeout as error:
        raise CheckpointError(
            f"{checkpoint} belongs to a run that is still training: wait for it, or name another --checkpoint_file"
        ) from error


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of this package; nothing in it is executed.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it was written by another program or version.
    """
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: a folder; name a checkpoint in it, such as RUN.pth") from None
    except Exception as error:  # a damaged or foreign file can make torch raise an error of any type
        raise CheckpointError(
            f"{path}: not a readable checkpoint of recbole_symcere ({type(error).__name__}); it is cut short, or was "
            "written by another program. Train again, or delete it to start anew under this name"
        ) from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise CheckpointError(f"{path}: not a checkpoint of recbole_symcere; train again")
    if checkpoint["format"] in OLDER_SETTINGS:
        settings = OLDER_SETTINGS[checkpoint["format"]] | checkpoint["config"]
        checkpoint |= {"format": FORMAT, "config": settings, "refit": False}
    if checkpoint["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: another version of recbole_symcere wrote this checkpoint (format {checkpoint['format']!r}, "
            f"this version reads {FORMAT}); train again, or install the version that wrote it"
        )
    return checkpoint


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint; if the call is interrupted, the older file stays as it was.

    Raises:
        CheckpointError: the file can't be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(dict(state), temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if it can't write
        raise CheckpointError(
            f"{path}: can't be written ({error}); free disk space or mend the folder, and give the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_same_data(path: str | Path, checkpoint: Mapping[str, Any], config: Config) -> None:
    """Checks that a configuration reads the data that a checkpoint was trained on.

    Raises:
        CheckpointError: the atomic files or the settings that filter them have changed.
    """
    from recbole_symcere.data.fingerprint import source_fingerprint  # needs RecBole, which serving does not load

    if checkpoint["data"] != source_fingerprint(config):
        raise CheckpointError(
            f"{path}: the dataset {config['dataset']} is not the one that this run was trained on: its files or "
            "filters have changed; put them back, or train anew under another name"
        )


def check_same_settings(path: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a run is resumed with the settings that it was started with, except ``FREE_SETTINGS``.

    Raises:
        CheckpointError: a setting has changed.
    """
    keys = sorted((before.keys() | now.keys()) - FREE_SETTINGS)
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{path}: the run was started with other settings ({'; '.join(changed)}); "
            "use the same, or another --checkpoint_file"
        )


def stored_config(checkpoint: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Config:
    """Returns the configuration that a checkpoint was trained with.

    A checkpoint can't make code run, be it in a pickle, an encoder or a module: only ``changes`` can allow it.

    Raises:
        ConfigError: a setting can't be used here.
    """
    from recbole_symcere.config import Config  # needs RecBole, which serving does not load

    stored, changes = checkpoint["config"], dict(changes or {})
    distrust = {key: False for key in ("trust_pickles", "trust_remote_code") if key in stored}
    imports = stored.get("imports", [])
    try:
        return Config(config_dict=stored | distrust | {"imports": []} | changes)
    except ConfigError as error:
        if not imports or "imports" in changes:
            raise
        raise ConfigError(f"{error}. The run imported modules; if you trust them, give --imports={imports}") from error


def restore(model: AbstractRecommender, checkpoint: Mapping[str, Any]) -> None:
    """Loads the weights of a checkpoint into a model."""
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter({name: _restored(value) for name, value in checkpoint["other_parameter"].items()})


def storable_parameters(model: AbstractRecommender) -> dict[str, Any]:
    """Returns what a model keeps beside its state dict, with arrays and sparse matrices converted to tensors.

    ItemKNN and similar models of RecBole keep such arrays, but a checkpoint can hold only tensors and plain values.
    """
    return {name: _storable(value) for name, value in model.other_parameter().items()}


def _storable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(np.asarray(value))}
    if scipy.sparse.issparse(value):
        rows = value.tocsr()
        parts = [torch.from_numpy(part) for part in (rows.data, rows.indices, rows.indptr)]
        return {"sparse": parts, "shape": list(rows.shape), "format": value.format}
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].cpu().numpy()
    parts = tuple(part.cpu().numpy() for part in value["sparse"])
    return scipy.sparse.csr_matrix(parts, value["shape"]).asformat(value["format"])


def random_state(device: torch.device, train_data: AbstractDataLoader) -> dict[str, Any]:
    """Returns the state of every generator that training draws from, as tensors and plain values.

    If several processes train, their generators are in the same state, so one state stands for all.
    """
    numpy: Any = np.random.get_state(legacy=True)  # RecBole's samplers draw from it
    _, keys, position, has_gauss, gauss = numpy
    return {
        "python": list(random.getstate()[1]),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "train_data": train_data.generator.get_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def set_random_state(state: Mapping[str, Any], device: torch.device, train_data: AbstractDataLoader) -> None:
    """Puts every generator into a state that :func:`random_state` returned."""
    train_data.generator.set_state(state["train_data"].cpu())
    random.setstate((3, tuple(state["python"]), None))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0].cpu(), device)
