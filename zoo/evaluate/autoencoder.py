"""``taef2-vae`` of ``../shared/real-models``: an autoencoder, measured by what it gives back.

Its folder holds ``encoder.safetensors`` and ``decoder.safetensors``; in a quantized version each
is a file, or a folder ``encoder`` or ``decoder`` that holds the artefact made from it.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zoo.data import load_held_out
from zoo.evaluate.denoising import BATCH, sample_distances
from zoo.evaluate.subject import HeldOutLoss, Setting, Subject
from zoo.evaluate.tensors import Tensors, load_into, read_tensors
from zoo.real_models.taef2 import make_decoder, make_encoder
from zoo.sampling import save_grid

COLUMNS = 10
#: A picture is a square of this many digits a side, twice as large.
DIGITS_A_SIDE = 2
#: Colours of ink and paper.
COLOUR_SEED = 0

Pictures = npt.NDArray[np.float32]


class AutoencoderSubject(Subject):
    """Samples are pictures [n, 3, 128, 128] in 0 .. 1, encoded and decoded."""

    modality = "image"

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self._kept = lru_cache(maxsize=1)(lambda setting: self.again(coloured_digits(setting)))

    @classmethod
    def load(cls, directory: Path) -> AutoencoderSubject:
        encoder = load_into(make_encoder(), read_half(directory, "encoder"))
        return cls(encoder, load_into(make_decoder(), read_half(directory, "decoder")))

    def loss(self, setting: Setting) -> HeldOutLoss:
        pictures = coloured_digits(setting)
        errors = _square_distance(self._kept(setting), pictures.numpy())
        bins = np.zeros(len(errors), np.int64)
        return HeldOutLoss("reconstruction MSE", "", errors, bins, ("pictures",))

    def generate(self, setting: Setting) -> Pictures:
        return self.again(coloured_digits(setting)[: setting.effort.samples])

    def scores(self, samples: Pictures, setting: Setting) -> dict[str, float]:
        pictures = coloured_digits(setting)[: len(samples)].numpy()
        return {"PSNR (dB)": sample_distances(samples, pictures)["PSNR (dB)"]}

    def compare(self, reference: Any, setting: Setting) -> dict[str, float]:
        """Drift of the pictures; and the distance of latents and of pictures, each half by itself.

        Drift is the square distance of the pictures from the reference's over the reference's loss.
        """
        moved = _square_distance(self._kept(setting), reference._kept(setting)).mean()
        pictures = coloured_digits(setting)
        with torch.inference_mode():
            latents = reference.encoder(pictures)
            latent = (self.encoder(pictures) - latents).square().mean() / latents.square().mean()
            decoded = self.decoder(latents) - reference.decoder(latents)
        return {
            "drift": float(moved) / reference.loss(setting).mean,
            "latents: relative error": float(latent.sqrt()),
            "decoder: MSE": float(decoded.square().mean()),
        }

    def compare_samples(self, samples: Pictures, reference_samples: Pictures) -> dict[str, float]:
        return sample_distances(samples, reference_samples)

    def picture(self, samples: Pictures, path: Path) -> None:
        """In grey."""
        grey = samples.mean(axis=1)
        rows = np.array_split(grey, range(COLUMNS, len(grey), COLUMNS))
        save_grid(rows, path, [""] * len(rows), scale=1)

    def again(self, pictures: Tensor) -> Pictures:
        """Encode and decode."""
        with torch.inference_mode():
            parts = [self.decoder(self.encoder(p)).clamp(0, 1) for p in pictures.split(BATCH)]
        return np.asarray(torch.cat(parts).numpy())


def read_half(directory: Path, half: str) -> Tensors:
    """Read one half, float or quantized."""
    from safetensors.torch import load_file

    file, folder = directory / f"{half}.safetensors", directory / half
    if file.is_file():
        return load_file(file)
    from arrow_quant_v2 import export_safetensors

    with tempfile.TemporaryDirectory(prefix="zoo-evaluate-") as place:
        exported = export_safetensors(folder, Path(place) / "half", dtype="float32")
        return {name: tensor.clone() for name, tensor in read_tensors(exported).items()}


def coloured_digits(setting: Setting) -> Tensor:
    """Squares of held-out digits in random colours, [n, 3, 128, 128] in 0 .. 1."""
    digits = torch.from_numpy(load_held_out("mnist", setting.data)[: setting.effort.items])
    return coloured_squares(digits, COLOUR_SEED)


def coloured_squares(digits: Tensor, seed: int) -> Tensor:
    """Squares of digits [n, 1, 32, 32] in -1 .. 1, in random colours, [n / 4, 3, 128, 128]."""
    count = len(digits) // DIGITS_A_SIDE**2
    ink = (digits[: count * DIGITS_A_SIDE**2, 0] + 1) / 2
    ink = ink.view(count, DIGITS_A_SIDE, DIGITS_A_SIDE, *ink.shape[1:]).transpose(2, 3)
    side = DIGITS_A_SIDE * ink.shape[-1]
    ink = ink.reshape(count, 1, side, side)
    ink = nn.functional.interpolate(ink, scale_factor=2, mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    return ink * colours[0] + (1 - ink) * colours[1]


def _square_distance(a: Pictures, b: Pictures) -> npt.NDArray[np.float64]:
    """Of each picture, the mean over its pixels."""
    return np.asarray(np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3)))
