"""diffusers loads, makes and saves packed models once this module is imported.

>>> import arrow_quant_v2.integrations.diffusers  # doctest: +SKIP
>>> pipeline = DiffusionPipeline.from_pretrained("exported/")  # doctest: +SKIP

``exported/`` is what ``arrow-quant export --format packed`` wrote, or ``save_pretrained`` of a
loaded model. A float model is quantized while it loads, tensor by tensor, with
``quantization_config=ArrowQuantConfig(bits=4)``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from arrow_quant_v2.integrations.packed_model import describe, finish, pack, plan, prepare
from arrow_quant_v2.integrations.quantization_config import QuantMethod, Settings
from arrow_quant_v2.torch.layers.execution import Execution

__all__ = ["ArrowQuantConfig", "ArrowQuantizer", "make_saveable"]


class ArrowQuantConfig(Settings, QuantizationConfigMixin):
    """``quantization_config`` for diffusers.

    Parameters are those of :class:`arrow_quant_v2.integrations.quantization_config.Settings`.
    """


class ArrowQuantizer(DiffusersQuantizer):
    """What diffusers calls while it loads a model."""

    quantization_config: ArrowQuantConfig
    use_keep_in_fp32_modules = True

    def __init__(self, quantization_config: ArrowQuantConfig, **settings: Any) -> None:
        super().__init__(quantization_config, **settings)
        if quantization_config.layers is None:
            self.pre_quantized = False
        self._plan: dict[str, Any] = {}
        self._dtype = torch.float32

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """Activations and tensors that are not quantized are float32, unless the user says so."""
        self._dtype = torch_dtype or torch.float32
        return self._dtype

    def _process_model_before_weight_loading(
        self, model: Any, device_map: Any = None, **settings: Any
    ) -> None:
        config = self.quantization_config
        if self.pre_quantized:
            assert config.layers is not None
            execution = config.execution("cpu")
            prepare(model, config.layers, dtype=self._dtype, execution=execution)
        else:
            self._plan = plan(model, config.quantizer_config())
        model.config.quantization_config = config

    def maybe_update_loaded_keys(self, loaded_keys: list[str], files: Any) -> list[str]:
        """Leave out the tensor that stops loaders without this plug-in."""
        if not self.pre_quantized:
            return loaded_keys
        guard = min(self.quantization_config.layers or [""]) + ".weight"
        return [key for key in loaded_keys if key != guard]

    def check_if_quantized_param(
        self, model: Any, param_value: Any, param_name: str, state_dict: Any, **settings: Any
    ) -> bool:
        """Whether a tensor that was read shall be quantized."""
        return param_name in self._plan

    def create_quantized_param(
        self,
        model: Any,
        param_value: Any,
        param_name: str,
        target_device: Any,
        *unused: Any,
        **settings: Any,
    ) -> None:
        """Quantize a tensor that was read, and put a packed layer in its place."""
        execution = self.quantization_config.execution(target_device)
        spec = self._plan[param_name]
        pack(model, param_name, param_value, spec, dtype=self._dtype, execution=execution)
        layer = model.get_submodule(param_name.rpartition(".")[0])
        layer.weight.to(target_device)

    def _process_model_after_weight_loading(self, model: Any, **settings: Any) -> Any:
        if self.quantization_config.layers is None:
            self.quantization_config.layers = describe(model)
        return finish(model)

    @property
    def is_serializable(self) -> bool:
        """``save_pretrained`` writes the packed weights."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed weights are for inference."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The operators have fake kernels."""
        return True


def make_saveable(model: Any, execution: Execution) -> None:
    """Let ``save_pretrained`` write a model whose layers are packed already."""
    config = ArrowQuantConfig.of_model(model, execution)
    model.register_to_config(quantization_config=config)
    model.hf_quantizer = ArrowQuantizer(config, pre_quantized=True)


auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QuantMethod.ARROW_QUANT.value] = ArrowQuantConfig
auto.AUTO_QUANTIZER_MAPPING[QuantMethod.ARROW_QUANT.value] = ArrowQuantizer
