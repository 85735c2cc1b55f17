"""The trainings of a comparison: trials, which are scored on validation, and runs with a seed, scored on test."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from recbole_symcere.checkpoint import FREE_SETTINGS, lock_path, resume_path, validation_path
from recbole_symcere.comparison.tables import Run
from recbole_symcere.config import Config
from recbole_symcere.errors import RunsError
from recbole_symcere.metrics import PRIMARY
from recbole_symcere.provenance import commit, versions
from recbole_symcere.recbole_settings import mode_on_test
from recbole_symcere.run import Fitted, finite, fit
from recbole_symcere.trainer import Trainer

NOT_COMPARED = FREE_SETTINGS - {"epochs", "stopping_step"}  # settings that can't change the result of a finished run
VALID_USERS = "valid-users.parquet"
QUESTIONS = "questions.parquet"
QUIET = {"show_progress": False, "state": "ERROR"}


def validation_score(
    settings: Mapping[str, Any], checkpoint: Path, is_hopeless: Callable[[int, float], bool]
) -> tuple[float, dict[str, Any]]:
    """Trains a model and returns its score on validation, without ranking for any test user.

    Args:
        settings: the settings of the model, the dataset and the training.
        checkpoint: the checkpoint that an interrupted training goes on from.
        is_hopeless: called with the epoch and the score of every validation; if it returns true, the training ends.

    Returns:
        The best validation score, and the seconds and epochs of the training.
    """
    fitted = _fit(dict(settings) | {"refit": False}, checkpoint, is_hopeless)
    return float(fitted.best_valid_score), {"seconds": fitted.seconds, "epochs": fitted.trainer.epochs_run}


def run_on_test(settings: Mapping[str, Any], folder: Path) -> None:
    """Trains a model with one seed, ranks once for the test users, and writes ``users.parquet`` and ``run.json``.

    ``users.parquet`` has the metrics of each test user, ``valid-users.parquet`` the primary metric of each user of
    validation, which says how far validation can tell models apart. ``run.json`` is written last, so a folder that has
    it is the folder of a complete run.
    """
    fitted = _fit(settings, folder / "model.pth")
    trainer = fitted.trainer
    started = perf_counter()
    metrics = fitted.rank_test()
    record = {
        "metrics": finite(metrics),
        "best_valid_score": float(fitted.best_valid_score),
        "seconds": {"fit": fitted.seconds, "test": perf_counter() - started},
        "epochs": trainer.epochs_run,
        "best_epoch": trainer.best_epoch,
        "curves": trainer.curves,
        "settings": trainer.config.settings,
        "versions": versions(),
        "commit": commit(),
    }
    _users(fitted.ranker, fitted.test_data).write_parquet(folder / "users.parquet")
    if fitted.trainer.config["questions"] == "days":
        _questions(fitted.ranker, fitted.test_data).write_parquet(folder / QUESTIONS)
    trainer.evaluate(fitted.valid_data)  # after the test part, which a sample of items to rank would else change
    _users(trainer, fitted.valid_data)["user_id", PRIMARY].write_parquet(folder / VALID_USERS)
    _write_last(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    remove(folder / "model.pth")


def read_run(model: str, folder: Path) -> Run:
    """Reads a complete run that ``run_on_test`` wrote.

    Args:
        model: the name of the run's row in tables.

    Raises:
        RunsError: the files can't be read.
    """
    with _run_errors(folder):
        record = read_record(folder)
        metrics = {name: math.nan if value is None else value for name, value in record["metrics"].items()}
        settings = record["settings"]
        return Run(
            settings["dataset"],
            model,
            settings["seed"],
            metrics,
            pl.read_parquet(folder / "users.parquet"),
            record["best_valid_score"],
            record["seconds"]["fit"],
            mode_on_test(settings.get("eval_args", {})),
            pl.read_parquet(valid, columns=["user_id", PRIMARY]) if (valid := folder / VALID_USERS).is_file() else None,
        )


def read_record(folder: Path) -> dict[str, Any]:
    """Returns the content of the ``run.json`` of a complete run.

    Raises:
        RunsError: the file can't be read.
    """
    with _run_errors(folder):
        record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["settings"].keys()
        return record


@contextmanager
def _run_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except RunsError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, PolarsError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise RunsError(f"{folder}: can't be read as a run ({reason}); remove it and compare again") from error


def is_complete(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Returns whether a folder has a complete run with these settings."""
    path = folder / "run.json"
    if not path.is_file():
        return False
    before = read_record(folder)["settings"]
    now = Config(config_dict=dict(settings)).settings
    return all(before.get(key) == value for key, value in now.items() if key not in NOT_COMPARED)


def _fit(
    settings: Mapping[str, Any], checkpoint: Path, is_hopeless: Callable[[int, float], bool] | None = None
) -> Fitted:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    config = Config(config_dict=dict(settings) | QUIET | {"checkpoint_file": str(checkpoint)})
    return fit(config, callback_fn=is_hopeless)


def _users(trainer: Trainer, loader: Any) -> pl.DataFrame:
    """Returns the metrics of each user in the trainer's last evaluation, which was of this dataloader's dataset."""
    evaluator = trainer.evaluator
    return pl.DataFrame({"user_id": _tokens(loader, evaluator.users)} | evaluator.of_each_user())


def _questions(trainer: Trainer, loader: Any) -> pl.DataFrame:
    """Returns the primary metric of each question in that evaluation, with its user and its moment."""
    ranked, values = trainer.evaluator.ranked, trainer.evaluator.of_each_row()[PRIMARY]
    users = _tokens(loader, ranked.get("rec.user").numpy())
    return pl.DataFrame({"user_id": users, "now": ranked.get("rec.now").numpy(), PRIMARY: values})


def _tokens(loader: Any, users: np.ndarray) -> np.ndarray:
    dataset = loader._dataset
    return dataset.id2token(dataset.uid_field, users).astype(str)


def _write_last(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, that of validation, and their adapters, resume states and locks."""
    for written in (checkpoint, validation_path(checkpoint)):
        shutil.rmtree(written.with_suffix(".adapter"), ignore_errors=True)
        for path in (written, resume_path(written), lock_path(written)):
            path.unlink(missing_ok=True)
