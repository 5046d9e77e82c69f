"""Whether a model fits into memory when it runs, told from its files. Needs no torch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from arrow_quant_v2.calibration.model_kind import CannotRunError, detect_model_kind, read_json
from arrow_quant_v2.config.settings import CALIBRATION, DiffusionQuantConfig

__all__ = ["check_memory", "free_bytes", "needed_bytes"]

_MB = 1 << 20
_FLOAT_BYTES = 4  # a model runs in float32
_STATE_BYTES = CALIBRATION.latents * 16 * _FLOAT_BYTES  # of one recorded state, at most
_LARGEST_HEADER = 100_000_000  # of a safetensors file, in bytes
#: Libraries once they are loaded: resident, and as addresses, most of which are never touched.
_LIBRARIES = {"resident": 600 * _MB, "addresses": 1500 * _MB}
#: Part of the weights that activations and copies take beside them.
_BESIDE = 0.1


def check_memory(path: Path, config: DiffusionQuantConfig) -> None:
    """Raise where the model that is about to be loaded would not fit.

    Raises
    ------
    CannotRunError
        It does not fit; the message says what is needed and what is free.
    """
    needed = needed_bytes(path, config)
    for limit, free in free_bytes().items():
        kind = "addresses" if limit == "the limit of the address space" else "resident"
        wanted = needed + (0 if "diffusers" in sys.modules else _LIBRARIES[kind])
        if wanted > free:
            raise CannotRunError(
                f"running the model takes about {_megabytes(wanted)} MB of memory, and "
                f"{_megabytes(free)} MB are free ({limit})",
                hint="Free memory or raise the limit, calibrate where there is more and pass "
                "statistics=, or set calibration_samples=0 for a data-free run.",
            )


def needed_bytes(path: Path, config: DiffusionQuantConfig) -> int:
    """Weights of everything that is loaded, in float32, and the recorded states."""
    kind = detect_model_kind(path, trust_remote_code=config.trust_remote_code)
    folder = path.absolute().parent if kind == "denoiser" else path
    weights = sum(_elements(file) for file in _weight_files(folder)) * _FLOAT_BYTES
    states = config.calibration_samples * CALIBRATION.steps_per_trajectory * _STATE_BYTES
    # States of a small model are small too.
    return int(weights * (1 + _BESIDE)) + min(states, weights)


def free_bytes() -> dict[str, int]:
    """What this process may still take, by what limits it; empty where nothing tells."""
    found: dict[str, int] = {}
    available = _proc_field("/proc/meminfo", "MemAvailable")
    if available is not None:
        found["the memory of the machine"] = available
    limit, used = _group_number("memory.max"), _group_number("memory.current")
    if limit is not None and used is not None:
        cached = _group_field("inactive_file")
        found["the limit of the control group"] = max(0, limit - used + cached)
    found |= _process_limits()
    return found


def _process_limits() -> dict[str, int]:
    """Limits of ``ulimit``, less what the process has."""
    try:
        import resource
    except ImportError:  # Windows has none
        return {}
    found = {}
    for name, field, what in (
        ("RLIMIT_AS", "VmSize", "the limit of the address space"),
        ("RLIMIT_DATA", "VmData", "the limit of the data segment"),
    ):
        soft, _ = resource.getrlimit(getattr(resource, name))
        used = _proc_field("/proc/self/status", field)
        if soft != resource.RLIM_INFINITY and used is not None:
            found[what] = max(0, soft - used)
    return found


def _weight_files(folder: Path) -> Iterator[Path]:
    """Files that the libraries load: of variants of one component, the plain one."""
    index = folder / "model_index.json"
    parts = [folder]
    if index.is_file():
        names = [name for name, kind in read_json(index).items() if isinstance(kind, list)]
        parts = [folder / name for name in names if (folder / name).is_dir()]
    for part in parts:
        files = sorted(part.glob("*.safetensors"))
        plain = [file for file in files if len(file.name.split(".")) == 2]
        yield from plain or files


def _elements(file: Path) -> int:
    """Numbers in a safetensors file."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _LARGEST_HEADER)))
        return sum(
            math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # whoever reads the file says what is wrong with it


def _proc_field(path: str, name: str) -> int | None:
    """A field in kB of a file of the kernel, in bytes."""
    try:
        with open(path, encoding="ascii") as lines:
            for line in lines:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_folder() -> Path:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("0::"):
                    return Path("/sys/fs/cgroup") / line.strip()[3:].lstrip("/")
    except OSError:
        pass
    return Path("/sys/fs/cgroup")


def _group_number(name: str) -> int | None:
    try:
        return int((_group_folder() / name).read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" is no limit
        return None


def _group_field(name: str) -> int:
    try:
        for line in (_group_folder() / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def _megabytes(size: int) -> int:
    return -(-size // _MB)
