"""The review encoder: the vectors of a plain transformers loop, and the state that it saves and loads."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
)

from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.model.text import encoder as encoder_module
from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.model.text.reviews import MAX_LENGTH, ROWS, TEXTS, load, randomise_adapter, tokens_of


def plain_vectors(folder: Path, pooling: str, texts: list[str]) -> Tensor:
    """One text at a time through transformers, in float64."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).double().eval()
    vectors = []
    for one in texts:
        inputs = tokenizer(one, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        vectors.append({"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling])
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_batch_equals_a_plain_loop_one_review_at_a_time(folder: Path, pooling: str) -> None:
    encoder = load(folder, train="frozen", pooling=pooling, tokens_per_batch=40).double()
    rows = np.array([2, 0, 5, 5, 4, 3, 1, 2])
    expected = plain_vectors(folder, pooling, TEXTS)[rows]
    torch.testing.assert_close(encoder(tokens_of(encoder), rows), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(encoder(tokens_of(encoder), torch.from_numpy(rows)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_an_empty_review_has_a_vector_and_leaves_the_others_alone(folder: Path, pooling: str) -> None:
    encoder = load(folder, train="frozen", pooling=pooling).double()
    encoder.fast_tokenizer.post_processor = None
    tokens = tokens_of(encoder, ["", "the good", ""])
    assert tokens.lengths.tolist()[::2] == [0, 0]
    vectors = encoder(tokens, np.arange(3))
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[1:2], encoder(tokens, np.array([1])), rtol=0, atol=1e-10)
    torch.testing.assert_close(encoder(tokens, np.array([0, 2])), vectors[::2], rtol=0, atol=1e-10)


def test_bf16_is_close_and_comes_out_as_float32(folder: Path) -> None:
    exact = load(folder, train="frozen", pooling="mean")
    rounded = load(folder, train="frozen", pooling="mean", precision="bf16")
    one, other = exact(tokens_of(exact), ROWS), rounded(tokens_of(rounded), ROWS)
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.cosine_similarity(one, other).min() > 0.99


def test_vectors_are_float32_even_if_the_last_layer_is_not(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(roberta, train="frozen", pooling="mean", precision="bf16")
    forward = encoder.model.forward

    def rounded(**inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=forward(**inputs).last_hidden_state.bfloat16())

    monkeypatch.setattr(encoder.model, "forward", rounded)
    vectors = encoder(tokens_of(encoder), ROWS)
    assert vectors.dtype == torch.float32
    assert not torch.equal(vectors, vectors.bfloat16().float())  # the mean is taken in float32 too


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_where_the_device_computes_in_it(
    native: bool, roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "computes_in_bf16", lambda device: native)
    encoder, same = load(roberta, precision="auto"), load(roberta, precision="bf16" if native else "fp32")
    assert torch.equal(encoder.eval()(tokens_of(encoder), ROWS), same.eval()(tokens_of(encoder), ROWS))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_a_cpu_computes_in_bf16_if_it_has_the_instructions(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert encoder_module.computes_in_bf16(torch.device("cpu")) is expected


def test_embedding_depends_on_its_seed_alone_and_leaves_no_trace(folder: Path) -> None:
    encoder = load(folder, lora_dropout=0.5)
    tokens = tokens_of(encoder)
    state = torch.get_rng_state()
    vectors = [encoder.embed(tokens, ROWS, 0.3, seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    assert vectors[0].dtype == np.float32
    clean = encoder.eval()(tokens, ROWS).detach()
    np.testing.assert_allclose(encoder.embed(tokens, ROWS, 0.0, 1), clean, atol=1e-6)


def test_vectors_of_given_tokens_are_the_clean_ones_without_gradients(folder: Path) -> None:
    encoder = load(folder, lora_dropout=0.5)
    randomise_adapter(encoder)
    tokens = tokens_of(encoder)
    rows = np.array([2, 0, 5, 2])
    token_ids, _, lengths = tokens.gather(rows)
    state = torch.get_rng_state()
    vectors = encoder.vectors(torch.from_numpy(token_ids).long(), lengths)
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training and not vectors.requires_grad
    torch.testing.assert_close(vectors, encoder.eval()(tokens, rows).detach())
    encoder.vectors(torch.from_numpy(token_ids).long(), lengths)
    assert not encoder.training


def test_cached_embeddings_are_the_encoders_own(roberta: Path, tmp_path: Path) -> None:
    encoder = load(roberta, train="frozen")
    clean, masked = cached_embeddings(TEXTS, encoder, 1, 0.3, 1, tmp_path / "cache", False)
    np.testing.assert_allclose(clean, encoder(tokens_of(encoder), ROWS), atol=1e-6)
    assert not np.allclose(clean, masked)


def test_a_frozen_encoder_never_trains(folder: Path) -> None:
    encoder = load(folder, train="frozen")
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not encoder(tokens_of(encoder), ROWS).requires_grad


def test_dropout_is_active_in_train_mode_only(folder: Path) -> None:
    encoder = load(folder, lora_dropout=0.5)
    randomise_adapter(encoder)
    tokens = tokens_of(encoder)
    assert encoder.training
    assert not torch.allclose(encoder(tokens, ROWS), encoder(tokens, ROWS))
    encoder.eval()
    assert torch.equal(encoder(tokens, ROWS), encoder(tokens, ROWS))


def test_the_state_of_full_training_holds_buffers_too(roberta: Path) -> None:
    encoder = load(roberta, train="full")
    encoder.model.register_buffer("running_mean", torch.zeros(1))
    assert "model.running_mean" in encoder.state_dict()
    encoder.load_state_dict(encoder.state_dict())


def test_full_training_reaches_every_weight(folder: Path) -> None:
    encoder = load(folder, train="full", pooling="mean", tokens_per_batch=40)
    encoder(tokens_of(encoder), ROWS).square().sum().backward()
    assert all(weight.requires_grad and weight.grad is not None for weight in encoder.parameters())


def test_an_initialiser_of_the_whole_model_spares_the_encoder(roberta: Path) -> None:
    encoder = load(roberta)
    before = encoder.fingerprint()
    head = nn.Linear(16, 4)

    def zero(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.zeros_(module.weight)

    nn.Sequential(encoder, head).apply(zero)
    assert encoder.fingerprint() == before
    assert not head.weight.any()


@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_the_state_holds_what_is_trained_and_loads_back_strictly(train: str, folder: Path) -> None:
    model, other = (nn.Sequential(nn.Linear(2, 2), load(folder, train=train)) for _ in range(2))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    state = model.state_dict()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(state) == trained
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert other[1].fingerprint() == model[1].fingerprint()
    assert set(other[1].state_dict()) == {name.removeprefix("1.") for name in trained if name.startswith("1.")}
    if train != "frozen":
        state.popitem()
        with pytest.raises(RuntimeError, match="Missing key"):
            other.load_state_dict(state)


def test_weights_that_do_not_train_are_not_taken_from_a_state(roberta: Path) -> None:
    trained, frozen = load(roberta, train="full"), load(roberta, train="frozen")
    before = frozen.fingerprint()
    state = {name: tensor + 1 for name, tensor in trained.state_dict().items()}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        frozen.load_state_dict(state)
    assert frozen.fingerprint() == before


def test_every_key_of_the_configuration_reaches_the_encoder(roberta: Path) -> None:
    config = {
        "text_encoder": str(roberta),
        "text_train": "lora",
        "text_pooling": "mean",
        "text_prompt": "passage: ",
        "text_max_length": 20,
        "text_precision": "bf16",
        "text_tokens_per_batch": 99,
        "text_memory": 0.5,
        "lora_r": 3,
        "lora_alpha": 12,
        "lora_dropout": 0.25,
        "trust_remote_code": False,
    }
    encoder = ReviewEncoder.from_config(config)
    assert (encoder.training_mode, encoder.pooling, encoder.precision) == ("lora", "mean", "bf16")
    assert encoder.prompt == "passage: "
    assert (encoder.max_length, encoder.tokens_per_batch, encoder.memory, encoder.lora_scale) == (20, 99, 0.5, 4)
    lora = encoder.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 12, 0.25)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_vectors_and_masks_of_the_cpu(folder: Path) -> None:
    encoder = load(folder, tokens_per_batch=40)
    tokens = tokens_of(encoder)
    here = encoder.embed(tokens, ROWS, 0.3, 1)
    encoder = encoder.to("cuda")
    np.testing.assert_allclose(encoder.embed(tokens, ROWS, 0.3, 1), here, atol=1e-5)
    clean, _ = encoder.two_views(tokens, torch.from_numpy(ROWS).to("cuda"), 0.3)
    clean.sum().backward()
    assert clean.device.type == "cuda"
