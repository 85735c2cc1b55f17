"""Encoders are used as their authors meant them: as sentence-transformers uses the same folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, processors
from torch.testing import assert_close
from transformers import BertConfig, ModernBertConfig, Qwen3Config, XLMRobertaConfig

from recbole_symcere.data.tokens import SPECIAL, tokenise
from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.pooling import SENTENCE_TRANSFORMERS
from tests.tiny_encoders import SIZE, byte_level_bpe, save_encoder, sentence_piece, wordpiece

TEXTS = ["the good guitar", "good", "the thing, the hat, the good thing!", "a b c d e f g h", "ab"]
MODES = sorted(name for name in SENTENCE_TRANSFORMERS if not name.startswith("pooling_mode"))
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
PROMPTS = {
    "none": {},
    "document": {"prompts": {"query": "ask: ", "document": "the passage: "}},
    "passage": {"prompts": {"query": "query: ", "passage": "passage: "}},
    "default": {"prompts": {"task": "good thing: "}, "default_prompt_name": "task"},
    "queries only": {"prompts": {"query": "query: "}, "default_prompt_name": None},
}


def bert(folder: Path) -> Path:
    """The architecture of e5, bge and gte."""
    tokenizer = wordpiece()
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, **SIZE)
    return save_encoder(folder, config, tokenizer, **BERT_TOKENS)


def xlm_roberta(folder: Path) -> Path:
    """The architecture of multilingual-e5 and bge-m3."""
    tokenizer = byte_level_bpe()
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 66, "type_vocab_size": 1}
    config = XLMRobertaConfig(vocab_size=tokenizer.get_vocab_size(), **SIZE, **ids)
    special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return save_encoder(folder, config, tokenizer, **special, mask_token="<mask>")


def modernbert(folder: Path) -> Path:
    """The architecture of gte-modernbert."""
    tokenizer = wordpiece()
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, **SIZE, **ids)
    return save_encoder(folder, config, tokenizer, **BERT_TOKENS)


def qwen3(folder: Path) -> Path:
    """The architecture of Qwen3-Embedding: its tokenizer puts an end token and pads on the left."""
    tokenizer: Tokenizer = sentence_piece()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    heads = {"num_key_value_heads": 1, "head_dim": 8}
    config = Qwen3Config(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, **SIZE, **heads)
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return save_encoder(folder, config, tokenizer, **special, padding_side="left")


ARCHITECTURES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bert": (bert, "mean"),
    "xlm-roberta": (xlm_roberta, "cls"),
    "modernbert": (modernbert, "cls"),
    "qwen3": (qwen3, "lasttoken"),
}


def as_sentence_transformer(folder: Path, mode: str | list[str], prompts: dict[str, Any], **further: Any) -> Path:
    """Adds the files that sentence-transformers looks for."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": SIZE["hidden_size"], "pooling_mode": mode} | further
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def our_vectors(folder: Path, cache: Path, **settings: Any) -> torch.Tensor:
    encoder = load(folder, **settings)
    tokens = tokenise(TEXTS, encoder.fast_tokenizer, encoder.max_length, cache, prompt=encoder.prompt)
    return torch.from_numpy(encoder.embed(tokens, np.arange(len(TEXTS)), 0.0, 0))


def load(folder: Path, **settings: Any) -> ReviewEncoder:
    return ReviewEncoder(str(folder), train="frozen", precision="fp32", max_length=48, **settings)


