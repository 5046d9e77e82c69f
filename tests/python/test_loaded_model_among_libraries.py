"""A loaded model is saved, offloaded, copied, cast and shared between threads like any other."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from loaded_families import Family, distance  # noqa: E402

import arrow_quant_v2.torch as aq  # noqa: E402
from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    load_quantized,
)
from arrow_quant_v2.torch import PackedWeight, QuantLinear  # noqa: E402
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters  # noqa: E402

nn = torch.nn
WAYS: list[dict[str, Any]] = [{}, {"activation": "dynamic"}, {"compute": "float"}]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    folder = tmp_path_factory.mktemp("families")
    return {name: Family.make(name, folder) for name in ("stable_diffusion", "flux", "bert")}


@pytest.fixture(params=["stable_diffusion", "flux"])
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """INT8 weights and inputs, whose scales depend on the diffusion time."""
    folder = tmp_path_factory.mktemp("static")
    return Family.make("stable_diffusion", folder, activation_bits=8, calibration_samples=4)


def ids() -> Any:
    return torch.arange(3, 15).view(2, 6)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(ids()).logits


def at_time(unet: Any, time: float) -> Any:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=draw)
    text = torch.randn(1, 5, 32, generator=draw)
    with torch.no_grad():
        return unet(x, time, text).sample


def packed_layers(model: Any) -> int:
    return sum(isinstance(module, PackedWeight) for module in model.modules())


@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_that_was_saved_gives_the_same_images(
    family: Family, way: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = family.quantized(**way)
    expected = family.run(pipeline)
    pipeline.save_pretrained(tmp_path / "saved")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    part = family.denoiser
    assert packed_layers(getattr(again, part)) == packed_layers(getattr(pipeline, part))
    assert np.array_equal(family.run(again), expected)


def test_static_scales_are_saved_too(static: Family, tmp_path: Path) -> None:
    unet = static.quantized(activation="static").unet
    unet.save_pretrained(tmp_path / "saved")
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "saved")
    for time in (10, 900):
        assert torch.equal(at_time(again, time), at_time(unet, time))


def test_a_text_model_that_was_saved_gives_the_same_logits(
    families: dict[str, Family], tmp_path: Path
) -> None:
    model = families["bert"].quantized()
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    assert packed_layers(again) == packed_layers(model)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("plug_in", [True, False])
def test_another_process_needs_the_plug_in_for_what_was_saved(
    families: dict[str, Family], plug_in: bool, tmp_path: Path
) -> None:
    families["stable_diffusion"].quantized().unet.save_pretrained(tmp_path / "saved")
    program = f"""
import diffusers
{"import arrow_quant_v2.integrations.diffusers" if plug_in else ""}
diffusers.UNet2DConditionModel.from_pretrained({str(tmp_path / "saved")!r})
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (run.returncode == 0) == plug_in, run.stderr
    if not plug_in:
        assert "arrow_quant" in run.stderr


def test_saving_a_model_that_transformers_cannot_build_is_refused(tmp_path: Path) -> None:
    family = Family.make("llada", tmp_path)
    model = family.quantized()
    with pytest.raises(ConfigurationError, match="no class for this model") as refused:
        model.save_pretrained(tmp_path / "saved")
    assert "Copy the artefact" in str(refused.value)


def offload_with_hook(model: Any, folder: Path) -> None:
    accelerate.cpu_offload_with_hook(model, "cpu")


def offload(model: Any, folder: Path) -> None:
    accelerate.cpu_offload(model, "cpu")


def offload_buffers(model: Any, folder: Path) -> None:
    accelerate.cpu_offload(model, "cpu", offload_buffers=True)


def dispatch_to_disk(model: Any, folder: Path) -> None:
    names = [name for name, _ in model.named_children()]
    names += [name for name, _ in model.named_parameters(recurse=False)]
    places = {name: ("disk", "cpu")[number % 2] for number, name in enumerate(names)}
    accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=folder, offload_buffers=True, force_hooks=True
    )


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize(
    "put_aside", [offload_with_hook, offload, offload_buffers, dispatch_to_disk]
)
def test_packed_weights_can_be_offloaded(
    family: Family, way: dict[str, Any], put_aside: Any, tmp_path: Path
) -> None:
    pipeline = family.quantized(**way)
    expected = family.run(pipeline)
    denoiser = getattr(pipeline, family.denoiser)
    put_aside(denoiser, tmp_path / "disk")
    away = sum(buffer.is_meta for buffer in denoiser.buffers())
    assert (away > 0) == (put_aside in (offload_buffers, dispatch_to_disk))
    for _ in range(2):
        assert np.array_equal(family.run(pipeline), expected)
    assert away == sum(buffer.is_meta for buffer in denoiser.buffers())


def test_static_scales_can_be_offloaded(static: Family) -> None:
    unet = static.quantized(activation="static").unet
    expected = [at_time(unet, time) for time in (10, 900)]
    offload_buffers(unet, Path())
    assert [at_time(unet, time).tolist() for time in (10, 900)] == [e.tolist() for e in expected]


