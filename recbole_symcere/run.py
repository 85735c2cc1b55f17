"""One run: trains the model of a configuration until validation stops improving, and writes the record of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data.dataloader import AbstractDataLoader
from recbole.utils import init_logger, init_seed

from recbole_symcere import distributed
from recbole_symcere.checkpoint import load_checkpoint, locked, resume_path
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset, data_preparation
from recbole_symcere.errors import CheckpointError, ConfigError
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.provenance import commit, versions
from recbole_symcere.trainer import Trainer, get_trainer

DETAIL = {"detail": True}  # marks what goes to the log file and not to the screen


@dataclass(frozen=True)
class Fitted:
    """A model that was trained until validation stopped improving; nothing has looked at the test part.

    Attributes:
        best_valid_result: the metrics of the best epoch on validation.
    """

    trainer: Trainer
    valid_data: AbstractDataLoader
    test_data: AbstractDataLoader
    best_valid_score: float
    best_valid_result: Mapping[str, float]


def fit(config: Config, saved: bool = True, callback_fn: Callable[[int, float], bool] | None = None) -> Fitted:
    """Trains a model, or continues an interrupted run with the same ``checkpoint_file``.

    Args:
        saved: whether checkpoints are written.
        callback_fn: called after each validation, see :meth:`Trainer.fit`.

    Raises:
        ConfigError, DatasetError, ReviewFileError, EncoderError, LeakError, CheckpointError: before training begins.
        TrainingError: the loss is not finite.
    """
    _check_outputs(config)
    _start_logging(config)
    logger = getLogger()
    logger.info(config, extra=DETAIL)
    if config.ignored:
        keys = ", ".join(f"{key} ({owner}'s)" for key, owner in config.ignored.items())
        logger.warning(f"{config['model']} does not read these settings, so they change nothing: {keys}")
    data = create_dataset(config)
    logger.info(data)
    train_data, valid_data, test_data = data_preparation(config, data)
    trainer = build_trainer(config, train_data)
    logger.info(trainer.model, extra=DETAIL)
    logger.info(f"checkpoint, also to resume from: --checkpoint_file={trainer.saved_model_file}")
    # To tell the cost takes seconds, which is wasted where nobody reads it, such as in the runs of a comparison.
    if logger.isEnabledFor(logging.INFO) and (cost := trainer.model.cost_of_an_epoch()):
        logger.info(cost)
    show = bool(config["show_progress"])
    with _own_checkpoint(config, saved):
        if saved and config["checkpoint_file"]:
            _resume_if_begun(trainer)
        best = trainer.fit(train_data, valid_data, saved=saved, show_progress=show, callback_fn=callback_fn)
    return Fitted(trainer, valid_data, test_data, *best)


def build_model(config: Config, train: ReviewDataset) -> Recommender:
    """Returns the untrained model of a run, made with the seed of the run, on the device of the run."""
    init_seed(config["seed"], config["reproducibility"])
    return config.model_class(config, train).to(config["device"])


def build_trainer(config: Config, train_data: AbstractDataLoader) -> Trainer:
    """Returns the trainer of a new model for the interactions of a dataloader."""
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, build_model(config, train_data._dataset))


def write_result(path: Path, config: Config, trainer: Trainer, result: Mapping[str, Any], test_seconds: float) -> None:
    """Writes the record of a run as JSON: its metrics, curves, settings, versions and commit."""
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "epochs": trainer.epochs_run,
        "best_epoch": trainer.best_epoch,
        "seconds": {"fit": round(trainer.seconds, 3), "test": round(test_seconds, 3)},
        "curves": trainer.curves,
        "best_valid_result": _floats(result["best_valid_result"]),
        "test_result": _floats(result["test_result"]),
        "config": config.settings,
        "versions": versions(),
        "commit": commit(),
        "device": str(config["device"]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _floats(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (metrics or {}).items()}


def _check_outputs(config: Config) -> None:
    """Checks, before any training, that the files of the run can be written."""
    for key in ("result_file", "checkpoint_file"):
        if not config[key]:
            continue
        path = Path(config[key])
        if path.is_dir():
            raise ConfigError(f"{key} is {str(path)!r}, which is a folder: name a file in it")
        make_output_folder(path.parent, key)


@contextmanager
def _own_checkpoint(config: Config, saved: bool) -> Iterator[None]:
    """Keeps other runs off ``checkpoint_file`` while the body runs, if the run writes one."""
    if not (saved and config["checkpoint_file"] and distributed.is_main()):
        yield
        return
    with locked(Path(config["checkpoint_file"])):
        yield


def _resume_if_begun(trainer: Trainer) -> None:
    path = Path(trainer.saved_model_file)
    if resume_path(path).is_file():
        trainer.resume_checkpoint(path)
    elif path.is_file() and load_checkpoint(path)["epoch"] >= trainer.eval_step:  # else killed before its first state
        raise CheckpointError(
            f"{path} exists, but not {resume_path(path)}, from which its run could be continued; a new run would "
            "overwrite the checkpoint: move it, or name another --checkpoint_file"
        )


def _start_logging(config: Config) -> None:
    """Starts RecBole's logger, with a separate log file for every run of the process."""
    init_seed(config["seed"], config["reproducibility"])
    for handler in list(getLogger().handlers):
        getLogger().removeHandler(handler)
        handler.close()
    if not distributed.is_main():
        logging.basicConfig(level=logging.ERROR, format=f"process {distributed.rank()}: %(message)s")
        return
    init_logger(config)
    for handler in getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not hasattr(record, "detail"))
    logging.captureWarnings(True)
