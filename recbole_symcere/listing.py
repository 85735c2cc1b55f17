"""Makes the lists of a model for the users of its dataset, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from torch import Tensor, nn

from recbole_symcere.checkpoint import SERVING_FORMAT, check_same_data, restore, stored_config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset
from recbole_symcere.known import Known, known_before
from recbole_symcere.lists import Lists
from recbole_symcere.model.recommender import Recommender, VectorRecommender
from recbole_symcere.ranking import pairs_of

# Where models of RecBole keep vectors of users and of items. Whether the scores are their dot products is tried out.
VECTORS = (("restore_user_e", "restore_item_e"), ("user_embedding", "item_embedding"))
TRIED = 8  # users


def lists_of_dataset(model_file: str | Path, checkpoint: Mapping[str, Any], changes: Mapping[str, Any]) -> Lists:
    """Reads the dataset of a checkpoint, but no review, and makes the lists of its model.

    Args:
        model_file: where the checkpoint comes from, for errors.
        changes: settings to change, as for :func:`load_data_and_model`.

    Raises:
        CheckpointError: the data has changed.
        ConfigError, DatasetError: as for a run.
    """
    config = stored_config(checkpoint, changes)
    check_same_data(model_file, checkpoint, config)
    train, valid, _ = create_dataset(config).build()
    init_seed(config["seed"], config["reproducibility"])
    past = train.joined_with(valid)
    trained = past if checkpoint["refit"] else train
    known = known_before(config, train, valid, checkpoint["refit"])
    model = config.model_class.to_rank(config, trained, checkpoint["state_dict"]).to(config["device"])
    names = model.state_dict().keys()
    restore(model, {**checkpoint, "state_dict": {name: checkpoint["state_dict"][name] for name in names}})
    model.about_to_rank(known)
    return lists_of_model(model.eval(), trained, past, known)


def lists_of_model(model: Recommender, trained: ReviewDataset, past: ReviewDataset, known: Known) -> Lists:
    """Returns the lists of a model in eval mode.

    Args:
        trained: the interactions that trained the model.
        past: those of training and validation, whose items the users do not get again.
        known: what is known before the test part.
    """
    met = pairs_of([past])
    trained_users = torch.zeros(past.user_num, dtype=torch.bool)
    trained_users[trained.inter_feat[past.uid_field]] = True
    trained_items = torch.zeros(past.item_num, dtype=torch.bool)
    trained_items[trained.inter_feat[past.iid_field]] = True
    return Lists(
        dataset=past.dataset_name,
        users=[str(token) for token in past.field2id_token[past.uid_field]],
        items=[str(token) for token in past.field2id_token[past.iid_field]],
        start=torch.searchsorted(met // past.item_num, torch.arange(past.user_num + 1)),
        met=met % past.item_num,
        trained_users=trained_users,
        trained_items=trained_items,
        known=known,
        ranks_strangers=model.ranks_strangers,
        ranks_new_items=model.ranks_new_items,
        scores=lambda some: _scores(model, Interaction({past.uid_field: some}), past),
    )


def to_store(model: Recommender, trained: ReviewDataset, past: ReviewDataset, known: Known) -> dict[str, Any]:
    """Returns what a checkpoint keeps so that it recommends without the dataset; nothing if the model can't do this.

    A model that serves keeps what makes its scores. Of other models the scores must be dot products of vectors.

    Args:
        model, trained, past, known: as for :func:`lists_of_model`.
    """
    lists = lists_of_model(model, trained, past, known)
    if model.serves:
        serving = model.to_serve(trained, past, known) | {"format": SERVING_FORMAT}
        return {"serving": serving, "lists": lists.stored()}
    vectors = _vectors_of_scores(model, lists, past)
    return {"lists": lists.stored() | {"vectors": vectors}} if vectors else {}


def _vectors_of_scores(model: Recommender, lists: Lists, past: ReviewDataset) -> tuple[Tensor, Tensor] | None:
    """Returns vectors of users and of items whose dot products are the scores, or None if the model has none."""
    some = torch.arange(1, min(1 + TRIED, past.user_num))
    scores = lists.scores(some)
    for users, items in _vectors(model):
        if len(users) == past.user_num and len(items) == past.item_num and users.shape[1] == items.shape[1]:
            users, items = users.detach().cpu(), items.detach().cpu()
            if torch.allclose(users[some] @ items.T, scores, rtol=1e-4, atol=1e-6):
                return users, items
    return None


def _vectors(model: Recommender) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields pairs of vectors of users and of items that a model has, once it has ranked."""
    if isinstance(model, VectorRecommender) and model._kept_vectors is not None:
        yield model._kept_vectors
    for names in VECTORS:
        users, items = (
            found.weight if isinstance(found := getattr(model, name, None), nn.Embedding) else found for name in names
        )
        if isinstance(users, Tensor) and isinstance(items, Tensor):
            yield users, items


def _scores(model: Recommender, users: Interaction, past: ReviewDataset) -> Tensor:
    """Returns the scores of all items for a batch of users, [B, n_items], on the CPU."""
    try:
        return model.full_sort_predict(users.to(model.device)).view(len(users), -1).cpu()
    except NotImplementedError:  # such as NeuMF, which scores pairs
        return torch.stack([_scores_of_pairs(model, users[[row]], past) for row in range(len(users))])


def _scores_of_pairs(model: Recommender, user: Interaction, past: ReviewDataset) -> Tensor:
    pairs = user.repeat(past.item_num)
    pairs.update(Interaction({past.iid_field: torch.arange(past.item_num)}))
    return model.predict(pairs.to(model.device)).flatten().cpu()
