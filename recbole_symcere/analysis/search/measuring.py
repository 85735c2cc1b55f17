"""Known-item search: the text of a held-out review is the query, and its item is the answer.

The words of the item's name are left out of the query. Items that nobody had met before the held-out part are apart:
the first held-out review of each stands for a description, and the later ones are queries.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from recbole_symcere.analysis.shared import write_json, write_text
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.comparison.statistics import bootstrap_interval
from recbole_symcere.errors import AnalysisError
from recbole_symcere.grid import Cell, Grid, Row, minus
from recbole_symcere.model.symcere_plus import SymCEREPlus
from recbole_symcere.model.text.groups import mean_of_members
from recbole_symcere.model.text.views import training_vectors
from recbole_symcere.serving import Recommender, Request

AT_ONCE = 64  # queries
SHORTEST = 3  # characters of a word of a name that is left out
METHODS = ("BM25", "encoder alone", "meaning", "search", "search, with the person")
OURS = ("search", "search, with the person")
PEERS = ("BM25", "encoder alone")
K = 10


@dataclass(frozen=True)
class Query:
    """A held-out review.

    Attributes:
        user, item: tokens.
        text: the review without the words of the item's name.
    """

    user: str
    item: str
    text: str


def measure(given: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """Writes ``search.json`` and ``search.md``; the same arguments give the same files.

    Args:
        given: the options of the command.
        settings: changes of the run's settings, such as ``data_path``.

    Returns:
        The table, as Markdown.

    Raises:
        AnalysisError: the checkpoint belongs to another model, or there are no queries.
        UserError: as for :class:`TrainedModel` and :class:`Recommender`.
    """
    trained = TrainedModel(given.checkpoint, settings)
    if not isinstance(trained.model, SymCEREPlus):
        raise AnalysisError(f"{trained.path} holds {trained.config['model']}, which can't search; name SymCEREPlus")
    trained.check_held_out(given.part)
    recommender = Recommender.load(trained.path)
    known = set(_tokens(trained, "item", trained.train.inter_feat[trained.dataset.iid_field].unique()))
    warm, new, described = queries(trained, given.part, known, given.queries, given.seed)
    if not warm and not new:
        raise AnalysisError(f"{trained.path}: the part {given.part} has no review that can be a query")
    if described:
        recommender = recommender.with_items({item: [text] for item, text in described.items()})
    alone = _encoder_alone(trained, recommender, described)
    content: dict[str, Any] = {"checkpoint": trained.label, "part": given.part, "groups": {}}
    for group, asked in (("items known from training", warm), ("items nobody had met", new)):
        if asked:
            ranks = _ranks(recommender, alone, asked)
            content["groups"][group] = _told(ranks, given.seed)
    write_json(given.output / "search.json", content)
    text = "\n\n".join([f"# Search by {trained.label}", *(_section(*group) for group in content["groups"].items())])
    write_text(given.output / "search.md", text + "\n")
    return text + "\n"


def queries(
    trained: TrainedModel, part: str, known: set[str], n: int, seed: int
) -> tuple[list[Query], list[Query], dict[str, str]]:
    """Returns queries for known items, queries for new ones, and the review that stands for each new item.

    Args:
        known: the tokens of items with a training interaction.
        n: how many queries of each kind there are at most, drawn at random.
    """
    held = trained.parts[part]
    users, items = (_tokens(trained, kind, held.inter_feat[f]) for kind, f in _fields(trained))
    times = held.inter_feat[held.time_field].double().argsort(stable=True).tolist()
    texts = held.review_texts()
    warm: list[Query] = []
    new: list[Query] = []
    described: dict[str, str] = {}
    for row in times:
        item, text = items[row], without_name(texts[row], items[row])
        if not text:
            continue
        if item not in known and item not in described:
            described[item] = text
        else:
            (warm if item in known else new).append(Query(users[row], item, text))
    draw = np.random.default_rng(seed)

    def some(asked: list[Query]) -> list[Query]:
        return [asked[number] for number in np.sort(draw.permutation(len(asked))[:n])]

    return some(warm), some(new), described


def without_name(text: str, name: str) -> str:
    """Returns a text without the words of a name, but for those of less than ``SHORTEST`` characters."""
    words = {word for word in re.findall(r"\w+", name.replace("_", " ")) if len(word) >= SHORTEST}
    for word in sorted(words):
        text = re.sub(rf"\b{re.escape(word)}\b", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def _fields(trained: TrainedModel) -> list[tuple[str, str]]:
    return [("user", trained.dataset.uid_field), ("item", trained.dataset.iid_field)]


def _tokens(trained: TrainedModel, kind: str, ids: Tensor) -> list[str]:
    tokens = trained.user_tokens() if kind == "user" else trained.item_tokens()
    return [str(tokens[number]) for number in ids.tolist()]


def _encoder_alone(trained: TrainedModel, recommender: Recommender, described: Mapping[str, str]) -> Tensor:
    """Returns the direction of the mean vector of each item's reviews as the encoder makes them, [n_items, hidden]."""
    train = trained.train
    of_items = mean_of_members(
        training_vectors(trained.config, train), train.inter_feat[train.iid_field], train.item_num
    )
    new = recommender.encode(list(described.values()))
    return F.normalize(torch.cat([of_items, new.to(of_items)]), dim=1)


