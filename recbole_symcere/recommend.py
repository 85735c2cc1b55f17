"""What a checkpoint is used for: its model with its data, and the best items for users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_symcere.best_items import top_items
from recbole_symcere.checkpoint import check_same_data, load_checkpoint, restore, stored_config
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset, data_preparation, refit_preparation
from recbole_symcere.errors import UserError
from recbole_symcere.known import Known, known_before
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.run import build_model

Items = list[tuple[str, float]]  # tokens and scores, best first


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


@torch.no_grad()
def recommend(
    model_file: str | Path,
    users: str | int | Sequence[str | int] | None = None,
    k: int = 10,
    config_dict: Mapping[str, Any] | None = None,
) -> dict[str, Items]:
    """Returns the best items for each user that the user has not met in training or validation; reads no review.

    The items are ranked as the test part is: with ``candidates`` and ``cold_users`` as the run had them.

    Args:
        model_file: a checkpoint of this package.
        users: the tokens of users, as in the ``.inter`` file; one token stands for one user. None: all users.
        k: how many items at most, at least 1.
        config_dict: settings to change, as for :func:`load_data_and_model`.

    Returns:
        For each user up to k pairs of an item's token and its score, best first.

    Raises:
        CheckpointError: the file can't be read, or the data has changed.
        UserError: a user is not in the dataset, or ``k`` is below 1.
    """
    if k < 1:
        raise UserError(f"k is {k}, but must be at least 1")
    checkpoint = load_checkpoint(model_file)
    config = stored_config(checkpoint, config_dict)
    check_same_data(model_file, checkpoint, config)
    dataset = create_dataset(config)
    train, valid, _ = dataset.build()
    user_ids = _user_ids(dataset, [users] if isinstance(users, str | int) else users)
    init_seed(config["seed"], config["reproducibility"])
    past = train.joined_with(valid)
    trained = past if checkpoint["refit"] else train
    known = known_before(config, train, valid, checkpoint["refit"])
    model = config.model_class.to_rank(config, trained, checkpoint["state_dict"]).to(config["device"])
    names = model.state_dict().keys()
    restore(model, checkpoint | {"state_dict": {name: checkpoint["state_dict"][name] for name in names}})
    model.about_to_rank(known)
    model.eval()
    found = {user: _best_items(model, user_id, k, past, known) for user, user_id in user_ids.items()}
    _warn_of_strangers(trained, found, known, model.ranks_strangers)
    return found


def _warn_of_strangers(train: ReviewDataset, found: Mapping[str, Items], known: Known, ranks_strangers: bool) -> None:
    """Logs which users and items have no training interaction, so that nothing trained their vectors."""
    items = {item for best in found.values() for item, _ in best}
    nothing = of_users = "so the model knows nothing of them"
    if ranks_strangers:
        of_users = "so the model ranks for them by what needs no history"
    elif known.cold.any():
        of_users = f"so they get the items that were popular recently (half-life {known.half_life:g} days)"
    for kind, field, tokens, so in (
        ("users", train.uid_field, list(found), of_users),
        ("recommended items", train.iid_field, items, nothing),
    ):
        trained = set(train.id2token(field, train.inter_feat[field].unique().numpy()))
        if strangers := sorted(token for token in tokens if token not in trained):
            named = ", ".join(strangers[:3]) + ", …" * (len(strangers) > 3)
            getLogger().warning(
                f"{len(strangers):,} of {len(tokens):,} {kind} have no training interaction, {so}: {named}"
            )


def _user_ids(dataset: ReviewDataset, users: Sequence[str | int] | None) -> dict[str, int]:
    """The ids of users by their tokens."""
    if users is None:  # all but 0, which is padding
        tokens = dataset.field2token_id[dataset.uid_field].items()
        return {str(token): int(number) for token, number in tokens if number}
    return {token: dataset.number_of(dataset.uid_field, token) for token in map(str, users)}


def _best_items(model: Recommender, user_id: int, k: int, past: ReviewDataset, known: Known) -> Items:
    """Returns the best items for a user.

    Args:
        past: the interactions of training and validation, whose items the user does not get again.
    """
    one = Interaction({past.uid_field: torch.tensor([user_id])})
    try:
        scores = model.full_sort_predict(one.to(model.device)).flatten().cpu()
    except NotImplementedError:  # such as NeuMF, which scores pairs
        pairs = one.repeat(past.item_num)
        pairs.update(Interaction({past.iid_field: torch.arange(past.item_num)}))
        scores = model.predict(pairs.to(model.device)).flatten().cpu()
    scores[0] = -torch.inf  # padding
    scores[past.inter_feat[past.iid_field][past.inter_feat[past.uid_field] == user_id]] = -torch.inf
    user = torch.tensor([user_id])
    scores = known.ranked(scores[None], user, model)
    best, items = top_items(scores, user, min(k, int(scores.isfinite().sum())))
    tokens = past.id2token(past.iid_field, items[0].numpy())
    return list(zip(map(str, tokens), best[0].tolist(), strict=True))
