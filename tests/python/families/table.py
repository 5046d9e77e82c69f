"""What one entry of the table of builders is, and how a group of builders adds to the table."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPT = "a red cat on a hill"
STEPS = 2

#: The entries in the order in which the modules of the groups name them.
BUILDERS: dict[str, Builder] = {}

#: Entries that stand for the rest where there is no time for all of them.
REPRESENTATIVE = (
    "stable_diffusion",
    "stable_diffusion_xl",
    "stable_diffusion_3",
    "stable_diffusion_control_net",
    "flux",
    "z_image",
    "qwen_image",
    "wan_2_2",
    "ltx",
    "stable_audio",
    "ddpm",
    "bert",
    "llada",
)


@dataclass(frozen=True)
class Builder:
    """One tiny model.

    Parameters
    ----------
    name
        Name of the entry.
    kind
        Class that the folder is loaded with, or the architecture that its config.json names.
    group
        What the entry is a member of, for example "flux" or "text".
    make
        Writes the folder: folder and floating type to the folder.
    open
        Loads the folder. None: the code of the model is never there, the folder is only data.
    call
        Arguments of a call of the loaded model that makes two steps. It takes the loaded model.
    denoisers
        Names of the components that are called once per step. A text model is its own denoiser
        and has none.
    notes
        What is particular about the entry.
    needs
        Packages beyond the libraries of the models without which it cannot be built.
    prepare
        What a loaded model needs before it is called, whoever loaded it.
    sample
        Makes the two steps: model and arguments to an output.
    """

    name: str
    kind: str
    group: str
    make: Callable[[Path, torch.dtype], Path]
    open: Callable[[Path, torch.dtype], Any] | None
    call: Callable[[Any], dict[str, Any]]
    denoisers: tuple[str, ...]
    notes: str = ""
    needs: tuple[str, ...] = ()
    prepare: Callable[[Any], None] = lambda model: None
    sample: Callable[[Any, dict[str, Any]], Any] = lambda model, arguments: model(**arguments)

    def build(self, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write the model with weights of a fixed seed; returns the folder."""
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        return self.make(folder, dtype)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        """Load what :meth:`build` wrote."""
        assert self.open is not None, f"{self.name}: the code of this model is not there"
        model = self.open(folder, dtype)
        self.prepare(model)
        return model

    def run(self, model: Any) -> list[np.ndarray[Any, Any]]:
        """Two steps with a fixed seed; returns every array of numbers in the output."""
        arguments = self.call(model)
        call = model.__call__ if hasattr(type(model), "_execution_device") else model.forward
        if "generator" in inspect.signature(call).parameters:
            arguments.setdefault("generator", torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        with torch.no_grad():
            return list(arrays(self.sample(model, arguments)))


def arrays(output: Any) -> Iterator[np.ndarray[Any, Any]]:
    """All numbers of an output, whatever it nests them in."""
    if isinstance(output, torch.Tensor):
        yield output.detach().float().numpy()
    elif isinstance(output, np.ndarray):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from arrays(value)
    elif hasattr(output, "to_tuple"):
        yield from arrays(output.to_tuple())
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from arrays(value)
    elif hasattr(output, "getbands"):
        yield np.asarray(output)


def fill(parameters: Iterable[torch.Tensor], name: str) -> None:
    """Give every parameter a value of its own.

    Libraries leave some parameters zero (gates, last layers) and some without a value at all
    (padding tokens), so that a model of them would say nothing, or another thing every time.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                value = noise / max(1, parameter[0].numel()) ** 0.5
            elif bool((parameter == 1).all()):
                value = 1 + 0.1 * noise
            else:
                value = 0.02 * noise
            parameter.copy_(value.to(parameter.dtype))


def call_with(*names: str, **arguments: Any) -> Callable[[Any], dict[str, Any]]:
    """The arguments of a call; a function among them is called with the pipeline.

    ``names`` are left out of the defaults: a prompt, two steps, and numbers as output.
    """
    defaults = {"prompt": PROMPT, "num_inference_steps": STEPS, "output_type": "np"}

    def call(pipeline: Any) -> dict[str, Any]:
        wanted = {k: v for k, v in defaults.items() if k not in names} | arguments
        return {k: v(pipeline) if inspect.isfunction(v) else v for k, v in wanted.items()}

    return call


def pipeline(
    kind: str,
    group: str,
    *names: str,
    denoisers: Iterable[str] = ("transformer",),
    notes: str = "",
    needs: Iterable[str] = (),
    prepare: Callable[[Any], None] = lambda model: None,
    after: Callable[[Path, dict[str, Any]], None] | None = None,
    passed: Callable[[Path], dict[str, Any]] = lambda folder: {},
    **arguments: Any,
) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Add a pipeline of diffusers to the table; the function below it gives the components.

    ``names`` and ``arguments`` are those of :func:`call_with`; ``prepare`` is called with the
    loaded pipeline, ``after`` with the written folder and the components, and ``passed`` gives
    components that loading does not find by itself.
    """

    def add(components: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        def make(folder: Path, dtype: torch.dtype) -> Path:
            import diffusers

            parts = components()
            for name, part in parts.items():
                if isinstance(part, torch.nn.Module):
                    fill(part.eval().parameters(), name)
                    part.to(dtype)
            getattr(diffusers, kind)(**parts).save_pretrained(folder)
            if after is not None:
                after(folder, parts)
            return folder

        def load(folder: Path, dtype: torch.dtype) -> Any:
            import diffusers

            return diffusers.DiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, **passed(folder)
            )

        def quietly(model: Any) -> None:
            model.set_progress_bar_config(disable=True)
            prepare(model)

        name = components.__name__
        assert name not in BUILDERS, name
        BUILDERS[name] = Builder(
            name,
            kind,
            group,
            make,
            load,
            call_with(*names, **arguments),
            tuple(denoisers),
            notes,
            tuple(needs),
            quietly,
        )
        return components

    return add