def test_an_embedding_and_a_head_that_share_a_weight_still_do(
    families: dict[str, Family], tmp_path: Path
) -> None:
    floats, model = families["bert"].original(), families["bert"].quantized()
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    assert floats.get_output_embeddings().weight is floats.get_input_embeddings().weight
    assert head.weight is table.weight
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_fusing_projections_is_refused_before_it_changes_anything(
    families: dict[str, Family],
) -> None:
    family = families["stable_diffusion"]
    pipeline = family.quantized()
    expected = family.run(pipeline)
    for fuse in (pipeline.unet.fuse_qkv_projections, pipeline.fuse_qkv_projections):
        with pytest.raises(ConfigurationError, match="fuse_qkv_projections"):
            fuse()
    assert np.array_equal(family.run(pipeline), expected)


def test_a_component_of_an_artefact_loads_alone(family: Family) -> None:
    part = family.denoiser
    alone = load_quantized(family.artefact / part)
    pipeline = family.quantized()
    assert type(alone) is type(getattr(pipeline, part))
    expected = family.run(pipeline)
    setattr(pipeline, part, alone)
    assert np.array_equal(family.run(pipeline), expected)


def test_a_component_that_was_not_quantized_is_named(families: dict[str, Family]) -> None:
    with pytest.raises(ConfigurationError, match=r"'vae' is not quantized; \['unet'\] are"):
        load_quantized(families["stable_diffusion"].artefact / "vae")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda unet: pickle.loads(pickle.dumps(unet))])
def test_a_model_with_static_scales_is_copied(static: Family, copied: Any) -> None:
    unet = static.quantized(activation="static").unet
    again = copied(unet)
    assert torch.equal(at_time(again, 900), at_time(unet, 900))
    assert torch.equal(at_time(again, 10), at_time(unet, 10))


def test_two_threads_have_a_time_each(static: Family) -> None:
    unet = static.quantized(activation="static").unet
    groups = {len(m.edges) for m in unet.modules() if isinstance(m, TimeParameters)}
    assert max(groups) > 0, "scales depend on the time"
    times = (10, 900)
    serial = {time: at_time(unet, time) for time in times}
    with aq.timestep(times[0]):
        forced = at_time(unet, times[1])
    assert not torch.equal(forced, serial[times[1]]), "the time of the scales matters"
    start = threading.Barrier(len(times))
    wrong: list[int] = []

    def run(time: int) -> None:
        start.wait()
        for _ in range(20):
            if not torch.equal(at_time(unet, time), serial[time]):
                wrong.append(time)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(time,)) for time in times]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong


def floating_types(pipeline: Any) -> dict[str, set[Any]]:
    return {
        name: {p.dtype for p in part.parameters() if p.is_floating_point()}
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_pipeline_loads_in_its_own_type_and_runs(tmp_path: Path, dtype: Any) -> None:
    family = Family.make("stable_diffusion", tmp_path, dtype)
    pipeline = family.quantized()
    assert set().union(*floating_types(pipeline).values()) == {dtype}
    error = distance(family.run(pipeline), family.run(family.original(dtype)))
    assert error < 0.02


def test_a_type_that_is_asked_for_is_that_of_all_components(
    families: dict[str, Family],
) -> None:
    pipeline = families["stable_diffusion"].quantized(dtype=torch.bfloat16)
    assert set().union(*floating_types(pipeline).values()) == {torch.bfloat16}
    assert np.isfinite(families["stable_diffusion"].run(pipeline)).all()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 T5, whose ``wo`` transformers keeps in float32."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2}
    model = transformers.T5EncoderModel(transformers.T5Config(vocab_size=99, **sizes))
    model.half().save_pretrained(folder / "floats")
    settings = DiffusionQuantConfig(
        bit_width=8, modality="text", min_accuracy=0.0, calibration_samples=0
    )
    ArrowQuantV2().quantize_diffusion_model(folder / "floats", folder / "artefact", settings)
    return folder


@pytest.mark.parametrize("compute", ["packed", "float"])
def test_what_a_class_keeps_in_float32_is_float32(
    encoder: Path, compute: str, tmp_path: Path
) -> None:
    floats = transformers.T5EncoderModel.from_pretrained(encoder / "floats", dtype=torch.float16)
    model = load_quantized(encoder / "artefact", compute=compute)
    expected = {name for name, p in floats.named_parameters() if p.dtype == torch.float32}
    assert expected, "transformers keeps some"
    for name in expected:
        layer = model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, QuantLinear) == (compute == "packed")
        assert layer.weight.dtype == torch.float32
        assert layer(torch.ones(1, layer.in_features, dtype=torch.float32)).dtype == torch.float32
        if compute == "packed":
            half = torch.full((1, layer.in_features), 6e4, dtype=torch.float16)
            assert layer(half).isfinite().all()
    with torch.no_grad():
        found, wanted = (m(ids()).last_hidden_state.float() for m in (model, floats))
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    if compute == "packed":
        model.save_pretrained(tmp_path / "saved")
        again = transformers.T5EncoderModel.from_pretrained(tmp_path / "saved", dtype=torch.float16)
        with torch.no_grad():
            assert torch.equal(again(ids()).last_hidden_state.float(), found)
