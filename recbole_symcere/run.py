"""One run: trains the model of a configuration until validation stops improving, and writes the record of the run."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data.dataloader import AbstractDataLoader
from recbole.utils import ModelType, calculate_valid_score, init_logger, init_seed

from recbole_symcere import distributed
from recbole_symcere.checkpoint import (
    check_same_data,
    check_same_settings,
    load_checkpoint,
    locked,
    restore,
    resume_path,
    save_checkpoint,
    validation_path,
)
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import (
    DataLoaders,
    create_dataset,
    data_preparation,
    later_preparations,
    refit_preparation,
)
from recbole_symcere.errors import CheckpointError, ConfigError
from recbole_symcere.known import known_before
from recbole_symcere.listing import to_store
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.provenance import commit, versions
from recbole_symcere.ranking import joined, plain
from recbole_symcere.trainer import Trainer, get_trainer

DETAIL = {"detail": True}  # marks what goes to the log file and not to the screen


@dataclass(frozen=True)
class Fitted:
    """A model that was trained until validation stopped improving; nothing has looked at the test part.

    Attributes:
        trainer: that of the model that validation stopped.
        ranker: that of the model that ranks the test part: the same, or with ``refit`` one that was trained on training
            and validation together.
        parts: the interactions of training and of validation.
        later: trains the models that ``refit_every`` asks for, each of which ranks the next period of the test part.
        best_valid_result: the metrics of the best epoch on validation.
    """

    trainer: Trainer
    ranker: Trainer
    valid_data: AbstractDataLoader
    test_data: AbstractDataLoader
    best_valid_score: float
    best_valid_result: Mapping[str, float]
    parts: tuple[ReviewDataset, ReviewDataset]
    later: Callable[[], Iterator[tuple[Trainer, AbstractDataLoader]]]

    def rank_test(self, load_best_model: bool = True, show_progress: bool = False) -> Mapping[str, float]:
        """Ranks the test part once and returns its metrics; the evaluator of ``ranker`` has those of each user."""
        evaluator = self.ranker.evaluator
        found = self.ranker.evaluate(self.test_data, load_best_model=load_best_model, show_progress=show_progress)
        ranked = [evaluator.ranked]
        for trainer, period in self.later():
            trainer.evaluate(period, load_best_model=False)
            ranked.append(trainer.evaluator.ranked)
        return evaluator.evaluate(joined(ranked)) if len(ranked) > 1 else found

    @property
    def seconds(self) -> float:
        """The time spent on training and validation."""
        return self.trainer.seconds + (self.ranker.seconds if self.ranker is not self.trainer else 0.0)


def fit(config: Config, saved: bool = True, callback_fn: Callable[[int, float], bool] | None = None) -> Fitted:
    """Trains a model, or continues an interrupted run with the same ``checkpoint_file``.

    With ``refit`` the model is trained a second time, on training and validation together, with the same settings and
    for as many steps as the best epoch had.

    Args:
        saved: whether checkpoints are written.
        callback_fn: called after each validation, see :meth:`Trainer.fit`.

    Raises:
        ConfigError, DatasetError, ReviewFileError, EncoderError, LeakError, CheckpointError: before training begins.
        TrainingError: the loss is not finite.
    """
    _check_outputs(config)
    if saved and config["checkpoint_file"]:
        _check_begun(config)
    _start_logging(config)
    logger = getLogger()
    logger.info(config, extra=DETAIL)
    if config.ignored:
        keys = ", ".join(f"{key} ({owner}'s)" for key, owner in config.ignored.items())
        logger.warning(f"{config['model']} does not read these settings, so they change nothing: {keys}")
    if config["questions"] == "days" and not (config["refit_every"] or config.model_class.folds_in):
        logger.warning(
            f"{config['model']} can't rank by a history, so it ranks by what it knew at the cut; refit_every trains it "
            "anew every few days"
        )
    data = create_dataset(config)
    logger.info(data)
    train_data, valid_data, test_data = loaders = data_preparation(config, data)
    trainer = build_trainer(config, train_data)
    checkpoint = Path(trainer.saved_model_file)
    logger.info(trainer.model, extra=DETAIL)
    logger.info(f"checkpoint, also to resume from: --checkpoint_file={checkpoint}")
    # To tell the cost takes seconds, which is wasted where nobody reads it, such as in the runs of a comparison.
    if logger.isEnabledFor(logging.INFO) and (cost := trainer.model.cost_of_an_epoch()):
        logger.info(cost)
    show = bool(config["show_progress"])
    with _own_checkpoint(config, saved):
        if saved and config["refit"]:
            trainer.saved_model_file = str(validation_path(checkpoint))
        if saved and config["checkpoint_file"]:
            _resume_if_begun(trainer)
        best = trainer.fit(train_data, valid_data, saved=saved, show_progress=show, callback_fn=callback_fn)
        if trainer.model.learns_from_validation:
            best = _learn_from_validation(trainer, valid_data, saved)
        ranker = trainer
        if config["refit"]:
            ranker, test_data = _refit(config, trainer, checkpoint, loaders, saved)
    parts = train_data._dataset, valid_data._dataset
    later = partial(_later_fits, config, trainer, loaders)
    return Fitted(trainer, ranker, valid_data, test_data, *best, parts=parts, later=later)


def _later_fits(config: Config, trainer: Trainer, loaders: DataLoaders) -> Iterator[tuple[Trainer, AbstractDataLoader]]:
    for train_data, period in later_preparations(config, loaders) if config["refit_every"] else ():
        ranker = build_trainer(config, train_data)
        _fit_again(config, trainer, ranker, train_data, len(loaders[0]), saved=False)
        yield ranker, period


def store_what_serves(fitted: Fitted) -> None:
    """Adds to the checkpoint of a finished run what recommends without the dataset, if the model can do this."""
    ranker, (train, valid) = fitted.ranker, fitted.parts
    model: Recommender = ranker.model
    path = Path(ranker.saved_model_file)
    known = known_before(ranker.config, train, valid, ranker.is_refit)
    past = train.joined_with(valid)
    trained = past if ranker.is_refit else train
    checkpoint = load_checkpoint(path)
    restore(model, checkpoint)  # the model may be that of a later epoch
    model.about_to_rank(known)
    kept = to_store(model.eval(), trained, past, known)
    if distributed.is_main():
        save_checkpoint(checkpoint | kept, path)
    distributed.wait_for_all()


def _learn_from_validation(
    trainer: Trainer, valid_data: AbstractDataLoader, saved: bool
) -> tuple[float, Mapping[str, float]]:
    """Lets the model of the best epoch learn from validation, ranks validation again, and saves the model.

    Args:
        saved: whether the best epoch was saved; else the model of the last epoch learns.

    Returns:
        The score and the metrics of validation.
    """
    model = trainer.model
    if saved:
        restore(model, load_checkpoint(trainer.saved_model_file, trainer.device))
    model.learn_from_validation(valid_data._dataset, valid_data.known)
    trainer.best_valid_result = trainer.evaluate(valid_data, load_best_model=False)
    trainer.best_valid_score = calculate_valid_score(trainer.best_valid_result, trainer.valid_metric)
    if saved:
        trainer._save_checkpoint(trainer.best_epoch, verbose=False)
    return trainer.best_valid_score, trainer.best_valid_result


def _refit(
    config: Config, trainer: Trainer, checkpoint: Path, loaders: DataLoaders, saved: bool
) -> tuple[Trainer, AbstractDataLoader]:
    """Trains a model as ``trainer`` did up to its best epoch, but on training and validation together."""
    train_data, test_data = refit_preparation(config, loaders)
    ranker = build_trainer(config, train_data)
    ranker.saved_model_file = str(checkpoint)
    if saved and config["checkpoint_file"]:
        _resume_if_begun(ranker)
    _fit_again(config, trainer, ranker, train_data, len(loaders[0]), saved)
    return ranker, test_data


def _fit_again(
    config: Config, trainer: Trainer, ranker: Trainer, train_data: AbstractDataLoader, n_batches: int, saved: bool
) -> None:
    """Trains ``ranker`` for as many steps as ``trainer``, of ``n_batches`` an epoch, took up to its best epoch."""
    # A model without training passes over all interactions once, and does not learn in steps.
    passes_once = config["MODEL_TYPE"] == ModelType.TRADITIONAL
    ranker.n_steps = math.inf if passes_once else (trainer.best_epoch + 1) * n_batches
    latest = train_data._dataset.inter_feat[config["TIME_FIELD"]].max()
    getLogger().info(f"refit: {len(train_data._dataset):,} interactions up to {_date(float(latest))}")
    ranker.model.take_over(trainer.model)
    ranker.fit(train_data, saved=saved, show_progress=bool(config["show_progress"]))


def _date(seconds: float) -> str:
    """The date of a moment, in UTC, as in 2018-05-03."""
    return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()


def _check_begun(config: Config) -> None:
    """Checks before any work that the checkpoints in the way of a run are its own.

    Raises:
        CheckpointError: the run was begun with other settings or other data, or can't be continued.
    """
    checkpoint = Path(config["checkpoint_file"])
    for path in [checkpoint, validation_path(checkpoint)] if config["refit"] else [checkpoint]:
        if resume_path(path).is_file():
            state = load_checkpoint(resume_path(path))
            check_same_settings(path, state["config"], config.settings)
            check_same_data(path, state, config)
    if config["refit"] and checkpoint.is_file() and not resume_path(checkpoint).is_file():
        raise _not_resumable(checkpoint)


def build_model(config: Config, train: ReviewDataset) -> Recommender:
    """Returns the untrained model of a run, made with the seed of the run, on the device of the run."""
    init_seed(config["seed"], config["reproducibility"])
    return config.model_class(config, train).to(config["device"])


def build_trainer(config: Config, train_data: AbstractDataLoader) -> Trainer:
    """Returns the trainer of a new model for the interactions of a dataloader."""
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, build_model(config, train_data._dataset))


def write_result(path: Path, config: Config, fitted: Fitted, result: Mapping[str, Any], test_seconds: float) -> None:
    """Writes the record of a run as JSON: its metrics, curves, settings, versions and commit."""
    trainer = fitted.trainer
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "epochs": trainer.epochs_run,
        "best_epoch": trainer.best_epoch,
        "seconds": {"fit": round(fitted.seconds, 3), "test": round(test_seconds, 3)},
        "curves": trainer.curves,
        "learned": fitted.ranker.model.learned(),
        "best_valid_result": finite(result["best_valid_result"] or {}),
        "test_result": finite(result["test_result"]),
        "config": config.settings,
        "versions": versions(),
        "commit": commit(),
        "device": str(config["device"]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns metrics as JSON can hold them, with None for NaN: the NDCG of a group is NaN if no user is in it."""
    return {name: value if math.isfinite(value) else None for name, value in plain(metrics).items()}


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
        raise _not_resumable(path)


def _not_resumable(path: Path) -> CheckpointError:
    return CheckpointError(
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
    streams = sys.stdout, sys.stderr
    init_logger(config)
    # RecBole wraps both streams for colours, around the wrappers of earlier runs: some hundred runs would end in a
    # RecursionError.
    sys.stdout, sys.stderr = streams
    for handler in getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not hasattr(record, "detail"))
    logging.captureWarnings(True)
