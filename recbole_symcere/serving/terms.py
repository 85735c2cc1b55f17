"""Finds items by the words of their reviews: BM25.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

SATURATION, LENGTH = 1.2, 0.75  # k1 and b

Counts = Mapping[str, Tensor]  # what ``count_words`` returns


def appended(counts: Counts, item: np.ndarray, word: np.ndarray, n_new: int) -> Counts:
    """Returns counts with further items.

    Args:
        item, word: [n], the number of the new item, from 0, and the hash of each word of its texts.
        n_new: the number of new items.
    """
    known = np.union1d(counts["word"].numpy(), word)
    place = torch.from_numpy(np.searchsorted(known, counts["word"].numpy()).astype(np.int32))
    new = csr_matrix((np.ones(len(word), np.int32), (item, np.searchsorted(known, word))), (n_new, len(known)))
    return {
        "word": torch.from_numpy(known),
        "start": torch.cat([counts["start"], counts["start"][-1] + torch.from_numpy(new.indptr[1:].astype(np.int64))]),
        "column": torch.cat([place[counts["column"].long()], torch.from_numpy(new.indices.astype(np.int32))]),
        "count": torch.cat([counts["count"], torch.from_numpy(new.data.astype(np.int16))]),
    }


class Terms:
    """The weight of each word for each item.

    Args:
        counts: how often each word occurs in the texts of each item; an item without texts is no document.
    """

    def __init__(self, counts: Counts) -> None:
        self._words, start, column, count = (counts[name].numpy() for name in ("word", "start", "column", "count"))
        found = csr_matrix((count.astype(np.float32), column, start), (len(start) - 1, len(self._words)))
        length = np.asarray(found.sum(1)).ravel()
        n_documents, n_with = int((length > 0).sum()), np.bincount(column, minlength=len(self._words))
        rarity = np.log1p((n_documents - n_with + 0.5) / (n_with + 0.5))
        mean_length = length.sum() / max(n_documents, 1)
        norm = SATURATION * (1 - LENGTH + LENGTH * length / max(mean_length, 1.0))
        of_item = np.repeat(norm, np.diff(start))
        found.data = (count * (SATURATION + 1) / (count + of_item) * rarity[column]).astype(np.float32)
        self._weights = found

    def scores(self, owner: np.ndarray, word: np.ndarray, n: int) -> Tensor:
        """Returns the sum of the weights of each text's words, float32 [n, n_items]; unknown words weigh nothing.

        Args:
            owner, word: the number of the text, and the hash, of each word.
            n: the number of texts.
        """
        column = np.searchsorted(self._words, word).clip(max=max(len(self._words) - 1, 0))
        known = self._words[column] == word if len(self._words) else np.zeros(len(word), bool)
        asked = csr_matrix(
            (np.ones(int(known.sum()), np.float32), (owner[known], column[known])), (n, len(self._words))
        )
        return torch.from_numpy((asked @ self._weights.T).toarray())