@torch.no_grad()
def _ranks(recommender: Recommender, alone: Tensor, asked: Sequence[Query]) -> dict[str, np.ndarray]:
    """Returns the rank of the answer by each method, [n] each; 1 is best."""
    place = recommender.columns
    users = set(recommender.users)
    ranks: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for start in tqdm(range(0, len(asked), AT_ONCE), desc="searching", delay=2):
        batch = asked[start : start + AT_ONCE]
        people = [Request(query.user if query.user in users else None) for query in batch]
        texts = [query.text for query in batch]
        vectors = recommender.encode(texts)
        parts, offered = recommender.search_parts(texts, people, vectors)
        answers = torch.tensor([place[query.item] for query in batch])[:, None]
        added = recommender.added_by(parts)
        by_text = added["terms"] + added["meaning"]
        scores = {
            "BM25": parts["terms"],
            "encoder alone": F.normalize(vectors, dim=1) @ alone.T,
            "meaning": parts["meaning"],
            "search": by_text,
            "search, with the person": by_text + parts.get("person", torch.zeros(())),
        }
        for method, values in scores.items():
            values = values.masked_fill(~offered, -torch.inf)
            ranks[method].append(1 + (values > values.gather(1, answers)).sum(1))
    return {method: torch.cat(found).numpy() for method, found in ranks.items()}


def _told(ranks: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Returns MRR and recall of each method, and the differences of ours from its peers with 95% intervals."""
    generator = np.random.default_rng(seed)
    reciprocal = {method: 1 / found for method, found in ranks.items()}
    differences = {
        f"{ours} against {peer}": {
            "difference": float((reciprocal[ours] - reciprocal[peer]).mean()),
            "interval": list(bootstrap_interval(reciprocal[ours] - reciprocal[peer], 10_000, generator)),
        }
        for ours in OURS
        for peer in PEERS
    }
    methods = {
        method: {"MRR": float(reciprocal[method].mean()), f"Recall@{K}": float((found <= K).mean())}
        for method, found in ranks.items()
    }
    return {"queries": len(next(iter(ranks.values()))), "methods": methods, "differences": differences}


def _section(group: str, told: Mapping[str, Any]) -> str:
    methods, differences = told["methods"], told["differences"]
    names = list(next(iter(methods.values())))
    best = {name: max(values[name] for values in methods.values()) for name in names}
    rows = [
        Row(method, [Cell(f"{v:.4f}", v, kind="best" if v == best[name] else "") for name, v in values.items()])
        for method, values in methods.items()
    ]
    grid = Grid(f"{told['queries']:,} queries for {group}", ["method", *names], rows)
    compared = [
        Row(name, [Cell(minus(f"{d['difference']:+.4f}")), Cell(minus("[{:+.4f}, {:+.4f}]".format(*d["interval"])))])
        for name, d in differences.items()
    ]
    against = Grid("Differences of MRR", ["compared", "difference", "95% interval"], compared)
    return f"## {grid.caption}\n\n{grid.to_markdown()}\n\n{against.to_markdown()}"
