"""Adds to what a recommender reads: interactions that came after training, and items that nobody has met.

Nothing is trained. A record is never changed: each function returns another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_symcere.model.placing import placed
from recbole_symcere.serving.terms import appended

Record = dict[str, Any]


@dataclass(frozen=True)
class NewInteraction:
    """An interaction that came after training.

    Attributes:
        user, item: tokens, of the data or new.
        time: seconds since 1970.
        text: the review, if there is one.
    """

    user: str
    item: str
    time: float
    text: str | None = None


def with_items(
    record: Record, names: Sequence[str], vectors: Tensor, words: tuple[np.ndarray, np.ndarray], listed: Tensor
) -> Record:
    """Adds items, each of which gets its place by its text: see ``Placed``.

    Args:
        names: n new ones.
        vectors: [n, hidden], the mean vector of each item's texts; NaN for an item without a text, of which nothing is
            known but the moment.
        words: the number of the new item, from 0, and the hash of each word of the texts.
        listed: [n] float64, the moment at which each item came, in seconds.
    """
    texts, statistics = record["texts"], record["statistics"]
    n_old = len(texts["profiles"])
    new = torch.arange(n_old, n_old + len(names))
    longer = {name: F.pad(texts[name], (0, 0, 0, len(names))) for name in ("profiles", "words")}
    longer |= {name: _longer(statistics[name], len(names)) for name in ("walks", "nearest")}
    found = placed(texts | longer, new, vectors)
    return record | {
        "items": [*record["items"], *names],
        "listed": torch.cat([record.get("listed", torch.full((n_old,), torch.inf, dtype=torch.float64)), listed]),
        "words": record["words"] and appended(record["words"], *words, len(names)),
        "texts": texts | {"profiles": found.profiles, "words": found.words},
        "statistics": statistics
        | {"walks": found.walks, "nearest": found.nearest}
        | {name: found.taken_over(F.pad(statistics[name], (0, 0, 0, len(names)))) for name in ("folding", "vectors")},
    }


def _longer(table: Tensor, n_new: int) -> Tensor:
    """Returns a sparse table of items, [n_items, n_items], with further empty rows and columns."""
    size = len(table) + n_new
    table = table.coalesce()
    return torch.sparse_coo_tensor(table.indices(), table.values(), (size, size), check_invariants=False).coalesce()


def with_interactions(record: Record, rows: Sequence[NewInteraction], vectors: Mapping[int, Tensor]) -> Record:
    """Adds interactions with items of the record, and with them the users who are new.

    Histories, trends, the moments of items and the words of users go on; what the graph model and the reviews tell of
    an item stays as it was. Everybody is asked at the latest moment that is known then.

    Args:
        rows: at least one.
        vectors: the vector of the text [hidden] of each row that has one, by the number of the row.
    """
    old = set(record["users"])
    users = [*record["users"], *dict.fromkeys(row.user for row in rows if row.user not in old)]
    user_ids = {token: number for number, token in enumerate(users)}
    item_ids = {token: number for number, token in enumerate(record["items"])}
    user = torch.tensor([user_ids[row.user] for row in rows])
    item = torch.tensor([item_ids[row.item] for row in rows])
    moment = torch.tensor([row.time for row in rows], dtype=torch.float64)
    n_users, n_new = len(users), len(users) - len(record["users"])

    start, (all_items, all_moments) = _appended(
        record["start"], user, n_users, (record["item"], item), (record["moment"], moment)
    )
    past_start, (past_item,) = _appended(record["past_start"], user, n_users, (record["past_item"], item))
    written = F.pad(record["n_written"], (0, n_new))
    words = F.pad(record["texts"]["of_users"], (0, 0, 0, n_new)) * written[:, None]
    for number, vector in vectors.items():
        written[user[number]] += 1
        words[user[number]] += vector - record["texts"]["mean"]
    statistics = record["statistics"]
    now = torch.cat([record["now"], moment]).max()
    return record | {
        "users": users,
        "start": start,
        "item": all_items,
        "moment": all_moments,
        "past_start": past_start,
        "past_item": past_item,
        "n_written": written,
        "now": now.expand(n_users).clone(),
        "texts": record["texts"] | {"of_users": words / written.clamp(min=1)[:, None]},
        "statistics": statistics
        | {
            "item": torch.cat([statistics["item"], item]),
            "moment": torch.cat([statistics["moment"], moment]),
        },
    }


def _appended(
    start: Tensor, user: Tensor, n_users: int, *columns: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Appends values to the end of each user's own, in columns that are sorted by user.

    Args:
        start: [users + 1], where each user's values begin.
        user: [n], whose the new values are.
        n_users: the number of users with the new ones.
        columns: the old and the new values of each column.

    Returns:
        The new starts [n_users + 1], and the new columns.
    """
    old = torch.repeat_interleave(torch.arange(len(start) - 1), start.diff())
    owner = torch.cat([old, user])
    order = owner.argsort(stable=True)
    return torch.searchsorted(owner[order], torch.arange(n_users + 1)), [torch.cat(pair)[order] for pair in columns]
