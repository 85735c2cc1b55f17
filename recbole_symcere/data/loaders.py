"""Makes the dataset and the three dataloaders of a configuration: reads, splits, audits, and draws negatives."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader, TrainDataLoader
from recbole.data.utils import create_samplers, get_dataloader, load_split_dataloaders, save_split_dataloaders

from recbole_symcere import distributed
from recbole_symcere.config import Config
from recbole_symcere.data.audit import audit
from recbole_symcere.data.batches import DeviceTrainDataLoader, can_make
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.errors import ConfigError, DatasetError
from recbole_symcere.known import Known, known_before
from recbole_symcere.questions import periods
from recbole_symcere.ranking import QuestionDataLoader, RankingDataLoader, pairs_of
from recbole_symcere.recbole_settings import modes, sampled_negatives

PHASES = ("train", "valid", "test")

DataLoaders = tuple[AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]


def create_dataset(config: Config) -> ReviewDataset:
    """Returns the filtered dataset of a configuration. Generates the demo data if they are wanted and do not exist.

    RecBole would load any pickled dataset that it finds in ``checkpoint_dir``, even one made from other files. Here a
    pickle is loaded only if ``dataset_save_path`` names it, ``trust_pickles`` is set, and neither the files nor the
    settings have changed since it was made.

    Raises:
        ConfigError: the pickle does not exist or is not trusted.
        DatasetError: the atomic files can't be used.
        PreparationError: the files of the demo can't be written.
    """
    if saved := _trusted_pickle(config, "dataset_save_path"):
        with saved.open("rb") as file:
            dataset = pickle.load(file)  # noqa: S301 - a file in RecBole's format, which the user trusts
        if getattr(dataset, "source", None) == source_fingerprint(config):
            return dataset
        getLogger().warning(f"{saved} was made from other files or settings; the dataset is made from the files again")
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
    """Splits a dataset, audits the split, and makes RecBole's dataloaders, with the same negatives for every model.

    Returns:
        The dataloaders of training, validation and test.

    Raises:
        ConfigError: the evaluation does not fit the data, or a pickle does not exist or is not trusted.
        DatasetError: a part is empty, or no negative item can be drawn.
        LeakError: the audit finds a leak, and ``audit`` is ``error``.
    """
    if loaders := _saved_dataloaders(config):
        return loaders
    parts = dataset.build()
    _check_parts(config, parts)
    train, valid, test = parts
    known = {
        "valid": known_before(config, train, None, False, valid),
        "test": known_before(config, train, None if test is valid else valid, False, test),
    }
    train_data, valid_data, test_data = loaders = tuple(_loaders(config, parts, known))
    for loader in (valid_data, test_data):
        if isinstance(loader, RankingDataLoader) and loader.sample_size < distributed.world_size():
            raise ConfigError(
                f"{distributed.world_size()} processes can't share {loader.sample_size} users to rank; start fewer"
            )
    if config["save_dataloaders"] and distributed.is_main():
        train_data.source = source_fingerprint(config)
        generators = [loader.generator for loader in loaders]
        save_split_dataloaders(config, loaders)  # removes the generators from the dataloaders
        for loader, generator in zip(loaders, generators, strict=True):
            loader.generator = loader.sampler.generator = generator
    return train_data, valid_data, test_data


def refit_preparation(config: Config, loaders: DataLoaders) -> tuple[AbstractDataLoader, AbstractDataLoader]:
    """Makes the dataloaders of a fit on training and validation together, and audits this split.

    Args:
        loaders: what :func:`data_preparation` returned.

    Returns:
        The dataloaders of training and test. With ``refit_every``, those of test are of the first period.

    Raises:
        DatasetError: no negative item can be drawn.
        LeakError: the audit finds a leak, and ``audit`` is ``error``.
    """
    train, valid, test = (loader._dataset for loader in loaders)
    part = periods(config, test)[0]
    known = known_before(config, train, valid, True, part)
    return _of_fit(config, train.joined_with(valid), part, known)


def later_preparations(config: Config, loaders: DataLoaders) -> Iterator[tuple[AbstractDataLoader, AbstractDataLoader]]:
    """Makes the dataloaders of each later fit that ``refit_every`` asks for, on all interactions before its period.

    Args and errors are those of :func:`refit_preparation`.

    Yields:
        The dataloaders of training and of the period.
    """
    train, valid, test = (loader._dataset for loader in loaders)
    earlier, nothing = train.joined_with(valid), valid.copy(valid.inter_feat[[]])
    first, *later = periods(config, test)
    for part in later:
        earlier = earlier.joined_with(first)
        yield _of_fit(config, earlier, part, known_before(config, earlier, nothing, True, part))
        first = part


def _of_fit(
    config: Config, earlier: ReviewDataset, part: ReviewDataset, known: Known
) -> tuple[AbstractDataLoader, AbstractDataLoader]:
    nothing = part.copy(part.inter_feat[[]])
    train_data, test_data = _loaders(config, (earlier, nothing, part), {"test": known})
    return train_data, test_data


def _loaders(
    config: Config, parts: Sequence[ReviewDataset], known: Mapping[str, Known]
) -> Sequence[AbstractDataLoader]:
    """Audits a split and makes the dataloaders of training and of what is ranked.

    Args:
        parts: training, validation and test.
        known: what is known before each part that is ranked, by ``valid`` or ``test``.
    """
    found = audit(*parts)
    getLogger().info(str(found))
    if config["audit"] == "error":
        found.check()
    _check_negatives(config, parts)
    samplers: Sequence[Any] = ()
    loaders = []
    for number, (phase, part) in enumerate(zip(PHASES, parts, strict=True)):
        if phase != "train" and phase not in known:
            continue
        before, of_recbole = known.get(phase), get_dataloader(config, phase)
        if before and before.questions:
            loader: AbstractDataLoader = QuestionDataLoader(config, part, before.questions)
        elif of_recbole is FullSortEvalDataLoader:
            loader = RankingDataLoader(config, part, parts[:number])
        elif of_recbole is TrainDataLoader and config["loader"] == "device" and can_make(config, part):
            loader = DeviceTrainDataLoader(config, part, None, shuffle=config["shuffle"])
        else:  # RecBole's samplers have a Python set for each user
            samplers = samplers or create_samplers(config, parts[0], list(parts))
            loader = of_recbole(config, part, samplers[number], shuffle=phase == "train" and config["shuffle"])
        loader.known = before
        loaders.append(loader)
    return loaders


def _check_negatives(config: Config, parts: Sequence[ReviewDataset]) -> None:
    """Checks that there is an item for each user that the user has met in no part."""
    n_items = parts[0].item_num
    n_met = torch.bincount(pairs_of(parts) // n_items)
    if len(everything := (n_met == n_items - 1).nonzero().flatten()):
        user = str(parts[0].id2token(parts[0].uid_field, int(everything[0])))
        raise DatasetError(
            f"{config['dataset']}: no negative item can be drawn for user {user!r}, who has met all {n_items - 1} "
            "items; leave such users out with user_inter_num_interval"
        )


def _saved_dataloaders(config: Config) -> DataLoaders | None:
    """Returns the pickled dataloaders that ``dataloaders_save_path`` names.

    Returns None if the setting is empty, or if the files or the settings have changed since the pickle was made.
    """
    path = _trusted_pickle(config, "dataloaders_save_path")
    if path is None:
        return None
    loaders = load_split_dataloaders(config)
    if loaders and getattr(loaders[0], "source", None) == source_fingerprint(config):
        return loaders
    getLogger().warning(f"{path} was made from other files or settings; the dataset is split again")
    return None


def _trusted_pickle(config: Config, key: str) -> Path | None:
    """Returns the pickle that a setting names, or None if the setting is empty.

    Raises:
        ConfigError: there is no such file, or ``trust_pickles`` is not set.
    """
    if not config[key]:
        return None
    path = Path(config[key])
    if not path.is_file():
        raise ConfigError(f"{key}: there is no file {path}")
    if not config["trust_pickles"]:
        raise ConfigError(
            f"{key}: {path} is a pickle, which can run any code; if you made it yourself, add --trust-pickles, else "
            f"leave {key} out, and the atomic files are read again"
        )
    return path


def _check_parts(config: Config, parts: Sequence[ReviewDataset]) -> None:
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not len(part):
            raise DatasetError(
                f"{config['dataset']}: the {name} part is empty; change eval_args split, now "
                f"{config['eval_args']['split']}, or take users with more interactions"
            )
    for mode in modes(config["eval_args"]):
        if (sampled_negatives(mode) or 0) >= (n_items := parts[0].item_num - 1):
            raise ConfigError(
                f"mode {mode!r} draws {sampled_negatives(mode)} items for each positive one, but {config['dataset']} "
                f"has {n_items}, so some would be drawn twice; take mode: full"
            )
    if max(config["topk"]) >= parts[0].item_num:
        raise ConfigError(f"topk is {config['topk']}, but {config['dataset']} has {parts[0].item_num - 1} items")
