"""The fast linear layer against PyTorch's own."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from recbole_symcere.model.cpu import linear
from recbole_symcere.model.cpu.linear import Linear, fastest_product, product, use_fast_linear


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    wide=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_same_product(shape: list[int], wide: int, out: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(wide, out, bias=bias)
    x = torch.randn(wide, *shape).movedim(0, -1)  # not contiguous
    expected = layer(x)
    use_fast_linear(layer)
    with torch.no_grad():
        assert_close(layer(x), expected)


def test_what_needs_gradients_or_is_cast_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(4, 3)
    use_fast_linear(layer)
    assert type(layer) is Linear
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: "PyTorch's")
    x = torch.ones(2, 4)
    assert layer(x) == "PyTorch's"
    with torch.no_grad():
        assert layer(x).shape == (2, 3)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x) == "PyTorch's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_of_any_precision_stay_in_it(dtype: torch.dtype) -> None:
    x, weight = torch.randn(5, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    found = product(x.T.contiguous().T, weight)
    assert found.dtype == dtype
    assert_close(found, x @ weight.T)


def test_gradients_are_pytorchs() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(2, 4, requires_grad=True)
    expected = torch.autograd.grad(layer(x).pow(2).sum(), [x, *layer.parameters()])
    use_fast_linear(layer)
    assert_close(torch.autograd.grad(layer(x).pow(2).sum(), [x, *layer.parameters()]), expected)


@pytest.fixture
def probe_anew() -> Iterator[None]:
    fastest_product.cache_clear()
    yield
    fastest_product.cache_clear()


def gone(*_: object) -> Tensor:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def takes_other_arguments(*_: object) -> Tensor:
    raise RuntimeError("expected at most 4 argument(s) but received 6 argument(s)")


def gives_something_else(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias) + 1e-3


@pytest.mark.parametrize("changed", [gone, takes_other_arguments, gives_something_else])
@pytest.mark.usefixtures("probe_anew")
def test_where_the_private_operator_has_changed_pytorchs_own_gives_the_same(
    changed: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    expected = product(x, weight, bias)
    fastest_product.cache_clear()
    monkeypatch.setattr(linear, "_onednn", changed)
    assert fastest_product() is F.linear
    assert_close(product(x, weight, bias), expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.usefixtures("probe_anew")
def test_the_pinned_pytorch_has_the_fast_product() -> None:
    assert fastest_product() is linear._onednn
