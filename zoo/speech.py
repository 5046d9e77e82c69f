"""Spoken digits: log-mel spectrograms of words that espeak-ng says in many voices.

Training needs the ``espeak-ng`` program (Debian package of that name). The held-out spectrograms
are in the repository, so evaluation does not; ``python -m zoo.speech`` wrote them.
"""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from zoo.mel import CLIP_SAMPLES, SAMPLE_RATE, log_mel

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-gb", "en-us")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
PITCHES = (20, 32, 44, 56, 68, 80)
#: Words per minute.
SPEEDS = (130, 150, 170, 195)
#: Voices (accent, variant, pitch and speed) that training never hears, of 624.
HELD_OUT_VOICES = 32
SPLIT_SEED = 0
#: Where training keeps what it can make again, unless told otherwise.
WORK_DIR = Path(__file__).parents[1] / "build" / "zoo-audio"
HELD_OUT_FILE = Path(__file__).parent / "held_out" / "spoken-digits.npz"
#: Silence before the word, seconds; the word begins where it first exceeds this part of its peak.
LEAD_IN = 0.03
ONSET = 0.01

Spectrograms = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """How espeak-ng speaks."""

    accent: str
    variant: str
    pitch: int
    speed: int


@dataclass(frozen=True)
class SpeechSet:
    """Spectrograms in [-1, 1], shape [n, MELS, FRAMES], and the word of each, shape [n]."""

    spectrograms: Spectrograms
    words: npt.NDArray[np.int64]


def voices() -> tuple[list[Voice], list[Voice]]:
    """Training voices and held-out voices; they share none."""
    every = [Voice(*v) for v in itertools.product(ACCENTS, VARIANTS, PITCHES, SPEEDS)]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(every))
    shuffled = [every[i] for i in order]
    return shuffled[:-HELD_OUT_VOICES], shuffled[-HELD_OUT_VOICES:]


def speak(word: str, voice: Voice) -> npt.NDArray[np.float32]:
    """One word as a clip of CLIP_SAMPLES at SAMPLE_RATE, starting after LEAD_IN, cut at the end.

    Raises
    ------
    FileNotFoundError
        If espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("espeak-ng: not found. Install it: apt-get install espeak-ng")
    name = f"{voice.accent}+{voice.variant}"
    options = ["-z", "-v", name, "-p", str(voice.pitch), "-s", str(voice.speed), "--stdout", word]
    spoken = subprocess.run([program, *options], check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        rate = file.getframerate()
        # The header of a stream does not know the length: read all that came.
        samples = np.frombuffer(file.readframes(len(spoken)), "<i2").astype(np.float32)
    # Band-limited resampling: cut the spectrum at the new rate.
    count = round(len(samples) * SAMPLE_RATE / rate)
    resampled = np.fft.irfft(np.fft.rfft(samples)[: count // 2 + 1], count)
    start = int(np.argmax(np.abs(resampled) > ONSET * np.abs(resampled).max()))
    clip = np.zeros(CLIP_SAMPLES, np.float32)
    lead_in = int(LEAD_IN * SAMPLE_RATE)
    word_only = resampled[start : start + CLIP_SAMPLES - lead_in]
    clip[lead_in : lead_in + len(word_only)] = word_only
    return clip


def speak_all(speakers: list[Voice]) -> SpeechSet:
    """Every word by every voice: about 30 ms each."""
    pairs = [(v, i) for v in speakers for i in range(len(WORDS))]
    clips = torch.from_numpy(np.stack([speak(WORDS[i], voice) for voice, i in pairs]))
    spectrograms = torch.cat([log_mel(part) for part in clips.split(500)])
    return SpeechSet(spectrograms.numpy(), np.array([i for _, i in pairs]))


def save_speech(speech: SpeechSet, path: Path) -> None:
    """Write the spectrograms in 8 bits."""
    pixels = np.round((speech.spectrograms + 1) * 127.5).astype(np.uint8)
    np.savez_compressed(path, spectrograms=pixels, words=speech.words.astype(np.uint8))


def load_speech(path: Path) -> SpeechSet:
    """Read what :func:`save_speech` wrote.

    Raises
    ------
    FileNotFoundError
        If the file is absent.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with np.load(path) as stored:
        pixels, words = stored["spectrograms"], stored["words"]
    return SpeechSet(pixels.astype(np.float32) / 127.5 - 1, words.astype(np.int64))


def load_training(work: Path = WORK_DIR) -> SpeechSet:
    """Every word by the training voices, in 8 bits; spoken once, then kept in ``work``."""
    stored = work / "training_speech.npz"
    if not stored.is_file():
        work.mkdir(parents=True, exist_ok=True)
        save_speech(speak_all(voices()[0]), stored)
    return load_speech(stored)


def load_held_out() -> SpeechSet:
    """Words by voices that training never heard, words and voices in random order."""
    return load_speech(HELD_OUT_FILE)


def write_held_out() -> Path:
    """Speak the held-out words and write them into the repository."""
    speech = speak_all(voices()[1])
    order = np.random.default_rng(SPLIT_SEED).permutation(len(speech.words))
    save_speech(SpeechSet(speech.spectrograms[order], speech.words[order]), HELD_OUT_FILE)
    return HELD_OUT_FILE


if __name__ == "__main__":
    print(write_held_out())
