"""What each piece of evidence adds to the items that a SymCEREPlus recommends: tables, and a figure of bars."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from recbole_symcere.analysis.evidence.sentences import speaking_sentences
from recbole_symcere.analysis.figures import COLOURS, figure, plain, save
from recbole_symcere.analysis.shared import write_json, write_text
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.errors import AnalysisError
from recbole_symcere.grid import Cell, Grid, Row, minus
from recbole_symcere.model.symcere_plus import SymCEREPlus

SENTENCES = 3  # of each source
HATCHES = ("", "///", "...", "xxx")  # tell pieces apart that have the same colour


def measure(given: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """Writes ``evidence.json``, ``evidence.md`` and ``figure-evidence``; the same arguments give the same files.

    Args:
        given: the options of the command.
        settings: changes of the run's settings, such as ``data_path``.

    Returns:
        The tables, as Markdown.

    Raises:
        AnalysisError: the checkpoint belongs to another model.
        UserError: as for :class:`TrainedModel`, or there is no such user.
    """
    trained = TrainedModel(given.checkpoint, settings)
    if not isinstance(trained.model, SymCEREPlus):
        model = trained.config["model"]
        raise AnalysisError(f"{trained.path} holds {model}, which has no named evidence; name one of SymCEREPlus")
    users = _users(trained, given)
    content: dict[str, Any] = {
        "checkpoint": trained.label,
        "weights": trained.model.learned(),
        "recommended": [_recommended(trained, user, number, given) for number, user in enumerate(users, start=1)],
    }
    with draw_evidence(content["recommended"]) as drawn:
        save(drawn, given.output, "figure-evidence")
    write_json(given.output / "evidence.json", content)
    grids = evidence_grids(content)
    text = "\n\n".join([f"# Evidence of {trained.label}", *(f"## {g.caption}\n\n{g.to_markdown()}" for g in grids)])
    write_text(given.output / "evidence.md", text + "\n")
    return text + "\n"


def _users(trained: TrainedModel, given: argparse.Namespace) -> list[int]:
    """Returns the numbers of the users who are asked for, or of some that are evenly spread over those of training."""
    if given.user:
        return [trained.number_of("user", token, suggest=given.show_users) for token in given.user]
    known = trained.model.graph.has_edge.nonzero().flatten().tolist()
    places = np.linspace(0, len(known) - 1, min(given.users, len(known))).round().astype(int)
    return [known[place] for place in places]


@torch.no_grad()
def _recommended(trained: TrainedModel, user: int, number: int, given: argparse.Namespace) -> dict[str, Any]:
    """Returns the best items that a user has not met, with what each piece of evidence adds to their scores."""
    model = trained.model
    assert isinstance(model, SymCEREPlus)
    contributions = model.contributions(torch.tensor([user], device=model.device))
    added = {name: part[0].cpu() for name, part in contributions.items()}
    scores = torch.stack(list(added.values())).sum(0)
    unmet = trained.unmet(user).nonzero().flatten()
    items = unmet[scores[unmet].topk(min(given.k, len(unmet))).indices].tolist()
    sentences = speaking_sentences(trained, user, items[0], SENTENCES) if given.show_text else []
    return {
        "user": str(trained.user_tokens()[user]) if given.show_users else f"user {number}",
        "items": [
            {
                "item": str(trained.item_tokens()[item]),
                "score": float(scores[item]),
                "added": {name: float(part[item]) for name, part in added.items()},
            }
            for item in items
        ],
        "sentences": [asdict(sentence) for sentence in sentences],
    }


def evidence_grids(content: Mapping[str, Any]) -> list[Grid]:
    """Returns the tables of what ``evidence.json`` holds: the weights, and for each user the items and sentences."""
    grids = [_weights_grid(content["weights"])]
    for recommended in content["recommended"]:
        grids.append(_items_grid(recommended))
        if recommended["sentences"]:
            grids.append(_sentences_grid(recommended))
    return grids


def _weights_grid(weights: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Grid:
    names = dict.fromkeys(name for of_kind in weights.values() for name in of_kind)
    rows = [Row(name, [_weight_cell(**of_kind[name]) for of_kind in weights.values()]) for name in names]
    return Grid("Weights and their standard errors", ["evidence", *weights], rows)


def _weight_cell(weight: float, error: float) -> Cell:
    return Cell(f"{weight:.2f}", weight, f"± {error:.2f}" if error else "")


def _items_grid(recommended: Mapping[str, Any]) -> Grid:
    items = recommended["items"]
    names = list(items[0]["added"])
    rows = [Row(each["item"], [_signed(each["score"]), *map(_signed, each["added"].values())]) for each in items]
    return Grid(f"What the evidence adds for {recommended['user']}", ["item", "score", *names], rows)


def _sentences_grid(recommended: Mapping[str, Any]) -> Grid:
    rows = [Row(each["source"], [_signed(each["cosine"]), Cell(each["text"])]) for each in recommended["sentences"]]
    caption = f"Sentences near {recommended['items'][0]['item']}, the first item for {recommended['user']}"
    return Grid(caption, ["reviews", "cosine", "sentence"], rows)


def _signed(value: float) -> Cell:
    return Cell(minus(f"{value:+.2f}"), value)


@contextmanager
def draw_evidence(recommended: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """Draws a panel for each user, with a bar for each item whose parts are what the pieces of evidence add.

    What speaks against an item stands to the left of 0.
    """
    n_items = max(len(each["items"]) for each in recommended)
    with figure(6.5, 0.5 + len(recommended) * (0.55 + 0.2 * n_items), rows=len(recommended)) as (drawn, axes):
        bars: dict[str, Any] = {}
        for axis, of_user in zip(axes, recommended, strict=True):
            items = of_user["items"]
            places = np.arange(len(items), 0, -1)
            left, right = np.zeros((2, len(items)))  # where the bars end so far
            for number, name in enumerate(items[0]["added"]):
                own = np.array([item["added"][name] for item in items])
                start = np.where(own >= 0, right, left)
                left, right = left + own.clip(max=0), right + own.clip(min=0)
                style = {
                    "color": COLOURS[number % len(COLOURS)],
                    "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)],
                }
                bars[name] = axis.barh(places, own, left=start, height=0.7, **style)
            axis.set_yticks(places, [plain(item["item"]) for item in items])
            axis.set_title(plain(of_user["user"]), loc="left", fontsize=9)
            axis.axvline(0, color="black", linewidth=0.8)
        axes[-1].set_xlabel("added to the score")
        drawn.legend(bars.values(), map(plain, bars), loc="outside upper center", ncols=3)
        yield drawn
