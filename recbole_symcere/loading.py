"""Loads the model of a checkpoint with its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.data.dataloader import AbstractDataLoader

from recbole_symcere.checkpoint import check_same_data, load_checkpoint, restore, stored_config
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset, data_preparation, refit_preparation
from recbole_symcere.known import Known
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.run import build_model


def load_data_and_model(
    model_file: str | Path, config_dict: Mapping[str, Any] | None = None
) -> tuple[Config, Recommender, ReviewDataset, AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]:
    """Loads the model of a checkpoint at its best epoch, in eval mode, with the data that it was trained on.

    Args:
        model_file: a checkpoint of this package.
        config_dict: settings to change, such as ``data_path`` on another machine.

    Returns:
        As RecBole: config, model, dataset, train_data, valid_data, test_data. If the model was trained on training and
        validation together (``refit``), ``train_data`` has both.

    Raises:
        CheckpointError: the file can't be read, or the data has changed.
        ConfigError, DatasetError, ReviewFileError, EncoderError, LeakError: as for a run.
    """
    checkpoint = load_checkpoint(model_file)
    config = stored_config(checkpoint, config_dict)
    check_same_data(model_file, checkpoint, config)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = loaders = data_preparation(config, dataset)
    if checkpoint["refit"]:
        train_data, test_data = refit_preparation(config, loaders)
    model = build_model(config, train_data._dataset)
    restore(model, checkpoint)
    known: Known | None = getattr(test_data, "known", None)  # dataloaders in a pickle of RecBole's have none
    if known:
        model.about_to_rank(known)
    return config, model.eval(), dataset, train_data, valid_data, test_data
