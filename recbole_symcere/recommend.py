"""The best items for users of the dataset of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_symcere.checkpoint import load_checkpoint
from recbole_symcere.errors import UserError
from recbole_symcere.lists import FORMAT, Items, Lists
from recbole_symcere.serving import Recommender, Request

NOT_OF_LISTS = ("gpu_id", "show_progress", "state", "use_gpu")  # settings that change no list


def recommend(
    model_file: str | Path,
    users: str | int | Sequence[str | int] | None = None,
    k: int = 10,
    config_dict: Mapping[str, Any] | None = None,
) -> dict[str, Items]:
    """Returns the best items for each user that the user has not met in training or validation; reads no review.

    The items are ranked as the test part is: with ``candidates`` and ``cold_users`` as the run had them. The dataset is
    read only if a setting changes, if the run has not finished, or if the scores of a model that serves nobody else are
    no dot products.

    Args:
        model_file: a checkpoint of this package.
        users: the tokens of users, as in the ``.inter`` file; one token stands for one user. None: all users.
        k: how many items at most, at least 1.
        config_dict: settings to change, such as ``data_path`` on another machine.

    Returns:
        For each user up to k pairs of an item's token and its score, best first.

    Raises:
        CheckpointError: the file can't be read, or the dataset is read and has changed.
        UserError: a user is not in the dataset, or ``k`` is below 1.
    """
    if k < 1:
        raise UserError(f"k is {k}, but must be at least 1")
    tokens = [users] if isinstance(users, str | int) else users
    lists = _lists(model_file, config_dict or {})
    return lists.best(None if tokens is None else [*map(str, tokens)], k)


def _lists(model_file: str | Path, changes: Mapping[str, Any]) -> Lists:
    checkpoint = load_checkpoint(model_file)
    stored = checkpoint.get("lists")
    if stored and stored["format"] == FORMAT and not changes.keys() - set(NOT_OF_LISTS):
        return Lists.of_stored(stored, _scores(model_file, stored))
    from recbole_symcere.listing import lists_of_dataset  # needs RecBole

    return lists_of_dataset(model_file, checkpoint, changes)


def _scores(model_file: str | Path, stored: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Returns what makes the scores of users, [B, n_items]: vectors, or what a model keeps that ranks for anybody."""
    if "vectors" in stored:
        users, items = stored["vectors"]
        return lambda some: users[some] @ items.T
    recommender = Recommender.load(model_file)
    return lambda some: recommender.scores([Request(stored["users"][user]) for user in some.tolist()])