def their_vectors(folder: Path, prompts: str = "none") -> torch.Tensor:
    """Those of a document. ``encode_document`` takes an empty prompt where a passage has one, so it is named here."""
    encoder = SentenceTransformer(str(folder), device="cpu")
    how = {"passage": {"prompt_name": "passage"}, "default": {}}
    found = encoder.encode(TEXTS, **how[prompts]) if prompts in how else encoder.encode_document(TEXTS)
    return torch.from_numpy(found)


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_sentence_transformers_with_the_encoders_own_prompt(
    architecture: str, prompts: str, tmp_path: Path
) -> None:
    save, mode = ARCHITECTURES[architecture]
    folder = as_sentence_transformer(save(tmp_path / "encoder"), mode, PROMPTS[prompts])
    assert_close(our_vectors(folder, tmp_path), their_vectors(folder, prompts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", [*MODES, ["cls", "max"], ["mean", "lasttoken", "weightedmean"]], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_each_pooling_is_that_of_sentence_transformers(
    architecture: str, mode: str | list[str], tmp_path: Path
) -> None:
    folder = as_sentence_transformer(ARCHITECTURES[architecture][0](tmp_path / "encoder"), mode, {})
    found = our_vectors(folder, tmp_path)
    assert_close(found, their_vectors(folder), atol=1e-5, rtol=1e-5)
    names = [SENTENCE_TRANSFORMERS[name] for name in ([mode] if isinstance(mode, str) else mode)]
    assert found.shape == (len(TEXTS), len(names) * SIZE["hidden_size"])
    parts = [our_vectors(folder, tmp_path, pooling=name) for name in names]
    assert_close(found, torch.cat(parts, dim=1))


def test_a_prompt_of_the_users_own_goes_before_the_encoders(tmp_path: Path) -> None:
    folder = as_sentence_transformer(bert(tmp_path / "encoder"), "mean", PROMPTS["passage"])
    encoder = SentenceTransformer(str(folder), device="cpu")
    for prompt in ("", "good: "):
        expected = torch.from_numpy(encoder.encode(TEXTS, prompt=prompt))
        assert_close(our_vectors(folder, tmp_path, prompt=prompt), expected, atol=1e-5, rtol=1e-5)


def test_a_prompt_that_is_left_out_of_the_pooling_does_not_concern_the_last_token(tmp_path: Path) -> None:
    """As sarashina-embedding has it."""
    folder = as_sentence_transformer(qwen3(tmp_path / "encoder"), "lasttoken", PROMPTS["passage"], include_prompt=False)
    assert_close(our_vectors(folder, tmp_path), their_vectors(folder, "passage"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("save", [bert, xlm_roberta, qwen3])
@pytest.mark.parametrize("prompt", ["the good: ", "ab: ", "query: "])
def test_a_prompt_is_in_no_word_and_parts_none(save: Callable[[Path], Path], prompt: str, tmp_path: Path) -> None:
    """Masking can't hide the prompt, and what it can hide are the words that it could hide without a prompt."""
    tokenizer = load(save(tmp_path / "encoder"), prompt="").fast_tokenizer
    length = len(tokenizer.encode(prompt.strip(), add_special_tokens=False))
    reviews = [tokenise(TEXTS, tokenizer, 48, tmp_path, prompt=given) for given in ("", prompt)]
    for row in range(len(TEXTS)):
        (_, plain, _), (_, prompted, _) = (tokens.gather(np.array([row])) for tokens in reviews)
        assert prompted.max() == plain.max()
        in_word = np.flatnonzero(prompted != SPECIAL)
        assert in_word[0] >= length
        assert sorted(set(prompted[in_word])) == list(range(plain.max() + 1))


def test_the_prompt_is_part_of_the_fingerprint_and_no_prompt_is_not(tmp_path: Path) -> None:
    folder = bert(tmp_path / "encoder")
    without, empty, prompted = (load(folder, prompt=prompt).fingerprint() for prompt in ("auto", "", "query: "))
    assert without == empty != prompted


@pytest.mark.parametrize("broken", ["{", "[]", '{"prompts": {}, "default_prompt_name": "gone"}'])
def test_a_broken_configuration_of_prompts_is_named(broken: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "encoder")
    (folder / "config_sentence_transformers.json").write_text(broken)
    with pytest.raises(EncoderError, match=r"config_sentence_transformers.json: can't be read.*set text_prompt"):
        load(folder)
    assert load(folder, prompt="").prompt == ""
