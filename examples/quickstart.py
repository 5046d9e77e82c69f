"""The shortest way through: quantize a model, look at the result, check it, read it, export it.

Usage: python examples/quickstart.py MODEL OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizationError,
    export_safetensors,
    open_quantized,
)


def show_progress(message: str, progress: float) -> None:
    print(f"[{progress:4.0%}] {message}", file=sys.stderr)


def main(model: Path, output: Path) -> None:
    quantizer = ArrowQuantV2(mode="diffusion")

    # Start from a deployment profile and change what you like; every assignment is checked.
    config = DiffusionQuantConfig.from_profile("local")
    config.min_accuracy = 0.90

    try:
        result = quantizer.quantize_diffusion_model(
            model_path=model,
            output_path=output / "quantized",
            config=config,
            progress_callback=show_progress,
        )
    except (ConfigurationError, QuantizationError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{result['model_size_mb']:.2f} MB, {result['compression_ratio']:.1f} times smaller")
    print(f"cosine similarity {result['cosine_similarity']:.4f}")
    if result["bit_width"] > config.bit_width:
        print(f"fallback: INT{result['bit_width']} was needed")

    validation = quantizer.validate_quality(model, output / "quantized")
    print(f"passed: {validation['passed']}, worst layer {validation['worst_layer']}")

    # The artefact is a mapping from names to packed tensors.
    tensors = open_quantized(output / "quantized")
    name = validation["worst_layer"]
    print(tensors[name])
    print(f"codes {tensors[name].codes.shape}, weights {tensors[name].dequantize().shape}")

    # A directory that diffusers loads: DiffusionPipeline.from_pretrained(output / "exported").
    export_safetensors(output / "quantized", output / "exported")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
