"""From a configuration to a ranked result: RecBole's quick start, for this package's models, data and checkpoints."""

import json
import logging
import os
import pickle
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import recbole
import torch
from filelock import FileLock, Timeout
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader, load_split_dataloaders, save_split_dataloaders
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import init_logger, init_seed

from recbole_symcere import __version__, distributed
from recbole_symcere.config import Config, parse_value
from recbole_symcere.data.audit import audit
from recbole_symcere.data.dataset import ReviewDataset, source_fingerprint
from recbole_symcere.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
)
from recbole_symcere.ranking import RankingDataLoader
from recbole_symcere.trainer import (
    Trainer,
    check_same_data,
    get_trainer,
    load_checkpoint,
    lock_path,
    restore,
    resume_path,
)

DETAIL = {"detail": True}  # for the log file, not for the screen
DataLoaders = tuple[AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]


def run_recbole_symcere(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Trains a model, stops on validation, and ranks the test part once.

    With a ``checkpoint_file`` whose run was interrupted, goes on with it. Within ``distributed.process_group()`` all
    processes that ``torchrun`` started train the one model; the first of them writes.

    Args:
        model, dataset: names; may stand in a file or the dictionary. A model may be a class of your own: it is given
            the settings of the classes it inherits from, and of its attribute ``defaults``.
        config_file_list: YAML files, later ones over earlier ones.
        config_dict: settings over the files'.
        saved: keep the best epoch in ``checkpoint_file`` and test that one; else test the last.

    Returns:
        RecBole's dictionary: best_valid_score, valid_score_bigger, best_valid_result, test_result.

    Raises:
        ConfigError, DatasetError, ReviewFileError, EncoderError, LeakError, CheckpointError: before training begins.
        TrainingError: the loss is not finite.
    """
    config = Config(model, dataset, config_file_list, config_dict)
    fitted = fit(config, saved)
    trainer, logger = fitted.trainer, getLogger()
    started = perf_counter()
    show = bool(config["show_progress"])
    test_result = trainer.evaluate(fitted.test_data, load_best_model=saved, show_progress=show)
    result = {
        "best_valid_score": fitted.best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": fitted.best_valid_result,
        "test_result": test_result,
    }
    logger.info(f"{trainer.epochs_run} epochs in {trainer.seconds:.1f} s; the best was number {trainer.best_epoch}")
    logger.info(_table({"valid": fitted.best_valid_result, "test": test_result}))
    if config["result_file"] and distributed.is_main():
        _write_result(Path(config["result_file"]), config, trainer, result, perf_counter() - started)
    return result


@dataclass(frozen=True)
class Fitted:
    """A model trained up to the stop on validation; the test part was not looked at."""

    trainer: Trainer
    test_data: AbstractDataLoader
    best_valid_score: float
    best_valid_result: Mapping[str, float]


def fit(config: Config, saved: bool = True, callback_fn: Callable[[int, float], bool] | None = None) -> Fitted:
    """Trains as ``run_recbole_symcere`` does, and raises what it raises; ``callback_fn`` is ``Trainer.fit``'s."""
    _check_outputs(config)
    _start_logging(config)
    logger = getLogger()
    logger.info(config, extra=DETAIL)
    data = create_dataset(config)
    logger.info(data)
    train_data, valid_data, test_data = data_preparation(config, data)
    trainer = _build_trainer(config, train_data)
    logger.info(trainer.model, extra=DETAIL)
    logger.info(f"checkpoint, also to resume from: --checkpoint_file={trainer.saved_model_file}")
    show = bool(config["show_progress"])
    with _checkpoint_of_one(config, saved):
        if saved and config["checkpoint_file"]:
            _resume_if_begun(trainer)
        best = trainer.fit(train_data, valid_data, saved=saved, show_progress=show, callback_fn=callback_fn)
    return Fitted(trainer, test_data, *best)


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """One trial of a hyper-parameter search, as RecBole's ``HyperTuning`` calls it: a run without progress bars.

    Args:
        config_dict: settings; texts are read as YAML, since ``HyperTuning`` passes lists as texts.
        config_file_list, saved: as for ``run_recbole_symcere``.

    Returns:
        What ``run_recbole_symcere`` does, and the model's name.
    """
    given = {key: parse_value(value) if isinstance(value, str) else value for key, value in (config_dict or {}).items()}
    quiet = {"show_progress": False, "state": "ERROR"} | given
    model = Config(config_file_list=config_file_list, config_dict=quiet)["model"]
    return {"model": model} | run_recbole_symcere(config_file_list=config_file_list, config_dict=quiet, saved=saved)


def load_data_and_model(
    model_file: str | Path, config_dict: Mapping[str, Any] | None = None
) -> tuple[Config, AbstractRecommender, ReviewDataset, AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]:
    """What a checkpoint was trained with, and its model at the best epoch, ready to rank.

    Args:
        model_file: a checkpoint of this package.
        config_dict: settings to change, such as ``data_path`` on another machine.

    Returns:
        As RecBole's: config, model, dataset, train_data, valid_data, test_data.

    Raises:
        CheckpointError: the file can't be read.
    """
    checkpoint = load_checkpoint(model_file)
    config = _stored_config(checkpoint, config_dict)
    check_same_data(model_file, checkpoint, config)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    model = build_model(config, train_data._dataset)
    restore(model, checkpoint)
    return config, model.eval(), dataset, train_data, valid_data, test_data


@torch.no_grad()
def recommend(
    model_file: str | Path, users: Sequence[str], k: int = 10, config_dict: Mapping[str, Any] | None = None
) -> dict[str, list[tuple[str, float]]]:
    """The best items for each user that they have not met in training or validation. No review is read.

    Args:
        model_file: a checkpoint of this package.
        users: user tokens, as in the ``.inter`` file.
        k: how many items at most.
        config_dict: settings to change, as for ``load_data_and_model``.

    Returns:
        For each user up to k pairs of item token and score, best first.

    Raises:
        CheckpointError: the file can't be read, or the dataset has changed.
        ValueError: a user is not in the dataset.
    """
    checkpoint = load_checkpoint(model_file)
    config = _stored_config(checkpoint, config_dict)
    check_same_data(model_file, checkpoint, config)
    dataset = create_dataset(config)
    train, valid, _ = dataset.build()
    model = build_model(config, train, checkpoint["state_dict"])
    names = model.state_dict().keys()
    restore(model, checkpoint | {"state_dict": {name: checkpoint["state_dict"][name] for name in names}})
    model.eval()
    return {user: _best_items(model, user, k, train, valid) for user in users}


def _best_items(
    model: AbstractRecommender, user: str, k: int, train: ReviewDataset, valid: ReviewDataset
) -> list[tuple[str, float]]:
    user_id = int(train.token2id(train.uid_field, user))
    one = Interaction({train.uid_field: torch.tensor([user_id])})
    try:
        scores = model.full_sort_predict(one.to(model.device)).flatten().cpu()
    except NotImplementedError:  # such as NeuMF, which scores pairs
        pairs = one.repeat(train.item_num)
        pairs.update(Interaction({train.iid_field: torch.arange(train.item_num)}))
        scores = model.predict(pairs.to(model.device)).flatten().cpu()
    scores[0] = -torch.inf  # padding
    for part in (train, valid):
        scores[part.inter_feat[part.iid_field][part.inter_feat[part.uid_field] == user_id]] = -torch.inf
    best = scores.topk(min(k, int(scores.isfinite().sum())))
    tokens = train.id2token(train.iid_field, best.indices.numpy())
    return list(zip(map(str, tokens), best.values.tolist(), strict=True))


def _stored_config(checkpoint: Mapping[str, Any], changes: Mapping[str, Any] | None) -> Config:
    """What a checkpoint was trained with; it can't allow code to run: only ``changes`` can."""
    stored = checkpoint["config"]
    distrust = {key: False for key in ("trust_checkpoint", "trust_remote_code") if key in stored}
    return Config(config_dict=stored | distrust | dict(changes or {}))


def create_dataset(config: Config) -> ReviewDataset:
    """The filtered dataset of ``config``; the demo's files are made if they are not there.

    RecBole loads a pickle whenever one lies in ``checkpoint_dir``, stale or not. Here one is loaded only from an
    explicit ``dataset_save_path``, where ``trust_checkpoint`` is set, and only while files, settings and version are
    those it was made from.
    """
    if saved := _trusted_pickle(config, "dataset_save_path"):
        with saved.open("rb") as file:
            dataset = pickle.load(file)  # noqa: S301 - RecBole's format, of a file that the user trusts
        if getattr(dataset, "source", None) == source_fingerprint(config):
            return dataset
        getLogger().warning(f"{saved} was made from other files or settings: building the dataset anew")
    with distributed.first_of_machine_first():
        _make_demo_data(config)
    dataset = ReviewDataset(config)
    if config["save_dataset"] and distributed.is_main():
        dataset.save()
    return dataset


def _make_demo_data(config: Config) -> None:
    folder = Path(config["data_path"])
    if config["dataset"] == "demo" and not folder.exists():
        from dataset_prep.demo import write_demo

        getLogger().info(f"generating the demo data in {folder}")
        write_demo(folder)


def data_preparation(config: Config, dataset: ReviewDataset) -> DataLoaders:
    """Splits, audits, and makes RecBole's dataloaders, with the same negatives for every model.

    Raises:
        LeakError: held-out interactions reach training and ``audit`` is ``error``.
    """
    if loaders := _saved_dataloaders(config):
        return loaders
    parts = dataset.build()
    _check_parts(config, parts)
    found = audit(*parts)
    getLogger().info(str(found))
    if config["audit"] == "error":
        found.check()
    try:
        samplers = create_samplers(config, dataset, parts)
    except ValueError as error:  # RecBole's: a user has met every item
        raise DatasetError(f"{config['dataset']}: no negative item can be drawn ({error})") from error
    phases = ("train", "valid", "test")
    train_data, valid_data, test_data = loaders = tuple(
        _dataloader(config, phase)(config, part, sampler, shuffle=phase == "train" and config["shuffle"])
        for phase, part, sampler in zip(phases, parts, samplers, strict=True)
    )
    for loader in (valid_data, test_data):
        if isinstance(loader, RankingDataLoader) and loader.sample_size < distributed.world_size():
            raise ConfigError(
                f"{distributed.world_size()} processes are to share {loader.sample_size} users to rank: start fewer"
            )
    if config["save_dataloaders"] and distributed.is_main():
        train_data.source = source_fingerprint(config)
        generators = [loader.generator for loader in loaders]
        save_split_dataloaders(config, loaders)  # takes the generators away
        for loader, generator in zip(loaders, generators, strict=True):
            loader.generator = loader.sampler.generator = generator
    return train_data, valid_data, test_data


def _dataloader(config: Config, phase: str) -> type[AbstractDataLoader]:
    loader: type[AbstractDataLoader] = get_dataloader(config, phase)
    return RankingDataLoader if loader is FullSortEvalDataLoader else loader


def _saved_dataloaders(config: Config) -> DataLoaders | None:
    """Those in an explicit ``dataloaders_save_path``, if they were made from the same files and settings."""
    path = _trusted_pickle(config, "dataloaders_save_path")
    if path is None:
        return None
    loaders = load_split_dataloaders(config)
    if loaders and getattr(loaders[0], "source", None) == source_fingerprint(config):
        return loaders
    getLogger().warning(f"{path} was made from other files or settings: splitting anew")
    return None


def _trusted_pickle(config: Config, key: str) -> Path | None:
    """The file that ``key`` names, if it does.

    Raises:
        ConfigError: there is no such file, or the user has not said that they trust it.
    """
    if not config[key]:
        return None
    path = Path(config[key])
    if not path.is_file():
        raise ConfigError(f"{key}: there is no file {path}")
    if not config["trust_checkpoint"]:
        raise ConfigError(
            f"{key}: {path} is a pickle, which can run any code; if you made it yourself, add --trust-checkpoint, else "
            f"leave {key} out: the atomic files are read anew"
        )
    return path


def _check_parts(config: Config, parts: Sequence[ReviewDataset]) -> None:
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not len(part):
            raise DatasetError(
                f"{config['dataset']}: the {name} part is empty; change eval_args split, now "
                f"{config['eval_args']['split']}, or take users with more interactions"
            )
    if max(config["topk"]) >= parts[0].item_num:
        raise ConfigError(f"topk is {config['topk']}, but {config['dataset']} has {parts[0].item_num - 1} items")


def build_model(
    config: Config, train: ReviewDataset, to_rank: Mapping[str, torch.Tensor] | None = None
) -> AbstractRecommender:
    """A model as it is before its first step, with the run's seed.

    Args:
        to_rank: the state that will be loaded, if the model is only to rank: models of reviews then read none.
    """
    init_seed(config["seed"], config["reproducibility"])
    if to_rank is not None and hasattr(config.model_class, "to_rank"):
        model: AbstractRecommender = config.model_class.to_rank(config, train, to_rank)
    else:
        model = config.model_class(config, train)
    return model.to(config["device"])


def _build_trainer(config: Config, train_data: AbstractDataLoader) -> Trainer:
    model = build_model(config, train_data._dataset)
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


def _check_outputs(config: Config) -> None:
    """What the run is to write can be written: told before it trains."""
    for key in ("result_file", "checkpoint_file"):
        if not config[key]:
            continue
        path = Path(config[key])
        if path.is_dir():
            raise ConfigError(f"{key} is {str(path)!r}, which is a folder: name a file in it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{key}: the folder {path.parent} can't be made ({error})") from error
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"{key}: the folder {path.parent} can't be written to")


