"""Micro-batches change neither vectors nor gradients, and bound what is kept in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere.model.text import batches
from recbole_symcere.model.text.batches import micro_batches
from tests.model.text.reviews import ROWS, load, randomise_adapter, tokens_of


def no_checkpoint(function: Callable[..., Tensor], *arguments: Tensor, use_reentrant: bool) -> Tensor:
    return function(*arguments)


def test_the_size_of_a_micro_batch_changes_no_vector(folder: Path) -> None:
    encoder = load(folder, train="frozen").double()
    whole = encoder(tokens_of(encoder), ROWS)
    for encoder.tokens_per_batch in (1, 30, 60):
        torch.testing.assert_close(encoder(tokens_of(encoder), ROWS), whole, rtol=0, atol=1e-10)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 50), min_size=1), budget=st.integers(1, 200))
def test_micro_batches_hold_each_review_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(np.array(lengths), budget)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(np.array(lengths)[order]) <= 0).all()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


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
