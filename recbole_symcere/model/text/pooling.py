"""From the hidden states of a review's tokens to one vector, as sentence-transformers defines each mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from logging import getLogger
from pathlib import Path

import torch
from torch import Tensor

from recbole_symcere.errors import EncoderError


def _cls(hidden: Tensor, attended: Tensor) -> Tensor:
    return hidden[:, 0]


def _mean(hidden: Tensor, attended: Tensor) -> Tensor:
    return (hidden * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True)


def _mean_sqrt_len(hidden: Tensor, attended: Tensor) -> Tensor:
    return (hidden * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True).to(hidden.dtype).sqrt()


def _weightedmean(hidden: Tensor, attended: Tensor) -> Tensor:
    weights = attended * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    return (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)


def _max(hidden: Tensor, attended: Tensor) -> Tensor:
    return hidden.masked_fill(~attended[:, :, None], -torch.inf).amax(1)


def _last(hidden: Tensor, attended: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), attended.sum(1) - 1]


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _cls,  # the first token
    "mean": _mean,  # over all tokens, special ones included
    "last": _last,  # the last token
    "max": _max,  # of each dimension over all tokens
    "mean_sqrt_len": _mean_sqrt_len,  # the sum over all tokens, divided by the square root of their number
    "weightedmean": _weightedmean,  # the mean over all tokens, the n-th with the weight n
}
# The names of a sentence-transformers pooling layer: those since version 5.2, and the flags before it.
SENTENCE_TRANSFORMERS = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
JOINED = "+"  # between modes whose vectors are concatenated


def pool(modes: str, hidden: Tensor, attended: Tensor) -> Tensor:
    """Returns one vector for each review.

    Args:
        modes: a key of ``POOLING``, or several with ``+`` between them, whose vectors are concatenated.
        hidden: [b, width, hidden_size], the last hidden states; padding is on the right.
        attended: [b, width] bool, false on padding; each row has a true entry.

    Returns:
        [b, hidden_size times the number of modes].
    """
    vectors = [POOLING[mode](hidden, attended) for mode in modes.split(JOINED)]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def stored_pooling(folder: Path) -> str | None:
    """Reads the pooling that an encoder was trained with from its sentence-transformers configuration.

    Returns:
        The modes as for :func:`pool`; None if the folder has no such configuration.

    Raises:
        EncoderError: the configuration can't be read, or asks for what is not supported.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    _warn_of_dense_layers(folder / "modules.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        flags = [key for key, on in stored.items() if key.startswith("pooling_mode_") and on is True]
        modes = stored.get("pooling_mode", flags)
    except (OSError, ValueError, AttributeError) as error:
        raise EncoderError(f"{path}: can't be read as a pooling configuration ({error}); get the file again") from error
    names = [modes] if isinstance(modes, str) else list(modes)
    unknown = [name for name in names if name not in SENTENCE_TRANSFORMERS]
    if unknown or not names:
        raise EncoderError(
            f"{path}: pooling {', '.join(map(str, unknown)) or 'none'} is not supported; set text_pooling to one of "
            f"{', '.join(POOLING)}"
        )
    own = [SENTENCE_TRANSFORMERS[name] for name in names]
    if stored.get("include_prompt") is False and own != ["last"]:  # the last token never belongs to the prompt
        raise EncoderError(
            f"{path}: the encoder leaves its prompt out of the pooling (include_prompt), which is not supported; "
            "set text_pooling, and text_prompt to an empty text"
        )
    return JOINED.join(own)


def _warn_of_dense_layers(path: Path) -> None:
    """Logs that layers after the pooling are left out: without them, vectors are not those of the encoder's authors."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if '.Dense"' in text:
        getLogger().warning(
            f"{path}: the Dense layer after the pooling is not applied; the model trains a projection of its own"
        )
