"""Attention of narrow heads: what the engine takes over, and that nothing else changes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention  # noqa: E402
from torch.nn import functional  # noqa: E402

from arrow_quant_v2.torch import ops  # noqa: E402
from arrow_quant_v2.torch.between_layers import compute_by_engine  # noqa: E402


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that went to the engine."""
    seen: list[tuple[int, ...]] = []
    engine = ops.attention

    def counted(query: Any, *rest: Any) -> Any:
        seen.append(tuple(query.shape))
        return engine(query, *rest)

    monkeypatch.setattr(ops, "attention", counted)
    return seen


def attention(**settings: Any) -> Any:
    module = Attention(32, heads=4, dim_head=8, **settings).eval().requires_grad_(False)
    twin = copy.deepcopy(module)
    compute_by_engine(twin)
    return module, twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_heads_go_to_the_engine_and_give_the_same(dtype: Any, calls: list[Any]) -> None:
    theirs, ours = (module.to(dtype) for module in attention())
    x, other = torch.randn(2, 50, 32, dtype=dtype), torch.randn(2, 7, 32, dtype=dtype)
    limit = 1e-6 if dtype == torch.float32 else 2e-2
    for context in (None, other):
        assert (ours(x, context) - theirs(x, context)).abs().max() < limit
    assert calls == [(2, 4, 50, 8)] * 2


def test_masks_wide_heads_and_gradients_stay_with_torch(calls: list[Any]) -> None:
    theirs, ours = attention()
    x = torch.randn(2, 9, 32)
    mask = torch.zeros(2, 1, 9)
    mask[:, :, 5:] = -1e4
    assert torch.equal(ours(x, attention_mask=mask), theirs(x, attention_mask=mask))
    x.requires_grad_(True)
    ours(x).sum().backward()
    assert x.grad is not None
    wide = Attention(64, heads=1, dim_head=64)
    compute_by_engine(wide)
    wide(torch.randn(1, 5, 64))
    assert calls == []


def test_outside_of_the_modules_torch_is_what_it_was(calls: list[Any]) -> None:
    _, ours = attention()
    with pytest.raises(RuntimeError):
        ours(torch.randn(2, 9, 31))
    q = torch.randn(1, 1, 4, 8)
    functional.scaled_dot_product_attention(q, q, q)
    ours(torch.randn(2, 9, 32))
    functional.scaled_dot_product_attention(q, q, q)
    assert len(calls) == 1


def test_modules_are_copied_pickled_and_compiled(calls: list[Any]) -> None:
    theirs, ours = attention()
    x = torch.randn(2, 9, 32)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for module in (copy.deepcopy(ours), loaded):
        assert (module(x) - theirs(x)).abs().max() < 1e-6
    assert len(calls) == 2
    compiled = torch.compile(ours, backend="aot_eager")
    assert (compiled(x) - theirs(x)).abs().max() < 1e-6


def test_the_operator_has_a_fake_kernel() -> None:
    q = torch.randn(2, 5, 3, 8).transpose(1, 2)
    torch.library.opcheck(torch.ops.arrow_quant.attention.default, (q, q, q, 0.3))
