"""Encodes what people write as the reviews of the training part were encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_symcere.data.tokens import WholeTexts, words_of
from recbole_symcere.errors import UserError

if TYPE_CHECKING:
    from recbole_symcere.model.text.encoder import ReviewEncoder


class Texts:
    """The text encoder of a checkpoint, which is loaded when the first text comes; no text is stored or logged.

    Args:
        settings: those of the encoder, ``text_encoder`` and the like; None where training did not read texts as they
            are.
        width: the width of the vectors.
        trust_remote_code: whether Python code that comes with the encoder is run.
    """

    def __init__(self, settings: Mapping[str, Any] | None, width: int, trust_remote_code: bool = False) -> None:
        self._settings = settings and {**settings, "trust_remote_code": trust_remote_code}
        self._width = width
        self._encoder: ReviewEncoder | None = None
        self._whole: WholeTexts | None = None
        self._loading = Lock()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns vectors of texts, float32 [n, width].

        Raises:
            UserError: a text is empty, or the model can't use texts.
            EncoderError: the encoder can't be had.
        """
        if not texts:
            return torch.zeros(0, self._width)
        if any(not text.strip() for text in texts):
            raise UserError("a text is empty: leave it out, or write something")
        return self._loaded().encode(texts).cpu()

    def words(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the words of texts as :func:`words_of` does; the errors are those of :meth:`encode`."""
        self._loaded()
        assert self._whole is not None
        return words_of(self._whole.reviews(texts))

    def _loaded(self) -> ReviewEncoder:
        with self._loading:
            if self._encoder is None:
                if self._settings is None:
                    raise UserError("the model was trained with shuffled or random texts, so it can't place a text")
                from recbole_symcere.model.text.encoder import ReviewEncoder  # takes seconds, for texts alone

                encoder = ReviewEncoder.frozen_from_config(self._settings, self._settings["text_adapter"])
                if encoder.hidden_size != self._width:
                    raise UserError(
                        f"text_encoder {encoder.name!r} makes vectors of {encoder.hidden_size} numbers here, but made "
                        f"{self._width} in training: it is another encoder now"
                    )
                self._encoder, self._whole = encoder, WholeTexts(encoder.fast_tokenizer)
            return self._encoder