@contextmanager
def _checkpoint_of_one(config: Config, saved: bool) -> Iterator[None]:
    """Keeps other runs off ``checkpoint_file`` while the body runs.

    Raises:
        CheckpointError: another run is writing it.
    """
    if not (saved and config["checkpoint_file"] and distributed.is_main()):
        yield
        return
    path = Path(config["checkpoint_file"])
    try:
        with FileLock(lock_path(path), timeout=0):
            yield
    except Timeout as error:
        raise CheckpointError(
            f"{path} belongs to a run that is still training: wait for it, or name another --checkpoint_file"
        ) from error


def _resume_if_begun(trainer: Trainer) -> None:
    path = Path(trainer.saved_model_file)
    if resume_path(path).is_file():
        trainer.resume_checkpoint(path)
    elif path.is_file() and load_checkpoint(path)["epoch"] >= trainer.eval_step:  # else killed before the first state
        raise CheckpointError(
            f"{path} exists, but not {resume_path(path)}, which a run goes on from: a new run would overwrite it; "
            "move it, or name another --checkpoint_file"
        )


def _start_logging(config: Config) -> None:
    """RecBole's logger, with a file of its own for every run of the process."""
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
            handler.addFilter(lambda record: not getattr(record, "detail", False))
    logging.captureWarnings(True)


def _write_result(path: Path, config: Config, trainer: Trainer, result: Mapping[str, Any], test_seconds: float) -> None:
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


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Metrics as rows, parts as columns."""
    rows = [f"{'':22}" + "".join(f"{part:>12}" for part in results)]
    rows += (
        f"{metric:22}" + "".join(f"{result[metric]:12.4f}" for result in results.values())
        for metric in next(iter(results.values()))
    )
    return "results\n" + "\n".join(rows)


def _floats(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (metrics or {}).items()}


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("numpy", "pandas", "scipy", "torch", "transformers", "tokenizers", "peft", "polars")
    found = {name: metadata.version(name) for name in names}
    return {"recbole_symcere": __version__, "recbole": recbole.__version__, "python": platform.python_version()} | found


def commit() -> str | None:
    """The commit of the checkout that this package runs from, ``+`` appended if it was changed; None for a wheel."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not a wheel inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
