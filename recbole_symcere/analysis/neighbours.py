"""The items nearest to one, by the graph and by what is written of them, and the words that tell them from the rest."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset_prep.command import at_least
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.analysis.words import Occurrences, languages_of, lexicons
from recbole_symcere.grid import as_markdown
from recbole_symcere.model.text.groups import profiles_by_group
from recbole_symcere.properties import parse_assignments

HELP = "the items nearest to one, by the graph and by their reviews, with their telling words"
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --item i7
"""
TELLING_WORDS = 6  # that are printed of an item
WRITERS = 2  # a word of fewer is one person's own, such as a name
LANGUAGE_SAMPLE = 200  # reviews


def nearest_items(vectors: Tensor, item: int, candidates: Tensor, k: int) -> list[tuple[int, float]]:
    """Returns the ``k`` items with the highest cosines to ``item``, best first.

    Args:
        vectors: [n_items, d], of any lengths.
        candidates: bool [n_items]; the item itself is never one.

    Returns:
        Up to k pairs of item and cosine.
    """
    directions = F.normalize(vectors, dim=1)
    cosines = (directions @ directions[item]).masked_fill(~candidates, -torch.inf)
    cosines[item] = -torch.inf
    best = cosines.topk(min(k, int(cosines.isfinite().sum())))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def item_profiles(trained: TrainedModel) -> Tensor:
    """Returns how the training reviews of each item differ from all: the mean of theirs less the mean of all.

    Each review's vector has unit length, and so has each difference.

    Returns:
        [n_items, d], in the graph's space; zeros for items without a training review.

    Raises:
        AnalysisError: the model was trained without reviews.
    """
    _, items = trained.pairs()
    return profiles_by_group(F.normalize(trained.review_vectors(), dim=1), items, trained.dataset.item_num)


class TellingWords:
    """Finds the words that the training reviews of an item say more often than those of other items.

    A review counts a word once; words without a letter and stop words are left out.

    Args:
        words: of all training reviews.
        users, items: int [n], who wrote each review and of what.
        stop_words: of the reviews' language.
    """

    def __init__(
        self, words: Occurrences, users: np.ndarray, items: np.ndarray, stop_words: frozenset[str] = frozenset()
    ) -> None:
        words, self._vocabulary = words.lettered(), words.vocabulary
        without = np.flatnonzero(np.isin(self._vocabulary, list(stop_words)))
        said = pl.DataFrame({"word": words.word, "review": words.review}).unique()
        said = said.filter(~pl.col("word").is_in(without.tolist()))
        self._said = said.with_columns(user=users[said["review"]], item=items[said["review"]])
        self._corpus = self._said.group_by("word").agg(corpus=pl.len())

    def of_item(self, item: int, n: int = TELLING_WORDS) -> list[str]:
        """Returns up to ``n`` words by :func:`log_odds`, most telling first; two users or more wrote each."""
        of_item = self._said.filter(pl.col("item") == item).group_by("word")
        counted = of_item.agg(of_item=pl.len(), writers=pl.col("user").n_unique())
        words = self._corpus.join(counted, on="word", how="left").fill_null(0)
        scores = log_odds(words["of_item"].to_numpy(), words["corpus"].to_numpy())
        telling = words.with_columns(score=scores).filter((pl.col("writers") >= WRITERS) & (pl.col("score") > 0))
        best = telling.sort("score", "word", descending=[True, False])["word"].head(n)
        return self._vocabulary[best.to_numpy()].tolist()


def log_odds(part: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """Returns how much more often each word stands in a part of a corpus than in the rest, in standard deviations.

    The z-score of the log-odds ratio with an informative Dirichlet prior, here the counts of the whole corpus: Monroe,
    Colaresi and Quinn, "Fightin' Words", Political Analysis 16 (2008).

    Args:
        part, corpus: int [n_words], counts; the corpus holds the part.

    Returns:
        float64 [n_words]
    """
    in_part, in_rest = part + corpus, (corpus - part) + corpus

    def odds(counts: np.ndarray) -> np.ndarray:
        return counts / np.maximum(counts.sum() - counts, 1)  # 1: a corpus of a single word

    return np.log(odds(in_part) / odds(in_rest)) / np.sqrt(1 / in_part + 1 / in_rest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--checkpoint", required=True, help="a checkpoint of SymCERE")
    parser.add_argument("--item", required=True, metavar="TOKEN", help="as in the .inter file")
    parser.add_argument("--k", type=at_least(1), default=10, help="neighbours of each side (%(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints the nearest items; a model without text has the graph's side only.

    Raises:
        UserError: the checkpoint can't be used, or there is no such item, or it was not trained.
    """
    trained = TrainedModel(given.checkpoint, {"show_progress": True, **parse_assignments(rest)})
    item = trained.number_of("item", given.item)
    met = torch.from_numpy(trained.popularity > 0)
    by_graph = nearest_items(trained.nodes[1], item, met, given.k)
    telling = telling_words(trained) if trained.reads_reviews else None
    n_met = int(met.sum())
    print(
        f"{trained.label}: the items nearest to {given.item}, of {n_met - 1:,} others that were seen in training "
        f"({len(met) - n_met - 1:,} were not).\n\n"  # 1: the padding
        "By the graph: cosine of the item vectors. Scores weigh an item by its vector's length to the power of "
        f"score_norm, {trained.model.score_norm:g}.\n{_table(trained, by_graph, telling)}\n"
    )
    if telling is None:
        print("By the text: none. This model was trained without reviews (cross_weight, text_source)")
        return
    by_text = nearest_items(item_profiles(trained), item, met, given.k)
    print(
        "By the text: cosine of the items' mean training review vectors, seen from the mean over all reviews.\n"
        f"{_table(trained, by_text, telling)}\n\n"
        f"Words that tell {given.item}: {', '.join(telling.of_item(item)) or 'none'}"
    )


def telling_words(trained: TrainedModel) -> TellingWords:
    """Returns the telling words of the training reviews; the model must have text."""
    users, items = trained.pairs()
    languages = Counter(languages_of(trained.train.review_texts()[:LANGUAGE_SAMPLE]))
    _, stop_words = lexicons(languages.most_common(1)[0][0])
    return TellingWords(trained.words(), users.numpy(), items.numpy(), stop_words)


def _table(trained: TrainedModel, found: Sequence[tuple[int, float]], telling: TellingWords | None) -> str:
    items = [item for item, _ in found]
    columns: dict[str, Any] = {
        "": range(1, len(found) + 1),
        "item": trained.item_tokens()[items],
        "cosine": [f"{cosine:+.3f}" for _, cosine in found],
        "interactions": trained.popularity[items],
    }
    if telling is not None:
        columns["telling words"] = [", ".join(telling.of_item(item)) for item in items]
    return as_markdown(columns)
