"""Factors folded into norms and layers before: the same function, found, checked and read back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ROOT, ZOO_TEXT, ZOO_UNET, arrow_quant
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from arrow_quant_v2 import (
    ArrowQuantV2,
    CalibrationStatistics,
    ConfigurationError,
    DiffusionQuantConfig,
    Fold,
    FoldSource,
    MetadataError,
    QuantizationResult,
    ValidationError,
    export_int8,
    export_safetensors,
    load_quantized,
    open_quantized,
)
from arrow_quant_v2.torch import calibrate
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.observe.folds import find_folds
from arrow_quant_v2.torch.record.trajectory import Batch

ZOO_DIT = ROOT / "zoo" / "models" / "image-dit"
WIDTH = 64
TIME = 1100  # inputs of a layer that takes more than one block to compare
STEPS = range(0, 1000, 50)


class Denoiser(nn.Module):
    """A norm with weights, then one that follows the time, as in a diffusion transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.to_q = nn.Linear(WIDTH, WIDTH)
        self.to_v = nn.Linear(WIDTH, WIDTH)
        self.time = nn.Linear(TIME, 2 * WIDTH)
        self.plain = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.inner = nn.Linear(WIDTH, 2 * WIDTH)
        self.outer = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, t: float) -> Tensor:
        h = self.norm(x)
        x = x + torch.sigmoid(self.to_q(h)) * functional.gelu(self.to_v(h))
        waves = torch.cos(t / 1000 * torch.arange(TIME))
        shift, scale = self.time(functional.silu(waves)).chunk(2)
        h = self.plain(x) * (1 + scale) + shift
        return x + self.outer(functional.gelu(self.inner(h)))


def loud_denoiser() -> Denoiser:
    """Some channels are 30 times larger where the layers read them, and their weights smaller."""
    torch.manual_seed(0)
    module = Denoiser().eval()
    scale = torch.ones(WIDTH)
    scale[::5] = 30
    with torch.no_grad():
        module.norm.weight.mul_(scale)
        module.norm.bias.normal_().mul_(scale)
        module.time.bias[WIDTH:].copy_(scale - 1)
        for layer in (module.to_q, module.to_v, module.inner):
            layer.weight.div_(scale)
    return module


def batches() -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [((torch.randn(160, WIDTH, generator=generator), t), {}, t) for t in STEPS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Denoiser, Path, Path]:
    """The module, its weights and its statistics."""
    folder = tmp_path_factory.mktemp("denoiser")
    module = loud_denoiser()
    save_file(module.state_dict(), folder / "denoiser.safetensors")
    calibrate(module, batches(), folder / "statistics")
    return module, folder / "denoiser.safetensors", folder / "statistics"


