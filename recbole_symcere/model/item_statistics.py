"""What is known of the items from the interactions that train: when they were met, and which items belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_symcere.decay import DAY
from recbole_symcere.model.text.groups import mean_of_members, profiles_by_group
from recbole_symcere.model.text.whitening import whitening, within_groups

if TYPE_CHECKING:
    from typing_extensions import Self

    from recbole_symcere.data.dataset import ReviewDataset

WALKS = (0.4, 0.4, 0.3)  # exponents of the user's degree and of the popularity of a walk's source and end
NEAREST = 30  # how many items near to each item by text are kept
COSINES_AT_ONCE = 2**24  # float32: 64 MiB


class ItemTexts(nn.Module):
    """What the training reviews tell of items and users; a checkpoint holds it, because ranking reads no review.

    Attributes:
        profiles: [n_items, hidden], the direction of each item's mean review in the whitened space; zero for an item
            without a review.
        words: [n_items, hidden], the direction of each item's mean review in the space of :attr:`to_words`.
        to_words: [hidden, hidden], takes reviews to a space in which directions count less where the reviews of one
            item differ from each other.
        of_users: [n_users, hidden], the mean review of each user, minus the mean of all.
        mean: [hidden], the mean review; None in a model that reads no review, such as one that only ranks.
        to_profiles: [hidden, hidden], takes reviews to the whitened space; None as ``mean``.
    """

    profiles: Tensor
    words: Tensor
    to_words: Tensor
    of_users: Tensor
    mean: Tensor | None
    to_profiles: Tensor | None

    def __init__(
        self,
        *,
        profiles: Tensor,
        words: Tensor,
        to_words: Tensor,
        of_users: Tensor,
        mean: Tensor | None = None,
        to_profiles: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("profiles", profiles)
        self.register_buffer("words", words)
        self.register_buffer("to_words", to_words)
        self.register_buffer("of_users", of_users)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("to_profiles", to_profiles, persistent=False)

    @classmethod
    def of_reviews(cls, dataset: ReviewDataset, vectors: Tensor) -> ItemTexts:
        """Makes the tables of the training reviews.

        Args:
            dataset: the training interactions.
            vectors: float32 [n, hidden], the vectors of their reviews, in their order.
        """
        users, items = (dataset.inter_feat[field] for field in (dataset.uid_field, dataset.iid_field))
        n_users, n_items = (dataset.num(field) for field in (dataset.uid_field, dataset.iid_field))
        mean = vectors.mean(0)
        centred = vectors - mean
        of_items = mean_of_members(centred, items, n_items)
        to_words, to_profiles = within_groups(centred - of_items[items]), whitening(centred)
        return cls(
            profiles=profiles_by_group(centred @ to_profiles, items, n_items),
            words=F.normalize(of_items @ to_words, dim=1),
            to_words=to_words,
            of_users=mean_of_members(centred, users, n_users),
            mean=mean,
            to_profiles=to_profiles,
        )


class ItemStatistics(nn.Module):
    """What pieces of evidence read of the items.

    Args, which are attributes, too:
        texts: what the reviews tell.
        item, moment: [n], the interactions; moments are float64, in seconds.
        usual_age: the median over the training interactions of the item's age at that time, in seconds.
        walks: [n_items, n_items] sparse, where people went on from an item: see ``directed_walks``.
        nearest: [n_items, n_items] sparse, the cosine of each item with the ``NEAREST`` items whose texts are nearest.

    Attributes:
        n_items: the number of items, with the padding.
        known: [n_items] bool, whether an item has an interaction.
        first: [n_items] float64, the moment of the first one; infinity for an item without one.
        folding, vectors: [n_items, d], what the graph model knows of the items; :meth:`take_graph` sets both.
        goes_on: whether there are interactions later than the moments at which people are asked, so that an item is
            known to a person only if its first one is not.
    """

    goes_on = False

    item: Tensor
    moment: Tensor
    known: Tensor
    first: Tensor
    walks: Tensor
    nearest: Tensor
    folding: Tensor
    vectors: Tensor

    def __init__(
        self, texts: ItemTexts, *, item: Tensor, moment: Tensor, usual_age: float, walks: Tensor, nearest: Tensor
    ) -> None:
        super().__init__()
        self.n_items, self.usual_age = len(texts.words), usual_age
        self.texts = texts
        first = first_moments(item, moment, self.n_items)
        tables = {"item": item, "moment": moment, "walks": walks, "nearest": nearest}
        for name, table in (tables | {"known": first.isfinite(), "first": first}).items():
            self.register_buffer(name, table, persistent=False)

    @classmethod
    def of_training(cls, dataset: ReviewDataset, texts: ItemTexts) -> Self:
        """Makes the statistics of the training interactions; a usual age below a day counts as a day.

        Raises:
            DatasetError: the interactions have no times.
        """
        from recbole_symcere.model.baselines.history import moments  # need RecBole, which serving does not load
        from recbole_symcere.model.baselines.item_walks import directed_walks

        item, moment = dataset.inter_feat[dataset.iid_field], moments(dataset)
        age = moment - first_moments(item, moment, dataset.num(dataset.iid_field))[item]
        return cls(
            texts,
            item=item,
            moment=moment,
            usual_age=max(float(age.median()), DAY),
            walks=directed_walks(dataset, *WALKS),
            nearest=nearest_items(texts.profiles, NEAREST),
        )

    def known_to(self, now: Tensor) -> Tensor:
        """Returns which items are known at some moments [B], [n_items] or, if that differs, [B, n_items] bool."""
        return self.first <= now[:, None] if self.goes_on else self.known

    def take_graph(self, folding: Tensor, vectors: Tensor) -> None:
        """Takes over the item vectors of the graph model.

        Args:
            folding: [n_items, d], whose sum over a history has the direction of the person's vector.
            vectors: [n_items, d], whose dot products with people's vectors are the scores.
        """
        self.folding, self.vectors = folding, vectors


def first_moments(item: Tensor, moment: Tensor, n_items: int) -> Tensor:
    """Returns the moment of each item's first interaction, [n_items]; infinity for an item without one."""
    return moment.new_full((n_items,), torch.inf).scatter_reduce(0, item, moment, "amin")


def nearest_items(profiles: Tensor, k: int) -> Tensor:
    """Returns the cosines of each item with the k nearest other items, sparse [n_items, n_items].

    A cosine below 0 counts as 0. No table of all pairs of items is made.

    Args:
        profiles: [n_items, hidden], of unit length or zero.
    """
    n_items = len(profiles)
    k = min(k, n_items - 1)
    rows, columns, cosines = [], [], []
    for part in torch.arange(n_items, device=profiles.device).split(max(1, COSINES_AT_ONCE // n_items)):
        similarity = profiles[part] @ profiles.T
        similarity[torch.arange(len(part)), part] = -torch.inf
        values, items = similarity.topk(k)
        rows.append(part.repeat_interleave(k))
        columns.append(items.flatten())
        cosines.append(values.flatten().clamp(min=0))
    places = torch.stack([torch.cat(rows), torch.cat(columns)])
    return torch.sparse_coo_tensor(places, torch.cat(cosines), (n_items, n_items), check_invariants=False).coalesce()
