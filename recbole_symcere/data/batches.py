"""Training batches that are made on the model's device, with negative items that their user has not met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.transfer import upload


def can_make(config: Config, dataset: ReviewDataset) -> bool:
    """Returns whether :class:`DeviceTrainDataLoader` can make the batches that a configuration asks for.

    It can't where negatives are drawn by popularity or chosen by the model, where fields of users or items are joined,
    or where rows are transformed or collected by worker processes. RecBole's own loader does all of these.
    """
    negatives = config["train_neg_sample_args"]
    return not (
        negatives["distribution"] == "popularity"
        or negatives["dynamic"]
        or dataset.user_feat is not None
        or dataset.item_feat is not None
        or config["transform"]
        or config["worker"]
    )


class UnmetItems:
    """Draws items that a user has not met, all with equal probability, without trying one after the other.

    An item is found by its place among the unmet ones, so no draw has to be repeated, and the host does not wait for
    the device.

    Args:
        users, items: [n] long, the interactions; a pair may occur several times.
        n_users, n_items: the numbers of ids, with the padding 0, which is never drawn.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        self.n_items = n_items
        pairs = (users * n_items + items).unique()
        user, item = pairs // n_items, pairs % n_items
        self.start = torch.searchsorted(pairs, torch.arange(n_users, device=pairs.device) * n_items)
        place = torch.arange(len(pairs), device=pairs.device) - self.start[user]
        n_unmet_before = item - 1 - place  # of each met item, how many smaller ids the user has not met
        self.keys = user * n_items + n_unmet_before
        self.n_unmet = n_items - 1 - torch.bincount(user, minlength=n_users)

    def at(self, users: Tensor, places: Tensor) -> Tensor:
        """Returns the unmet items at the given places, from 0, in the order of their ids; [n] long each."""
        n_met_before = torch.searchsorted(self.keys, users * self.n_items + places, right=True) - self.start[users]
        return places + 1 + n_met_before

    def draw(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Returns an unmet item for each of the users [n], drawn by a generator of their device."""
        drawn = torch.randint(2**62, users.shape, generator=generator, device=users.device)
        return self.at(users, drawn % self.n_unmet[users])


class DeviceTrainDataLoader(TrainDataLoader):
    """RecBole's training loader, except that the batches are made on the model's device from tensors that are there.

    The order of an epoch is drawn on the host and uploaded once. The batches have RecBole's sizes and fields. Fields
    that the model names as ``host_fields`` stay on the host. The seed alone decides the batches, whatever the model
    draws.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.get_model(None)

    def get_model(self, model: Any) -> None:
        """Makes batches for a model from now on: on its device, without the fields that it wants on the host."""
        self.device = torch.device("cpu") if model is None else model.device
        self.host_fields = () if model is None else model.host_fields
        on_host = self._dataset.inter_feat.interaction
        self.fields = {
            field: values if field in self.host_fields else upload(values, self.device)
            for field, values in on_host.items()
        }
        self.users, items = (upload(on_host[field], self.device) for field in (self.uid_field, self.iid_field))
        self.unmet = UnmetItems(self.users, items, self._dataset.user_num, self._dataset.item_num)

    def __iter__(self) -> Iterator[Interaction]:
        n = self.sample_size
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        seed = int(torch.randint(2**62, (), generator=self.generator))
        self.of_negatives = torch.Generator(self.device).manual_seed(seed)
        for host_rows, rows in zip(order.split(self.step), upload(order, self.device).split(self.step), strict=True):
            yield self._batch(host_rows, rows)

    def _batch(self, host_rows: Tensor, rows: Tensor) -> Interaction:
        """Returns a batch of some interactions, with negatives where the model learns from them.

        Args:
            host_rows, rows: the same numbers of interactions on the host and on the device.
        """
        batch = {
            field: values[host_rows if field in self.host_fields else rows] for field, values in self.fields.items()
        }
        if self.neg_sample_args["distribution"] == "none":
            return Interaction(batch)
        batch = {field: values.repeat(self.times) for field, values in batch.items()}
        negatives = self.unmet.draw(self.users[rows].repeat(self.neg_sample_num), self.of_negatives)
        if self.dl_format == InputType.PAIRWISE:
            return Interaction(batch | {self.neg_item_id: negatives})
        positives = batch[self.iid_field][: len(rows)]
        batch[self.iid_field] = torch.cat([positives, negatives.to(positives.device)])
        labels = torch.zeros(len(rows) * self.times, device=self.device)
        labels[: len(rows)] = 1
        return Interaction(batch | {self.label_field: labels})
