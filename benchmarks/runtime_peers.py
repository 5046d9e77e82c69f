"""Runtimes that layers and models are measured against, those that are installed, and the clock."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.ggml_layers import ggml_layers

nn = torch.nn

ROUNDS = 5

Layer = Callable[[torch.Tensor], torch.Tensor]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def best_of(contestants: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each, the best of several rounds, in turns."""
    times: dict[str, float] = {}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            times[name] = min(seconds, times.get(name, seconds))
    return times


def peer_layers(weight: torch.Tensor) -> dict[str, Layer]:
    """Whatever of ggml, torchao, quanto and OpenVINO is installed."""
    layers: dict[str, Layer] = dict(ggml_layers(weight))
    if installed("torchao"):
        layers["torchao int8 dynamic"] = torchao_layer(weight)
        layers["torch int4 weight-only bf16"] = int4_bf16(weight)
    if installed("optimum"):
        layers["quanto int8"] = quanto_layer(weight)
    if installed("openvino"):
        layers["OpenVINO int8 weights, int8 inputs"] = openvino_layer(weight)
    return layers


def one_linear(weight: torch.Tensor) -> nn.Sequential:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return nn.Sequential(layer)


def torchao_layer(weight: torch.Tensor) -> Layer:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = one_linear(weight)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def int4_bf16(weight: torch.Tensor, group: int = 64) -> Layer:
    codes = torch.randint(0, 16, weight.shape, dtype=torch.int32)
    packed4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = torch.rand(weight.shape[1] // group, weight.shape[0], 2).to(torch.bfloat16)

    def run(x: torch.Tensor) -> torch.Tensor:
        half = x.to(torch.bfloat16)
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(half, packed4, group, scales)
        return out

    return run


def quanto_layer(weight: torch.Tensor) -> Layer:
    from optimum.quanto import freeze, qint8, quantize

    model = one_linear(weight)
    quantize(model, weights=qint8)
    freeze(model)
    return model


def openvino_layer(weight: torch.Tensor) -> Layer:
    import openvino

    example = torch.randn(4, weight.shape[1])
    model = openvino.convert_model(one_linear(weight), example_input=example)
    compiled = int8_by_openvino(model, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": weight.shape[1]})
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


def int8_by_openvino(model: Any, settings: dict[str, Any]) -> Any:
    """Compile a converted model, its weights in int8 if NNCF is there to make them so."""
    import openvino

    if installed("nncf"):
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    common = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(model, "CPU", {**common, **settings})


def peer_steps(
    model: nn.Module, inputs: tuple[Any, ...], half: Callable[[], nn.Module]
) -> dict[str, Callable[[], object]]:
    """A denoising step by each runtime; `half` gives a bfloat16 copy of the model."""
    found: dict[str, Callable[[], object]] = {}
    half_inputs = tuple(x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs)
    if installed("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        ao = half()
        quantize_(ao, Int8DynamicActivationInt8WeightConfig())
        found["torchao int8 dynamic, bf16"] = lambda: ao(*half_inputs)
    if installed("optimum"):
        from optimum.quanto import freeze, qint8, quantize

        quanto = half()
        quantize(quanto, weights=qint8)
        freeze(quanto)
        found["quanto int8, bf16"] = lambda: quanto(*half_inputs)
    if installed("openvino"):
        found["OpenVINO int8 weights"] = openvino_step(model, inputs)
    return found


def openvino_step(model: nn.Module, inputs: tuple[Any, ...]) -> Callable[[], object]:
    import openvino

    class Sample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            sample: torch.Tensor = self.model(*arguments).sample
            return sample

    compiled = int8_by_openvino(openvino.convert_model(Sample(), example_input=inputs), {})
    arrays = [x.numpy() for x in inputs]
    return lambda: compiled(arrays)
