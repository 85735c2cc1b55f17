"""Which training reviews lie near a pair of a user and an item."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_symcere.analysis.shared import at_least_one
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.grid import as_markdown
from recbole_symcere.properties import parse_assignments

HELP = "which training reviews of a user and of an item lie near the pair of them"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --user u0 --item i124
  %(prog)s --checkpoint saved/demo.pth --user u0 --item i124 --show-text
"""
TEXT_WIDTH = 300  # characters of a review that --show-text prints


@dataclass(frozen=True)
class Pull:
    """Holds the training reviews around a pair (u, v), each list nearest first.

    Rows are those of ``TrainedModel.pairs("train")``. A near review is similar in the space that training aligned; it
    is not a cause: without it the score could be the same.

    Attributes:
        cosine: float32 [n], of each training review t with the pair's g_uv, eq. (2) of both.
        percentile: float64 [n], the share of all training reviews with a cosine as high or lower, in percent.
        own: the user's reviews of other items.
        others: other users' reviews of the item.
        itself: the user's reviews of the item; empty, if the pair did not train.
    """

    cosine: np.ndarray
    percentile: np.ndarray
    own: np.ndarray
    others: np.ndarray
    itself: np.ndarray

    @property
    def above_mean(self) -> np.ndarray:
        """The cosines less their mean over all training reviews, [n]; a pair near to all reviews says little."""
        return self.cosine - self.cosine.mean()


def pull(pair: Tensor, reviews: Tensor, users: Tensor, items: Tensor, user: int, item: int) -> Pull:
    """Returns the training reviews of a user and of an item, by their cosine with the pair's vector.

    Args:
        pair: [d], g_uv of section 3.1.1, of any length.
        reviews: [n, d], of any lengths.
        users, items: [n] long, who wrote each review and of what.
    """
    cosine = (F.normalize(reviews, dim=1) @ F.normalize(pair, dim=0)).numpy()
    percentile = 100 * np.searchsorted(np.sort(cosine), cosine, side="right") / len(cosine)
    by_user, of_item = (users == user).numpy(), (items == item).numpy()
    nearest_first = np.argsort(-cosine, kind="stable")

    def rows(which: np.ndarray) -> np.ndarray:
        return nearest_first[which[nearest_first]]

    return Pull(
        cosine,
        percentile,
        own=rows(by_user & ~of_item),
        others=rows(of_item & ~by_user),
        itself=rows(by_user & of_item),
    )


@torch.no_grad()
def rank(trained: TrainedModel, user: int, item: int) -> tuple[float, int, int]:
    """Returns the pair's score, its rank (1 is best) and the number of ranked items.

    Ranked are the item and all items that the user has not met in training.
    """
    model = trained.model
    one = Interaction({model.USER_ID: torch.tensor([user])}).to(model.device)
    scores = model.full_sort_predict(one).cpu()
    users, items = trained.pairs()
    candidate = torch.ones(len(scores), dtype=torch.bool)
    candidate[0] = False  # padding
    candidate[items[users == user]] = False
    candidate[item] = True
    return float(scores[item]), 1 + int((scores[candidate] > scores[item]).sum()), int(candidate.sum())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--checkpoint", required=True, help="a checkpoint of SymCERE")
    parser.add_argument("--user", required=True, metavar="TOKEN", help="as in the .inter file")
    parser.add_argument("--item", required=True, metavar="TOKEN", help="as in the .inter file")
    parser.add_argument("--k", type=at_least_one, default=5, help="reviews of each side (%(default)s)")
    parser.add_argument(
        "--show-text", action="store_true", help=f"print the first {TEXT_WIDTH} characters of each review"
    )
    parser.add_argument(
        "--show-users", action="store_true", help="print user tokens, and review ids, which may hold them"
    )


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints how the model comes to rank the item for the user.

    Raises:
        UserError: the checkpoint can't be used, there is no such user or item, one was not trained, or the model was
            trained without reviews.
    """
    trained = TrainedModel(given.checkpoint, {"show_progress": True, **parse_assignments(rest)})
    user = trained.number_of("user", given.user, suggest=given.show_users)
    item = trained.number_of("item", given.item)
    users, items = trained.pairs()
    pair = trained.model.interaction_vectors(trained.nodes, torch.tensor([user]), torch.tensor([item]))[0]
    found = pull(pair, trained.review_vectors(), users, items, user, item)
    score, place, among = rank(trained, user, item)
    print(f"{trained.label}: {f'user {given.user}' if given.show_users else 'the user'} and item {given.item}")
    print(f"Score {score:.4f}: number {place:,} of {among:,} items, those that the user met in training left out.")
    if len(found.itself):
        own = ", ".join(f"{found.cosine[row]:+.3f} (percentile {found.percentile[row]:.1f})" for row in found.itself)
        print(f"The pair itself was a training interaction; cosine of its own review, left out below: {own}.")
    print(
        f"Cosines are of reviews with the pair's graph vector; their mean over all {len(found.cosine):,} training "
        f"reviews is {found.cosine.mean():+.3f}. This is a similarity, not a cause."
    )
    for title, rows in (
        ("The user's training reviews of other items", found.own),
        ("Other users' training reviews of the item", found.others),
    ):
        print(f"\n{title}: {min(given.k, len(rows))} of {len(rows):,}")
        if len(rows):
            print(as_markdown(_columns(trained, found, rows[: given.k], user, item, given)))


def _columns(
    trained: TrainedModel, found: Pull, rows: np.ndarray, user: int, item: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Returns the columns of reviews ``rows``; none names a user or quotes a review, unless it was asked for."""
    users, items = (numbers[rows] for numbers in trained.pairs())
    user_nodes, item_nodes = trained.nodes
    columns: dict[str, Any] = {"": range(1, len(rows) + 1)}
    # The graph's other end: how near a review's item is to this one, or its writer to this user
    if users[0] == user:
        columns["item"] = trained.item_tokens()[items.numpy()]
        graph = F.cosine_similarity(item_nodes[items], item_nodes[item], dim=-1)
    else:
        columns["training row"] = rows
        graph = F.cosine_similarity(user_nodes[users], user_nodes[user], dim=-1)
    columns |= {
        "cosine": _signed(found.cosine[rows]),
        "above mean": _signed(found.above_mean[rows]),
        "percentile": [f"{percentile:.1f}" for percentile in found.percentile[rows]],
        "item's cosine" if users[0] == user else "user's cosine": _signed(graph.numpy()),
    }
    if given.show_users:
        columns |= {} if users[0] == user else {"user": trained.user_tokens()[users.numpy()]}
        columns["review id"] = trained.review_ids("train")[rows]
    if given.show_text:
        texts = trained.train.review_texts()
        columns["text"] = [_opening(texts[row]) for row in rows]
    return columns


def _signed(values: np.ndarray) -> list[str]:
    return [f"{value:+.3f}" for value in values]


def _opening(text: str) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_WIDTH else line[:TEXT_WIDTH] + "…"
