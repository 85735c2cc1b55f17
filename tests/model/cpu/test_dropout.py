"""Fast dropout, and attention with it, against what PyTorch's and transformers' own promise."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AttentionInterface

from recbole_symcere.model.cpu import dropout as module
from recbole_symcere.model.cpu.dropout import Dropout, attention, dropout, formula_is_sdpa, use_fast_dropout

sdpa = AttentionInterface()["sdpa"]


@settings(deadline=None, max_examples=30)
@given(p=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_each_element_is_dropped_with_the_probability_and_the_mean_stays(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    n = 40_001  # no multiple of eight
    out = dropout(torch.ones(n, dtype=torch.float64), p)
    dropped = round(256 * p) / 256
    assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - dropped)))
    deviation = (dropped * (1 - dropped) / n) ** 0.5
    assert (out == 0).double().mean().item() == pytest.approx(dropped, abs=5 * deviation + 1e-12)
    pairs = ((out[1:] == 0) & (out[:-1] == 0)).double().mean().item()
    assert pairs == pytest.approx(dropped**2, abs=8 * deviation + 1e-12)  # neighbours know nothing of each other


def test_it_follows_the_global_seed_and_its_gradient_its_mask() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    torch.manual_seed(3)
    out = dropout(x, 0.4)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.4), out)
    torch.manual_seed(4)
    assert not torch.equal(dropout(x, 0.4), out)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient == 0, out == 0)
    assert_close(gradient * x, out)
    assert dropout(x.bfloat16(), 0.4).dtype == torch.bfloat16


def test_a_model_gets_it_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.0), nn.Dropout(1.0)))
    use_fast_dropout(model)
    half, none, all_ = model[1], model[2][0], model[2][1]
    assert {type(part) for part in (half, none, all_)} == {Dropout}
    x = torch.ones(8, 100)
    assert 0 < (half(x) == 0).double().mean() < 1
    assert torch.equal(none(x), x) and not all_(x).any()
    assert torch.equal(model.eval()[1](x), x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_is_sdpa_with_weights_dropped(
    groups: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(3, 4 // groups, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.ones(3, 1, 6, 6, dtype=torch.bool).tril()
    mask[1, :, :, 4:] = False
    layer: Any = SimpleNamespace(num_key_value_groups=groups, is_causal=False, training=True)
    asked: list[float] = []
    monkeypatch.setattr(module, "dropout", lambda weights, p: asked.append(p) or weights)
    ours, _ = attention(layer, query, key, value, mask, scaling=scaling, dropout=0.2)
    theirs, _ = sdpa(layer, query, key, value, mask, scaling=scaling, dropout=0.0)
    assert asked == [0.2]
    assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    inputs = (query, key, value)
    assert_close(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream))


def test_attention_without_dropout_is_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "dropout", None)
    query, key, value = torch.randn(3, 2, 4, 6, 5)
    layer: Any = SimpleNamespace(is_causal=False)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    for arguments in ({"dropout": 0.0}, {}):
        ours, _ = attention(layer, query, key, value, mask, **arguments)
        assert torch.equal(ours, sdpa(layer, query, key, value, mask)[0])


@pytest.fixture
def probe_anew() -> Iterator[None]:
    formula_is_sdpa.cache_clear()
    yield
    formula_is_sdpa.cache_clear()


def takes_other_arguments(layer: Any, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor, rate: float) -> None:
    raise AssertionError("never reached")


def refuses(*_: Any, **__: Any) -> None:
    raise ValueError("sdpa no longer takes a boolean mask")


def gives_something_else(*arguments: Any, **further: Any) -> tuple[Tensor, None]:
    return sdpa(*arguments, **further)[0] + 1e-3, None


@pytest.mark.parametrize("changed", [takes_other_arguments, refuses, gives_something_else])
@pytest.mark.usefixtures("probe_anew")
def test_where_sdpa_of_transformers_has_changed_the_formula_is_not_used(
    changed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_sdpa", lambda: changed)
    assert not formula_is_sdpa()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "_sdpa", lambda: lambda *_, **further: asked.append(further) or "transformers' own")
    query, key, value = torch.randn(3, 2, 4, 6, 5)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    layer: Any = SimpleNamespace(is_causal=False)
    assert attention(layer, query, key, value, mask, scaling=0.3, dropout=0.2) == "transformers' own"
    assert asked == [{"scaling": 0.3, "dropout": 0.2}]


@pytest.mark.parametrize("amid", ["gradients", "autocast"])
@pytest.mark.usefixtures("probe_anew")
def test_the_formula_is_what_the_pinned_transformers_computes_and_trying_it_draws_nothing(amid: str) -> None:
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16, enabled=amid == "autocast"):
        assert formula_is_sdpa()
    assert torch.equal(torch.get_rng_state(), state)
