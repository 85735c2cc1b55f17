"""The encoders that users load from the hub: by their own configurations, but narrow and with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from torch.testing import assert_close
from transformers import (
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from recbole_symcere.data.tokens import tokenise
from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.model.text.reviews import MAX_LENGTH, ROWS, TEXTS, load, tokens_of
from tests.tiny_encoders import byte_level_bpe, save_encoder, sentence_piece, wordpiece

NARROW: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
OF_BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
OF_ROBERTA = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
OF_ROBERTA |= {"unk_token": "<unk>", "mask_token": "<mask>"}
OF_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}


def with_end_token() -> Tokenizer:
    """A tokenizer as Qwen3-Embedding's: an end token after each text."""
    tokenizer = sentence_piece()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def blair(n_tokens: int) -> PretrainedConfig:
    """hyp1231/blair-roberta-base."""
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return RobertaConfig(vocab_size=n_tokens, **NARROW, num_hidden_layers=2, max_position_embeddings=514, **ids)


def sarashina(n_tokens: int) -> PretrainedConfig:
    """sbintuitions/sarashina2.2-0.5b-instruct: two queries for each key."""
    own = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
    return LlamaConfig(vocab_size=n_tokens, **NARROW, num_hidden_layers=2, **own, tie_word_embeddings=False)


def modernbert(n_tokens: int) -> PretrainedConfig:
    """answerdotai/ModernBERT-base and gte-modernbert: each third layer attends to everything, the others nearby."""
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    own = {"local_attention": 8, "global_attn_every_n_layers": 3, "max_position_embeddings": 8192}
    return ModernBertConfig(vocab_size=n_tokens, **NARROW, num_hidden_layers=4, **own, **ids)


def qwen3(n_tokens: int) -> PretrainedConfig:
    """Qwen/Qwen3-Embedding-0.6B: heads that are wider than their share of the width, padded on the left."""
    own = {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 32768, "tie_word_embeddings": True}
    return Qwen3Config(vocab_size=n_tokens, **NARROW, num_hidden_layers=2, **own, rms_norm_eps=1e-6)


def bert(n_tokens: int) -> PretrainedConfig:
    """intfloat/e5-base-v2 and BAAI/bge-base-en-v1.5."""
    return BertConfig(vocab_size=n_tokens, **NARROW, num_hidden_layers=2, max_position_embeddings=512)


def xlm_roberta(n_tokens: int) -> PretrainedConfig:
    """intfloat/multilingual-e5-base and BAAI/bge-m3."""
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "type_vocab_size": 1}
    return XLMRobertaConfig(vocab_size=n_tokens, **NARROW, num_hidden_layers=2, max_position_embeddings=514, **ids)


Architecture = tuple[Callable[[int], PretrainedConfig], Callable[[], Tokenizer], dict[str, str]]
ARCHITECTURES: dict[str, Architecture] = {
    "blair": (blair, byte_level_bpe, OF_ROBERTA),
    "sarashina": (sarashina, sentence_piece, OF_LLAMA),
    "modernbert": (modernbert, wordpiece, OF_BERT),
    "qwen3-embedding": (qwen3, with_end_token, OF_LLAMA | {"padding_side": "left"}),
    "e5, bge": (bert, wordpiece, OF_BERT),
    "multilingual e5, bge-m3": (xlm_roberta, byte_level_bpe, OF_ROBERTA),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    configuration, tokenizer_of, special = ARCHITECTURES[request.param]
    tokenizer = tokenizer_of()
    folder = tmp_path_factory.mktemp("hub") / "encoder"
    return save_encoder(folder, configuration(tokenizer.get_vocab_size()), tokenizer, **special)


def vectors(encoder: ReviewEncoder, cache: Path) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(tokens_of(encoder, cache=cache), ROWS)


def test_a_step_of_lora_moves_the_vectors_and_the_saved_adapter_gives_the_same(
    encoder_folder: Path, tmp_path: Path
) -> None:
    encoder = load(encoder_folder, train="lora")
    before = vectors(encoder, tmp_path)
    weights = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    optimizer = torch.optim.AdamW([weight for weight in encoder.parameters() if weight.requires_grad], lr=0.1)
    encoder.train()(tokens_of(encoder, cache=tmp_path), ROWS)[:, ::2].sum().backward()
    optimizer.step()
    moved = {name for name, weight in encoder.named_parameters() if not torch.equal(weight, weights[name])}
    assert moved == {name for name in weights if "lora_" in name} != set()
    after = vectors(encoder, tmp_path)
    assert not torch.allclose(after, before, atol=1e-3)
    encoder.save_adapter(tmp_path / "adapter")
    again = load(encoder_folder, train="frozen", adapter=tmp_path / "adapter")
    assert_close(vectors(again, tmp_path), after, atol=1e-4, rtol=1e-4)


def test_a_text_has_one_vector_whatever_is_padded_beside_it(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = load(encoder_folder, train="frozen").eval()
    together = vectors(encoder, tmp_path)
    for row, text in enumerate(TEXTS):
        alone = encoder(tokens_of(encoder, [text], tmp_path), np.array([0]))
        assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_prompt_is_as_if_it_were_written_before_the_review(encoder_folder: Path, tmp_path: Path) -> None:
    prompted, plain = load(encoder_folder, train="frozen", prompt="the good: "), load(encoder_folder, train="frozen")
    texts = [text for text in TEXTS if len(text) < 20]
    tokens = tokenise(texts, prompted.fast_tokenizer, MAX_LENGTH, tmp_path, prompt=prompted.prompt)
    written = tokens_of(plain, [f"the good: {text}" for text in texts], tmp_path)
    rows = np.arange(len(texts))
    assert_close(prompted.eval()(tokens, rows), plain.eval()(written, rows), atol=1e-5, rtol=1e-4)
