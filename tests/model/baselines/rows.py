"""A few training interactions in the place of a dataset, for models that read nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from scipy.sparse import coo_matrix

from tests.conftest import FewSettings

N_USERS, N_ITEMS = 5, 6  # with padding; user 4 and item 5 occur in no list of rows
DAY = 86_400.0

Row = tuple[int, int, float]  # user, item, days


class Rows(NamedTuple):
    """Interactions; ``timed`` says whether their times are loaded."""

    rows: list[Row]
    timed: bool = True
    dataset_name: str = "few"
    uid_field: str = "user_id"
    iid_field: str = "item_id"
    time_field: str = "timestamp"

    @property
    def inter_feat(self) -> dict[str, torch.Tensor]:
        users, items, days = zip(*self.rows, strict=True)
        times = {"timestamp": torch.tensor(days, dtype=torch.float64) * DAY} if self.timed else {}
        return {"user_id": torch.tensor(users), "item_id": torch.tensor(items), **times}

    def num(self, field: str) -> int:
        return {"user_id": N_USERS, "item_id": N_ITEMS}[field]

    def inter_matrix(self, form: str) -> Any:
        users, items, _ = zip(*self.rows, strict=True)
        return coo_matrix((np.ones(len(users)), (users, items)), (N_USERS, N_ITEMS)).asformat(form)


def few_settings(**own: Any) -> FewSettings:
    """Settings for a model of ``Rows``."""
    fields = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_"}
    settings = FewSettings(fields | {"device": torch.device("cpu"), "eval_args": {"group_by": "user"}} | own)
    settings.device = settings["device"]  # RecBole's EASE asks for it in this way
    return settings


def rows_of_three_users(unique: bool = False) -> st.SearchStrategy[list[Row]]:
    """Lists of rows, in any order and with equal moments; ``unique``: no pair occurs twice."""
    row = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 9).map(float))
    return st.lists(row, min_size=1, max_size=20, unique_by=(lambda row: row[:2]) if unique else None)


def scores_of_all(model: Any) -> np.ndarray:
    """The scores of all items for all users, [N_USERS, N_ITEMS]; the users come twice and in another order."""
    users = torch.tensor([*reversed(range(N_USERS)), *range(N_USERS)])
    scores = model.full_sort_predict(Interaction({"user_id": users})).view(-1, N_ITEMS)
    assert torch.equal(scores[:N_USERS].flip(0), scores[N_USERS:])
    items = torch.arange(N_ITEMS).repeat(len(users))
    pairs = Interaction({"user_id": users.repeat_interleave(N_ITEMS), "item_id": items})
    assert torch.allclose(model.predict(pairs), scores.flatten(), rtol=1e-6)
    return scores[N_USERS:].numpy()
