"""Between layers: what the engine takes over, and that nothing else changes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention import FeedForward  # noqa: E402
from diffusers.models.attention_processor import Attention  # noqa: E402
from torch.nn import functional  # noqa: E402

from arrow_quant_v2.torch.ops import library  # noqa: E402
from arrow_quant_v2.torch.ops.attention_gelu import compute_by_engine  # noqa: E402

#: Results must not depend on how many threads share the work.
pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that went to the engine."""
    seen: list[tuple[int, ...]] = []
    engine = library.attention

    def counted(query: Any, *rest: Any) -> Any:
        seen.append(tuple(query.shape))
        return engine(query, *rest)

    monkeypatch.setattr(library, "attention", counted)
    return seen


def attention(dim_head: int = 8, **settings: Any) -> Any:
    module = Attention(32, heads=4, dim_head=dim_head, **settings).eval().requires_grad_(False)
    twin = copy.deepcopy(module)
    compute_by_engine(twin)
    return module, twin


@pytest.mark.parametrize("dim_head", [8, 40, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_go_to_the_engine_and_give_the_same(
    dtype: Any, dim_head: int, calls: list[Any]
) -> None:
    theirs, ours = (module.to(dtype) for module in attention(dim_head))
    x, other = torch.randn(2, 50, 32, dtype=dtype), torch.randn(2, 7, 32, dtype=dtype)
    limit = 1e-6 if dtype == torch.float32 else 2e-2
    for context in (None, other):
        assert (ours(x, context) - theirs(x, context)).abs().max() < limit
    assert calls == [(2, 4, 50, dim_head)] * 2


def test_masks_the_widest_heads_and_gradients_stay_with_torch(calls: list[Any]) -> None:
    theirs, ours = attention()
    x = torch.randn(2, 9, 32)
    mask = torch.zeros(2, 1, 9)
    mask[:, :, 5:] = -1e4
    assert torch.equal(ours(x, attention_mask=mask), theirs(x, attention_mask=mask))
    x.requires_grad_(True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert calls == []
    wide = Attention(64, heads=1, dim_head=257).requires_grad_(False)
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
    x = torch.randn(3, 70)
    torch.library.opcheck(torch.ops.arrow_quant.gelu_tanh.default, (x,))


class TestGelu:
    @pytest.fixture
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
        """Shapes of what went to the engine."""
        seen: list[tuple[int, ...]] = []
        engine = library.gelu_tanh

        def counted(x: Any) -> Any:
            seen.append(tuple(x.shape))
            return engine(x)

        monkeypatch.setattr(library, "gelu_tanh", counted)
        return seen

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_feed_forward_blocks_of_diffusers_have_it_from_the_engine(
        self, dtype: Any, sizes: list[Any]
    ) -> None:
        theirs = FeedForward(32, activation_fn="gelu-approximate").eval().requires_grad_(False)
        ours = copy.deepcopy(theirs)
        compute_by_engine(ours)
        x = torch.randn(2, 100, 32, dtype=dtype)
        limit = 1e-6 if dtype == torch.float32 else 2e-2
        assert (ours.to(dtype)(x) - theirs.to(dtype)(x)).abs().max() < limit
        assert sizes == [(2, 100, 128)]

    def test_memory_formats_are_kept(self, sizes: list[Any]) -> None:
        gelu = torch.nn.GELU(approximate="tanh")
        images = torch.randn(2, 16, 30, 40)
        expected = gelu(images)
        compute_by_engine(gelu)
        for x in (images, images.to(memory_format=torch.channels_last)):
            found = gelu(x)
            assert found.stride() == x.stride()
            assert torch.allclose(found, expected, atol=1e-6)
        assert len(sizes) == 2

    def test_what_the_engine_does_not_do_stays_with_torch(self, sizes: list[Any]) -> None:
        gelu = torch.nn.GELU(approximate="tanh")
        compute_by_engine(gelu)
        few = torch.randn(5)
        wanted = torch.randn(200, 200, requires_grad=True)
        with_gaps = torch.randn(200, 400)[:, ::2]
        for x in (few, wanted, with_gaps, torch.randn(200, 200, dtype=torch.float64)):
            expected = torch.nn.functional.gelu(x, approximate="tanh")
            assert torch.equal(gelu(x), expected)
        gelu(wanted).sum().backward()
        assert wanted.grad is not None
        assert sizes == []
