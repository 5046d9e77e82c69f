"""Log-mel spectrograms of short clips in [-1, 1], and back to sound (Griffin-Lim)."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
HOP = 160
#: Short enough to keep plosives apart, long enough to show the harmonics of high voices.
WINDOW = 512
#: Zero-padded beyond the window: the lowest mel bands are narrower than a bin of 512 points.
FFT = 1024
MELS = 64
FRAMES = 64
LOWEST_HZ = 50.0
HIGHEST_HZ = 7600.0
#: Loudness range of a clip in decibel: its loudest point is 1, everything below the range is -1.
RANGE_DB = 70.0
CLIP_SAMPLES = FRAMES * HOP


def hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Frequency in mel (O'Shaughnessy 1987): 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inverse of :func:`hz_to_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


@cache
def filter_bank() -> Tensor:
    """Triangles equally wide in mel over the power spectrum, shape [MELS, FFT / 2 + 1]."""
    ends = hz_to_mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    corners = mel_to_hz(np.linspace(*ends, MELS + 2))
    bins = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None).astype(np.float32))


def stft(waveforms: Tensor) -> Tensor:
    """Complex spectrum of clips [n, CLIP_SAMPLES], shape [n, FFT / 2 + 1, FRAMES + 1]."""
    window = torch.hann_window(WINDOW)
    return torch.stft(
        waveforms, FFT, HOP, WINDOW, window, center=True, pad_mode="constant", return_complex=True
    )


def log_mel(waveforms: Tensor) -> Tensor:
    """Spectrograms in [-1, 1] of clips.

    Parameters
    ----------
    waveforms
        Shape [n, CLIP_SAMPLES], at SAMPLE_RATE; the loudness of a clip does not matter.

    Returns
    -------
    Tensor
        Shape [n, MELS, FRAMES], lowest band first; a silent clip is -1 everywhere.

    Raises
    ------
    ValueError
        If the clips have another length.
    """
    if waveforms.ndim != 2 or waveforms.shape[1] != CLIP_SAMPLES:
        raise ValueError(
            f"expected clips of shape [n, {CLIP_SAMPLES}] ({CLIP_SAMPLES / SAMPLE_RATE} s at "
            f"{SAMPLE_RATE} Hz), found {list(waveforms.shape)}: pad or cut them"
        )
    power = filter_bank() @ stft(waveforms)[..., :FRAMES].abs().square()
    loudest = power.amax(dim=(1, 2), keepdim=True)
    decibel = 10 * torch.log10((power / loudest.clamp_min(1e-10)).clamp_min(1e-10))
    return (1 + 2 * decibel / RANGE_DB).clamp_min(-1)


def waveform(spectrograms: Tensor, *, iterations: int = 60, seed: int = 0) -> Tensor:
    """Clips that sound like ``spectrograms``: fast Griffin-Lim (Perraudin et al. 2013).

    A mel spectrogram has neither the phases nor the fine structure of the spectrum. The power
    spectrum comes from the non-negative least squares fit (multiplicative updates, Lee and Seung
    2001) of the filter bank, phases from alternating projections that start at random ones.

    Parameters
    ----------
    spectrograms
        Shape [n, MELS, FRAMES] in [-1, 1].
    iterations
        Projections.
    seed
        Of the phases.

    Returns
    -------
    Tensor
        Shape [n, CLIP_SAMPLES], peak .9.
    """
    floor = spectrograms <= -1
    mel_power = 10 ** ((spectrograms.clamp(-1, 1) - 1) * RANGE_DB / 20)
    mel_power[floor] = 0
    bank = filter_bank()
    power = torch.ones(len(mel_power), FFT // 2 + 1, FRAMES)
    for _ in range(50):
        power *= (bank.T @ mel_power) / (bank.T @ (bank @ power)).clamp_min(1e-12)
    magnitude = torch.nn.functional.pad(power.sqrt(), (0, 1))

    generator = torch.Generator().manual_seed(seed)
    phase = torch.exp(2j * np.pi * torch.rand(magnitude.shape, generator=generator))
    window = torch.hann_window(WINDOW)
    previous = torch.zeros_like(phase)
    momentum = 0.99
    for _ in range(iterations):
        clip = torch.istft(magnitude * phase, FFT, HOP, WINDOW, window, length=CLIP_SAMPLES)
        consistent = stft(clip)
        ahead = consistent - momentum / (1 + momentum) * previous
        phase = ahead / ahead.abs().clamp_min(1e-12)
        previous = consistent
    clip = torch.istft(magnitude * phase, FFT, HOP, WINDOW, window, length=CLIP_SAMPLES)
    return 0.9 * clip / clip.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)


def save_wav(clip: Tensor, path: Path) -> None:
    """Write one clip [samples] in [-1, 1] as 16-bit mono."""
    samples = (clip.clamp(-1, 1) * 32767).round().numpy().astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
