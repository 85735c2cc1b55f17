"""LoRA: what trains, and what a saved adapter gives and refuses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    CamembertConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
)

from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text import lora
from tests.model.text.reviews import MAX_LENGTH, ROWS, TEXTS, load, randomise_adapter, tokens_of
from tests.tiny_encoders import SIZE, byte_level_bpe, save_encoder


def test_lora_trains_query_and_value_only(roberta: Path, llama: Path) -> None:
    for path, layers in ((roberta, ("query", "value")), (llama, ("q_proj", "v_proj"))):
        encoder = load(path, train="lora")
        trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
        assert len(trained) == 2 * 2 * SIZE["num_hidden_layers"]
        assert all("lora_" in name and any(f".{layer}." in name for layer in layers) for name in trained)
        assert {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)} >= {0.05}


@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32),
        MPNetConfig(vocab_size=50, **SIZE),
        CamembertConfig(vocab_size=50, **SIZE),
        ModernBertConfig(
            vocab_size=50, **SIZE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_lora_finds_the_projections_of_common_text_encoders(config: Any) -> None:
    model = lora.with_lora("x", AutoModel.from_config(config), r=2, lora_alpha=4, lora_dropout=0.0)
    assert any("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_lora_on_an_unknown_architecture_is_an_error(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "LORA_TARGETS", {})
    with pytest.raises(EncoderError, match=r"architecture 'roberta'.*frozen or full"):
        load(roberta)
    load(roberta, train="frozen")


def test_the_adapter_loads_with_peft_and_gives_the_same_vectors(folder: Path, tmp_path: Path) -> None:
    encoder = load(folder, pooling="mean").eval()
    randomise_adapter(encoder)
    encoder.save_adapter(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(encoder.state_dict())
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, one in enumerate(TEXTS):
        inputs = tokenizer(one, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
        plain = adapted(**inputs).last_hidden_state.mean(1)
        torch.testing.assert_close(encoder(tokens_of(encoder), np.array([row])), plain, rtol=0, atol=1e-5)


def test_a_merged_adapter_gives_the_vectors_of_the_encoder_that_trained_it(folder: Path, tmp_path: Path) -> None:
    trained = load(folder, lora_r=4, lora_alpha=12)
    randomise_adapter(trained)
    trained.save_adapter(tmp_path / "adapter")
    merged, plain = load(folder, train="frozen", adapter=tmp_path / "adapter"), load(folder, train="frozen")
    expected = trained.eval()(tokens_of(trained), ROWS)
    torch.testing.assert_close(merged(tokens_of(merged), ROWS), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain(tokens_of(plain), ROWS), expected, atol=1e-2)
    assert merged.fingerprint() != plain.fingerprint()
    assert merged.model.state_dict().keys() == plain.model.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_another_adapter_is_another_fingerprint(roberta: Path, tmp_path: Path) -> None:
    one, two = load(roberta), load(roberta)
    for trained in (one, two):
        randomise_adapter(trained)
    prints = set()
    for name, trained in (("one", one), ("two", two)):
        trained.save_adapter(tmp_path / name)
        shutil.copytree(tmp_path / name, tmp_path / f"{name} again")
        of_name = {load(roberta, train="frozen", adapter=tmp_path / n).fingerprint() for n in (name, f"{name} again")}
        assert len(of_name) == 1, "its folder's name is no part of it"
        prints |= of_name
    assert len(prints) == 2


def test_an_adapter_is_read_from_safetensors_only(roberta: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "run.adapter"
    load(roberta).save_adapter(adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    with pytest.raises(EncoderError, match=r"text_adapter: there is no .*adapter_model\.safetensors"):
        load(roberta, train="frozen", adapter=adapter)


@pytest.mark.parametrize("damage", ["no folder", "no configuration", "cut", "another architecture", "another depth"])
def test_an_adapter_that_does_not_fit_is_one_error(roberta: Path, llama: Path, tmp_path: Path, damage: str) -> None:
    adapter, encoder = tmp_path / "run.adapter", roberta
    load(roberta).save_adapter(adapter)
    if damage == "no folder":
        shutil.rmtree(adapter)
    elif damage == "no configuration":
        (adapter / "adapter_config.json").unlink()
    elif damage == "cut":
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "another architecture":
        encoder = llama
    else:
        from transformers import RobertaConfig

        size = SIZE | {"num_hidden_layers": 3, "max_position_embeddings": 34, "pad_token_id": 1}
        config = RobertaConfig(vocab_size=byte_level_bpe().get_vocab_size(), **size)
        special = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
        encoder = save_encoder(tmp_path / "deeper", config, byte_level_bpe(), **special)
    with pytest.raises(EncoderError, match=r"text_adapter.*run\.adapter"):
        load(encoder, train="frozen", adapter=adapter)


def test_an_adapter_of_an_encoder_of_another_name_is_told(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save_adapter(tmp_path / "adapter")
    shutil.copytree(roberta, tmp_path / "other")
    with pytest.warns(UserWarning, match="was trained on .*roberta, not .*other"):
        load(tmp_path / "other", train="frozen", adapter=tmp_path / "adapter")


@pytest.mark.parametrize("train", ["frozen", "full"])
def test_without_lora_there_is_no_adapter_to_save(train: str, roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no adapter"):
        load(roberta, train=train).save_adapter(tmp_path / "adapter")