def quantize(
    model: tuple[Denoiser, Path, Path], out: Path, statistics: Path | None = None, **settings: Any
) -> QuantizationResult:
    common: dict[str, Any] = {
        "bit_width": 4,
        "group_size": 64,
        "method": "rtn",
        "min_accuracy": 0.0,
        "modality": "image",
        "fold_equalization": True,
        "layer_rules": {"*": 4},
    }
    config = DiffusionQuantConfig(**{**common, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ArrowQuantV2().quantize_diffusion_model(
            model[1], out, config, statistics=statistics or model[2]
        )


def stored_folds(out: Path) -> list[tuple[Fold, Tensor]]:
    """The folds of an artefact and their factors, read as docs/reference/format.md says."""
    found = []
    for entry in open_quantized(out).metadata["spatial_quant"]["folds"]:
        fold = Fold(
            tuple(entry["layers"]), tuple(FoldSource(**source) for source in entry["sources"])
        )
        raw = np.frombuffer(bytes.fromhex(entry["factors"]), "u1")
        found.append((fold, torch.from_numpy((2.0 ** ((raw - 128.0) / 8)).astype("f4")).double()))
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


def folded_parameters(
    parameters: Mapping[str, Tensor], folds: list[tuple[Fold, Tensor]]
) -> dict[str, Tensor]:
    """What becomes of parameters when factors are folded, by docs/reference/format.md."""
    changed: dict[str, Tensor] = {}

    def own(name: str) -> Tensor:
        return changed.setdefault(name, parameters[name].detach().clone())

    for fold, factors in folds:
        for name in fold.layers:
            own(name).mul_(factors.view(1, -1, *[1] * (own(name).ndim - 2)))
        for source in fold.sources:
            rows = own(source.name)[source.row : source.row + len(factors)]
            divisors = factors.view(-1, *[1] * (rows.ndim - 1))
            rows.copy_((rows + source.offset) / divisors - source.offset)
    return changed


# Finding


def with_random_factors(module: nn.Module, folds: list[Fold]) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    generator = torch.Generator().manual_seed(2)
    factors = [
        2 ** torch.empty(parameters[fold.layers[0]].shape[1]).uniform_(-3, 3, generator=generator)
        for fold in folds
    ]
    return folded_parameters(parameters, list(zip(folds, factors, strict=True)))


def check_function(module: nn.Module, batch: Batch) -> list[Fold]:
    """All folds of the module; with random factors in all of them it is the same function."""
    layers = [name for name, p in module.named_parameters() if p.ndim >= 2 and "emb" not in name]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with evaluating(module):
        folds = find_folds(module, [batch], layers)
        assert all(torch.equal(value, before[n]) for n, value in module.state_dict().items())
        changed = with_random_factors(module, folds)
        expected = module(*batch.args, **batch.kwargs)[0]
        found = functional_call(module, changed, batch.args, dict(batch.kwargs))[0]
    own = dict(module.named_parameters())
    assert changed
    assert all(relative_error(value, own[name]) > 0.1 for name, value in changed.items())
    assert relative_error(found, expected) < 1e-5
    return folds


def test_adaptive_norms_of_a_real_transformer_take_up_factors_and_it_stays_the_function() -> None:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel.from_pretrained(str(ZOO_DIT / "transformer")).eval()
    given = {"timestep": torch.tensor([10, 700]), "class_labels": torch.tensor([1, 2])}
    folds = check_function(network, Batch((torch.randn(2, 8, 8, 8),), given))
    block = "transformer_blocks.0"
    by_layer = {fold.layers: fold.sources for fold in folds}
    attention = tuple(f"{block}.attn1.to_{name}.weight" for name in "qkv")
    assert by_layer[attention] == (
        FoldSource(f"{block}.norm1.linear.weight", 0),
        FoldSource(f"{block}.norm1.linear.weight", 288),
        FoldSource(f"{block}.norm1.linear.bias", 0),
        FoldSource(f"{block}.norm1.linear.bias", 288, 1.0),
    )
    assert by_layer[(f"{block}.attn1.to_out.0.weight",)] == (
        FoldSource(f"{block}.attn1.to_v.weight", 0),
        FoldSource(f"{block}.attn1.to_v.bias", 0),
    )
    assert (f"{block}.ff.net.0.proj.weight",) in by_layer
    assert (f"{block}.ff.net.2.weight",) not in by_layer, "GELU lies between"


def test_norms_values_and_gates_of_a_real_language_model_take_up_factors() -> None:
    from transformers import AutoModelForMaskedLM

    network = AutoModelForMaskedLM.from_pretrained(str(ZOO_TEXT), dtype=torch.float32).eval()
    tokens = torch.randint(5, 100, (2, 48), generator=torch.Generator().manual_seed(0))
    folds = check_function(network, Batch((), {"input_ids": tokens}))
    by_layer = {fold.layers: fold.sources for fold in folds}
    layer = "model.layers.1"
    assert by_layer[(f"{layer}.attn.Wqkv.weight",)] == (FoldSource(f"{layer}.attn_norm.weight", 0),)
    assert by_layer[(f"{layer}.attn.Wo.weight",)] == (FoldSource(f"{layer}.attn.Wqkv.weight", 512),)
    assert by_layer[(f"{layer}.mlp.Wo.weight",)] == (FoldSource(f"{layer}.mlp.Wi.weight", 384),)
    assert ("model.layers.0.attn.Wqkv.weight",) not in by_layer, "the residual reads its input too"


def test_group_norms_of_a_real_unet_take_up_factors() -> None:
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(str(ZOO_UNET / "unet")).eval()
    folds = check_function(network, Batch((torch.randn(2, 1, 32, 32), torch.tensor(10))))
    assert any(s.name.endswith("group_norm.weight") for fold in folds for s in fold.sources)
    assert not any("conv" in layer for fold in folds for layer in fold.layers), "SiLU lies between"


class Chain(nn.Module):
    """A norm, something in between, and a layer."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.layer = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.randn(8))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.between(self, self.norm(x))
        return result


def doubled(module: Chain, h: Tensor) -> Tensor:
    return module.layer(torch.cat([h, h]))


def in_place(module: Chain, h: Tensor) -> Tensor:
    part = h[:, :4]
    part.abs_()
    return module.layer(h)


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (lambda m, h: m.layer(h), 1),
        (lambda m, h: m.layer((h * 3)[None].transpose(0, 1).reshape(-1, 8)), 1),
        (lambda m, h: m.layer(h) + m.other(h), 1),
        (lambda m, h: m.layer(h * m.scale), 1),
        (lambda m, h: m.other(m.layer(h)), 2),
        (lambda m, h: m.layer(h) + h, 0),
        (lambda m, h: m.layer(h * h), 0),
        (lambda m, h: m.layer(h + 1.5), 1),
        (lambda m, h: m.layer(h * torch.sigmoid(h)), 0),
        (lambda m, h: m.layer(functional.relu(h)), 0),
        (lambda m, h: m.layer(h) + m.norm(h).sum(), 0),
        (lambda m, h: m.layer(h) * m.norm.weight, 0),
        (lambda m, h: m.layer(h.flip(-1)), 0),
        (lambda m, h: m.layer(h) + m.layer(h * 0 + 1), 0),
        (lambda m, h: h @ m.layer.weight, 0),
        (lambda m, h: m.layer(h) + m.layer.weight.sum(), 0),
        (doubled, 0),
        (in_place, 0),
    ],
)
def test_only_what_nothing_else_reads_is_found(between: Any, count: int) -> None:
    torch.manual_seed(0)
    module = Chain(between)
    with evaluating(module):
        folds = find_folds(module, [Batch((torch.randn(4, 8),))], ["layer.weight", "other.weight"])
    assert len(folds) == count, folds


def test_a_parameter_with_two_names_and_a_layer_that_is_not_planned_are_left_alone() -> None:
    module = Chain(lambda m, h: m.layer(h) + m.other(h))
    with evaluating(module):
        batch = Batch((torch.randn(4, 8),))
        assert not find_folds(module, [batch], ["layer.weight"])
        module.again = module.norm
        assert not find_folds(module, [batch], ["layer.weight", "other.weight"])


def test_what_one_batch_does_not_show_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another batch takes another way through the module."""

    def between(module: Chain, h: Tensor) -> Tensor:
        result: Tensor = module.layer(h)
        return result + h if len(h) == 5 else result

    module = Chain(between)
    layers = ["layer.weight"]
    with evaluating(module):
        few, many = Batch((torch.randn(4, 8),)), Batch((torch.randn(5, 8),))
        assert len(find_folds(module, [few], layers)) == 1
        assert not find_folds(module, [few, many], layers)


def test_outputs_of_any_form_are_compared_and_what_cannot_be_followed_is_not_folded() -> None:
    def named(module: Chain, h: Tensor) -> Any:
        return {"first": module.layer(h), "norm": h}

    def compiled(module: Chain, h: Tensor) -> Any:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("not under a mode")
        return module.layer(h)

    batch = Batch((torch.randn(4, 8),))
    for between, expected in (
        (named, []),
        (lambda m, h: {"only": m.layer(h)}, 1),
        (lambda m, h: None, None),
        (compiled, None),
    ):
        module = Chain(between)
        with evaluating(module):
            folds = find_folds(module, [batch], ["layer.weight"])
        assert (len(folds) if expected == 1 and folds else folds) == expected


# Quantizing


def test_folded_layers_store_no_factors_and_lose_as_little(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    errors = {}
    for name, settings in {
        "none": {"enable_spatial": False},
        "stored": {"fold_equalization": False},
        "folded": {},
    }.items():
        result = quantize(model, tmp_path / name, **settings)
        tensors = {tensor.name: tensor for tensor in result.tensors}
        errors[name] = sum(
            tensors[f"{layer}.weight"].output_nmse or 0 for layer in ("to_q", "to_v", "inner")
        )
    assert errors["folded"] < 0.4 * errors["none"]
    assert errors["folded"] < 1.2 * errors["stored"]
    folded = [tensor.name for tensor in result.tensors if tensor.folded]
    assert folded == ["inner.weight", "to_q.weight", "to_v.weight"]
    divided = {tensor.name for tensor in result.tensors if tensor.divided}
    assert divided == {"norm.weight", "norm.bias", "time.weight", "time.bias"}
    artefact = open_quantized(tmp_path / "folded")
    assert all(artefact[name].equalization is None for name in folded)
    assert open_quantized(tmp_path / "stored")["to_q.weight"].equalization is not None


def test_kept_tensors_hold_what_the_factors_say_and_the_function_stays(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    module, path, _ = model
    quantize(model, tmp_path / "out")
    folds = stored_folds(tmp_path / "out")
    assert {fold.layers for fold, _ in folds} == {("to_q.weight", "to_v.weight"), ("inner.weight",)}
    source = load_file(path)
    changed = folded_parameters(
        {name: value.double() for name, value in source.items()},
        [(fold, factors) for fold, factors in folds],
    )
    artefact = open_quantized(tmp_path / "out")
    for name in ("norm.weight", "norm.bias", "time.bias"):
        assert torch.equal(
            torch.from_numpy(np.asarray(artefact[name]).copy()), changed[name].float()
        ), name
    with torch.no_grad():
        for args, _, _ in batches()[::5]:
            found = functional_call(module, {k: v.float() for k, v in changed.items()}, args)
            assert relative_error(found, module(*args)) < 1e-6


def test_an_artefact_with_folds_loads_and_runs(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out", bit_width=8, layer_rules={"*": 8})
    with torch.device("meta"):
        skeleton = Denoiser()
    loaded = load_quantized(tmp_path / "out", module=skeleton)
    with torch.no_grad():
        for args, _, _ in batches()[::7]:
            assert relative_error(loaded(*args), model[0](*args)) < 0.01


@pytest.mark.parametrize("activation_bits", [None, 8])
def test_every_method_and_static_activations_know_the_divided_inputs(
    activation_bits: int | None, model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    result = quantize(model, tmp_path / "out", method="auto", activation_bits=activation_bits)
    plain = quantize(
        model,
        tmp_path / "plain",
        method="auto",
        activation_bits=activation_bits,
        fold_equalization=False,
    )
    assert result["output_nmse"] < 1.2 * plain["output_nmse"]
    if any(tensor.folded for tensor in result.tensors):
        assert "folds" in open_quantized(tmp_path / "out").metadata["spatial_quant"]
    with torch.device("meta"):
        skeleton = Denoiser()
    activation = "static" if activation_bits else "none"
    loaded = load_quantized(tmp_path / "out", module=skeleton, activation=activation)
    with torch.no_grad():
        for args, _, _ in batches()[::7]:
            assert relative_error(loaded(*args), model[0](*args)) < 0.1


def test_more_bits_choose_folds_of_their_own(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    result = quantize(model, tmp_path / "out", bit_width=2, min_accuracy=0.999, layer_rules={})
    assert len(result["attempts"]) > 1
    found = ArrowQuantV2().validate_quality(model[1], tmp_path / "out", min_accuracy=0.5)
    assert found["problems"] == []


def test_exports_have_no_factors_left_to_apply(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out", bit_width=8, layer_rules={"*": 8})
    (plain,) = export_safetensors(tmp_path / "out", tmp_path / "plain").glob("*.safetensors")
    module = Denoiser()
    module.load_state_dict(load_file(plain))
    (integers,) = export_int8(tmp_path / "out", tmp_path / "int8").glob("*.safetensors")
    found = load_file(integers)
    for name in ("to_q.weight", "to_v.weight", "inner.weight"):
        assert found[name].dtype == torch.int8
        restored = found[name].float() * found[f"{name}_scale"]
        torch.testing.assert_close(restored, module.get_parameter(name).detach())
    with torch.no_grad():
        for args, _, _ in batches()[::7]:
            assert relative_error(module(*args), model[0](*args)) < 0.01


def test_bytes_do_not_depend_on_threads(model: tuple[Denoiser, Path, Path], tmp_path: Path) -> None:
    trees = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        quantize(model, out, method="auto", num_threads=threads)
        trees.append({f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()})
    assert trees[0] == trees[1]


# Checking


@pytest.mark.parametrize("time", [4, "keep"])
def test_validation_undoes_folds_and_finds_another_original(
    time: int | str, model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    result = quantize(model, tmp_path / "out", layer_rules={"*": 4, "time": time})
    found = ArrowQuantV2().validate_quality(model[1], tmp_path / "out")
    assert found["passed"], found["problems"]
    by_name = {tensor["name"]: tensor["nmse"] for tensor in found["tensors"]}
    for tensor in result.tensors:
        assert by_name[tensor.name] == pytest.approx(tensor.nmse, rel=1e-5)
    source = load_file(model[1])
    source["norm.weight"][7] *= 1 + 1e-6
    source["time.bias"][WIDTH] += 1e-3
    save_file(source, tmp_path / "other.safetensors")
    other = ArrowQuantV2().validate_quality(tmp_path / "other.safetensors", tmp_path / "out")
    assert not other["passed"]
    assert other["problems"] == [
        f"kept tensor '{name}' differs from the original with the factors folded into it"
        for name in ("norm.weight", "time.bias")
    ]


def test_damage_of_a_folded_tensor_is_found(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out")
    weights = tmp_path / "out" / "weights.parquet"
    data = bytearray(weights.read_bytes())
    stored = np.array(open_quantized(tmp_path / "out")["norm.weight"]).tobytes()
    data[data.index(stored) + 3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValidationError, match=r"weights\.parquet"):
        ArrowQuantV2().validate_quality(model[1], tmp_path / "out")


def test_folds_of_another_model_are_a_problem_and_no_crash(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out")
    source = load_file(model[1])
    source["norm.weight"] = source["norm.weight"][:9].clone()
    save_file(source, tmp_path / "other.safetensors")
    found = ArrowQuantV2().validate_quality(tmp_path / "other.safetensors", tmp_path / "out")
    assert not found["passed"]
    assert any("fold does not fit" in problem for problem in found["problems"])


def test_inspect_tells_folded_layers_and_divided_tensors(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    quantize(model, tmp_path / "out")
    facts = arrow_quant("inspect", tmp_path / "out", "--json").json
    tensors = {tensor["name"]: tensor for tensor in facts["tensors"]}
    assert tensors["to_q.weight"]["folded"]
    assert not tensors["to_q.weight"]["divided"]
    assert tensors["norm.weight"]["divided"]
    assert not tensors["outer.weight"]["folded"]
    text = arrow_quant("inspect", tmp_path / "out", "--all").out
    assert "two_level, folded" in text
    assert "factors of 3 layers, into 4 tensors before them" in text


# Statistics


def test_statistics_keep_the_folds(model: tuple[Denoiser, Path, Path], tmp_path: Path) -> None:
    statistics = CalibrationStatistics.load(model[2])
    folds = statistics.folds
    assert folds is not None
    assert {fold.layers for fold in folds} == {("to_q.weight", "to_v.weight"), ("inner.weight",)}
    layers = [f"{name}.weight" for name in ("to_q", "to_v", "inner", "outer")]
    path = tmp_path / "again"
    run = calibrate(model[0], batches()[::2], path, layers=layers, max_memory_mb=3)
    assert run.passes > 1
    again = CalibrationStatistics.load(path)
    assert again.folds == folds
    again.set_folds(folds[:1])
    statistics.merge(again)
    assert statistics.folds == folds[:1], "what both know"
    statistics.save(tmp_path / "merged")
    result = quantize(model, tmp_path / "out", tmp_path / "merged")
    (fold,) = (fold for fold, _ in stored_folds(tmp_path / "out"))
    assert fold == folds[0]
    assert sum(tensor.folded for tensor in result.tensors) == len(fold.layers)


def test_fresh_statistics_take_over_folds_and_those_without_a_look_have_none(
    model: tuple[Denoiser, Path, Path],
) -> None:
    known = CalibrationStatistics.load(model[2])
    fresh = CalibrationStatistics()
    assert fresh.folds is None
    fresh.merge(known)
    assert fresh.folds == known.folds
    unaware = CalibrationStatistics()
    unaware.add_input({"other.weight": np.ones((4, 8), np.float32)})
    fresh.merge(unaware)
    assert fresh.folds is None


# What is in the way


def warnings_of(result: QuantizationResult) -> str:
    return "\n".join(result["warnings"])


def test_folding_without_calibration_says_so(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    config = DiffusionQuantConfig(
        fold_equalization=True, modality="image", min_accuracy=0.0, calibration_samples=0
    )
    with pytest.warns(UserWarning, match="nothing is folded: data-free: calibration_samples is 0"):
        ArrowQuantV2().quantize_diffusion_model(model[1], tmp_path / "out", config)
    spatial = open_quantized(tmp_path / "out").metadata["spatial_quant"]
    assert spatial["enabled"] is False


def test_folding_where_nothing_can_be_folded_says_why(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    off = quantize(model, tmp_path / "off", enable_spatial=False)
    assert "nothing is folded: enable_spatial is false" in warnings_of(off)
    kept = quantize(model, tmp_path / "kept", layer_rules={"*": 4, "to_q": "keep"})
    assert "not folded, since a layer of the input is kept: to_q.weight" in warnings_of(kept)
    assert [t.name for t in kept.tensors if t.folded] == ["inner.weight"]
    statistics = CalibrationStatistics.load(model[2])
    statistics.set_folds([])
    statistics.save(tmp_path / "none")
    none = quantize(model, tmp_path / "empty", tmp_path / "none")
    assert "nothing is folded: no layer's input is made by parameters" in warnings_of(none)
    assert not any(tensor.folded for tensor in none.tensors)


def test_statistics_from_before_do_not_say_what_can_be_folded(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    statistics = CalibrationStatistics()
    number = statistics.add_input({"to_q.weight": load_file(model[1])["to_q.weight"].numpy()})
    statistics.add(number, np.ones((500, WIDTH), np.float32))
    statistics.save(tmp_path / "old")
    result = quantize(model, tmp_path / "out", tmp_path / "old")
    assert "do not say what precedes the layers" in warnings_of(result)


def test_what_compares_with_the_network_as_it_is_refuses_folds(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    config = DiffusionQuantConfig(fold_equalization=True, modality="image", method="learned")
    with pytest.raises(ConfigurationError, match="fold_equalization=True does not go with"):
        ArrowQuantV2().quantize_diffusion_model(model[1], tmp_path / "out", config)


def test_arrays_refuse_folds() -> None:
    with pytest.raises(ConfigurationError, match="for models, not for arrays"):
        ArrowQuantV2().quantize(np.ones((8, 64), np.float32), fold_equalization=True)


def test_folds_that_do_not_fit_the_model_are_refused(
    model: tuple[Denoiser, Path, Path], tmp_path: Path
) -> None:
    statistics = CalibrationStatistics.load(model[2])
    statistics.set_folds([Fold(("to_q.weight", "to_v.weight"), (FoldSource("norm.weight", 1),))])
    statistics.save(tmp_path / "wrong")
    with pytest.raises(MetadataError, match=r"'norm\.weight': a fold does not fit the tensor"):
        quantize(model, tmp_path / "out", tmp_path / "wrong")
    assert not (tmp_path / "out").exists()


# Real models


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Statistics of models of the zoo."""
    from arrow_quant_v2.torch import capture

    folder = tmp_path_factory.mktemp("statistics")
    found = {}
    for path, samples in ((ZOO_DIT, 32), (ZOO_TEXT, 10)):
        found[path] = folder / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            capture(path, found[path], DiffusionQuantConfig(calibration_samples=samples))
    return found


@pytest.mark.parametrize("path", [ZOO_DIT, ZOO_TEXT], ids=lambda path: path.name)
def test_real_models_lose_no_more_with_folds_than_with_stored_factors(
    path: Path, real: dict[Path, Path], tmp_path: Path
) -> None:
    from zoo.evaluate.bootstrap import loss_difference
    from zoo.evaluate.loader import load
    from zoo.evaluate.subject import Effort, Setting

    setting = Setting(Effort(items=200, samples=0, steps=0))
    losses = {}
    for fold in (False, True):
        out = tmp_path / str(fold)
        config = DiffusionQuantConfig(method="search", min_accuracy=0.0, fold_equalization=fold)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = ArrowQuantV2().quantize_diffusion_model(
                path, out, config, statistics=real[path]
            )
        losses[fold] = load(out).subject.loss(setting)
    folded = [tensor for tensor in result.tensors if tensor.folded]
    assert folded
    assert not any(tensor.equalized for tensor in folded)
    assert loss_difference(losses[True], losses[False]).verdict != "worse"
    found = ArrowQuantV2().validate_quality(path, tmp_path / "True")
    assert found["passed"], found["problems"]


def test_sixteen_bits_of_a_real_model_stay_exact(real: dict[Path, Path], tmp_path: Path) -> None:
    config = DiffusionQuantConfig(method="rtn", min_accuracy=0.0, fold_equalization=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ArrowQuantV2().quantize_diffusion_model(
            ZOO_TEXT, tmp_path / "out", config, statistics=real[ZOO_TEXT]
        )
    source = load_file(ZOO_TEXT / "model.safetensors")
    artefact = open_quantized(tmp_path / "out")
    kept = 0
    for fold, factors in stored_folds(tmp_path / "out"):
        assert torch.equal(factors.log2(), factors.log2().round()), "powers of two"
        for name in (s.name for s in fold.sources if not artefact[s.name].is_quantized):
            stored = torch.from_numpy(artefact[name].dequantize().astype(np.float64))
            assert torch.equal(stored * factors, source[name].double())
            kept += 1
    assert kept
