"""Which training reviews lie near a pair of a user and an item."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from dataset_prep.command import at_least
from recbole_symcere.analysis.evidence.sentences import speaking_sentences
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.grid import as_markdown
from recbole_symcere.model.symcere_plus import SymCEREPlus
from recbole_symcere.properties import parse_assignments

HELP = "which training reviews of a user and of an item lie near the pair of them"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --user u0 --item i124
  %(prog)s --checkpoint saved/demo.pth --user u0 --item i124 --show-text
"""
TEXT_WIDTH = 300  # characters of a review that --show-text prints


def near_reviews(pair: Tensor, reviews: Tensor, users: Tensor, items: Tensor) -> pl.DataFrame:
    """Returns all training reviews, those nearest to a pair of a user and an item first.

    A near review is similar in the space that training aligned; it is not a cause: without it the score could be the
    same.

    Args:
        pair: [d], g_uv of section 3.1.1, of any length.
        reviews: [n, d], of any lengths.
        users, items: [n] long, who wrote each review and of what.

    Returns:
        ``row``, ``user`` and ``item`` of each review; its ``cosine`` with the pair, eq. (2) of both; what that is
        ``above mean``, since a pair near to all reviews says little; and the ``percentile``, the share of reviews with
        a cosine as high or lower, in percent.
    """
    cosine = (F.normalize(reviews, dim=1) @ F.normalize(pair, dim=0)).numpy()
    percentile = 100 * np.searchsorted(np.sort(cosine), cosine, side="right") / len(cosine)
    columns = {"row": np.arange(len(cosine)), "user": users.numpy(), "item": items.numpy(), "cosine": cosine}
    found = pl.DataFrame({**columns, "above mean": cosine - cosine.mean(), "percentile": percentile})
    return found.sort("cosine", descending=True, maintain_order=True)


@torch.no_grad()
def evidence_for(model: SymCEREPlus, user: int, item: int) -> dict[str, Any]:
    """Returns what each piece of evidence adds to a pair's score, the largest part first, as columns of a table.

    ``standardised`` is how far the item lies above the mean of the items, in standard deviations.
    """
    users = torch.tensor([user], device=model.device)
    added, found = model.contributions(users), model.standardised(users)
    names = sorted(added, key=lambda name: -float(added[name][0, item]))
    return {
        "evidence": names,
        "standardised": [f"{float(found[name][0, item]):+.2f}" for name in names],
        "adds to the score": [f"{float(added[name][0, item]):+.3f}" for name in names],
    }


@torch.no_grad()
def rank(trained: TrainedModel, user: int, item: int) -> tuple[float, int, int]:
    """Returns the pair's score, its rank (1 is best) and the number of ranked items.

    Ranked are the item and all items that the user has not met in training.
    """
    model = trained.model
    one = Interaction({model.USER_ID: torch.tensor([user])}).to(model.device)
    scores = model.full_sort_predict(one).cpu()
    candidate = trained.unmet(user)
    candidate[item] = True
    return float(scores[item]), 1 + int((scores[candidate] > scores[item]).sum()), int(candidate.sum())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--checkpoint", required=True, help="a checkpoint of SymCERE or SymCEREPlus")
    parser.add_argument("--user", required=True, metavar="TOKEN", help="as in the .inter file")
    parser.add_argument("--item", required=True, metavar="TOKEN", help="as in the .inter file")
    parser.add_argument("--k", type=at_least(1), default=5, help="reviews of each side (%(default)s)")
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
    pair = trained.model.interaction_vectors(trained.nodes, torch.tensor([user]), torch.tensor([item]))[0]
    found = near_reviews(pair, trained.review_vectors(), *trained.pairs())
    by_user, of_item = pl.col("user") == user, pl.col("item") == item
    score, place, among = rank(trained, user, item)
    print(f"{trained.label}: {f'user {given.user}' if given.show_users else 'the user'} and item {given.item}")
    print(f"Score {score:.4f}: number {place:,} of {among:,} items, those that the user met in training left out.")
    if isinstance(trained.model, SymCEREPlus):
        print(f"\n{as_markdown(evidence_for(trained.model, user, item))}\n")
        if given.show_text:
            print(_sentences(trained, user, item, given.k))
    itself = found.filter(by_user & of_item).select("cosine", "percentile").rows()
    if own := ", ".join(f"{cosine:+.3f} (percentile {percentile:.1f})" for cosine, percentile in itself):
        print(f"The pair itself was a training interaction; cosine of its own review, left out below: {own}.")
    print(
        f"Cosines are of reviews with the pair's graph vector; their mean over all {len(found):,} training "
        f"reviews is {found['cosine'].to_numpy().mean():+.3f}. This is a similarity, not a cause."
    )
    for title, rows, side in (
        ("The user's training reviews of other items", found.filter(by_user & ~of_item), "item"),
        ("Other users' training reviews of the item", found.filter(of_item & ~by_user), "user"),
    ):
        print(f"\n{title}: {min(given.k, len(rows))} of {len(rows):,}")
        if len(rows):
            print(as_markdown(_columns(trained, rows.head(given.k), side, user if side == "user" else item, given)))


def _sentences(trained: TrainedModel, user: int, item: int, k: int) -> str:
    """Returns the sentences that are nearest to the other side of the pair, for the pieces that compare texts."""
    found = speaking_sentences(trained, user, item, k)
    columns = {
        "reviews": [each.source for each in found],
        "cosine": [f"{each.cosine:+.3f}" for each in found],
        "sentence": [_opening(each.text) for each in found],
    }
    return (
        "Sentences that are nearest to the mean review of the other side, as own_words compares them:\n\n"
        f"{as_markdown(columns) if found else 'none'}\n"
    )


def _columns(
    trained: TrainedModel, found: pl.DataFrame, side: str, number: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Returns the columns of some reviews; none names a user or quotes a review, unless it was asked for.

    Args:
        side: ``user`` or ``item``, the end of the graph at which the reviews differ from the pair.
        number: the pair's user or item at that end.
    """
    rows, others = found["row"].to_numpy(), found[side].to_numpy()
    nodes = trained.nodes[side == "item"]
    graph = F.cosine_similarity(nodes[others], nodes[number], dim=-1)
    columns: dict[str, Any] = {"": range(1, len(rows) + 1)}
    columns |= {"item": trained.item_tokens()[others]} if side == "item" else {"training row": rows}
    columns |= {name: [f"{value:+.3f}" for value in found[name]] for name in ("cosine", "above mean")}
    columns["percentile"] = [f"{percentile:.1f}" for percentile in found["percentile"]]
    columns[f"{side}'s cosine"] = [f"{value:+.3f}" for value in graph.tolist()]
    if given.show_users:
        columns |= {"user": trained.user_tokens()[others]} if side == "user" else {}
        columns["review id"] = trained.review_ids("train")[rows]
    if given.show_text:
        texts = trained.train.review_texts()
        columns["text"] = [_opening(texts[row]) for row in rows]
    return columns


def _opening(text: str) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_WIDTH else line[:TEXT_WIDTH] + "…"
