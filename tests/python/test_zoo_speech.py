"""Spoken words as spectrograms and back, the split, and the judge of words."""

from __future__ import annotations

import shutil
import wave

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zoo import mel  # noqa: E402
from zoo.speech import WORDS, Voice, load_held_out, load_speech, speak, voices  # noqa: E402
from zoo.speech_judge import load_judge  # noqa: E402


def tone(frequency: float):
    """A sine that stops after three quarters of the clip, shape [1, CLIP_SAMPLES]."""
    time = torch.arange(mel.CLIP_SAMPLES) / mel.SAMPLE_RATE
    clip = torch.sin(2 * torch.pi * frequency * time)
    clip[mel.CLIP_SAMPLES * 3 // 4 :] = 0
    return clip[None]


@pytest.mark.parametrize("frequency", [150.0, 1000.0, 5000.0])
def test_a_tone_lights_the_band_of_its_frequency_while_it_sounds(frequency: float) -> None:
    spectrogram = mel.log_mel(tone(frequency))[0]
    assert spectrogram.shape == (mel.MELS, mel.FRAMES)
    assert spectrogram.max() == 1
    assert spectrogram.min() == -1
    band = int(spectrogram[:, 20].argmax())
    response = mel.filter_bank()[:, round(frequency * mel.FFT / mel.SAMPLE_RATE)]
    assert abs(band - int(response.argmax())) <= 1
    assert (spectrogram[:, -8:] == -1).all()


@pytest.mark.parametrize("frequency", [400.0, 1000.0])
def test_the_vocoder_gives_a_tone_back(frequency: float) -> None:
    clip = mel.waveform(mel.log_mel(tone(frequency)))[0]
    spectrum = np.abs(np.fft.rfft(clip.numpy()))
    found = spectrum.argmax() * mel.SAMPLE_RATE / mel.CLIP_SAMPLES
    assert found == pytest.approx(frequency, rel=0.04)  # a mel band is about this wide
    assert float(clip.abs().max()) == pytest.approx(0.9)
    assert clip[-1500:].square().mean() < 1e-3 * clip[:7000].square().mean()


def test_words_survive_the_vocoder() -> None:
    speech = load_held_out()
    original = torch.from_numpy(speech.spectrograms[:20])
    again = mel.log_mel(mel.waveform(original))
    error_db = (again - original).abs().mean() * mel.RANGE_DB / 2
    assert error_db < 3
    words = load_judge()(again).argmax(dim=1).numpy()
    assert (words == speech.words[:20]).all()


def test_silence_is_the_floor_and_stays_silent() -> None:
    silence = mel.log_mel(torch.zeros(1, mel.CLIP_SAMPLES))
    assert (silence == -1).all()
    assert mel.waveform(silence).abs().max() < 1e-3


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected clips of shape \[n, 10240\].*\[1, 8000\]"):
        mel.log_mel(torch.zeros(1, 8000))


def test_a_wav_file_holds_what_was_saved(tmp_path) -> None:
    clip = tone(440.0)[0] * 0.5
    mel.save_wav(clip, tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (mel.SAMPLE_RATE, 1)
        samples = np.frombuffer(file.readframes(mel.CLIP_SAMPLES), "<i2") / 32767
    np.testing.assert_allclose(samples, clip.numpy(), atol=1e-4)


def test_training_and_held_out_share_no_voice() -> None:
    train, held_out = voices()
    assert len(set(train) | set(held_out)) == len(train) + len(held_out) == 624
    assert not set(train) & set(held_out)


def test_held_out_words_are_balanced_spectrograms() -> None:
    speech = load_held_out()
    assert speech.spectrograms.shape == (320, mel.MELS, mel.FRAMES)
    assert (np.bincount(speech.words) == 32).all()
    assert speech.spectrograms.min() == -1
    assert (speech.spectrograms.max(axis=(1, 2)) == 1).all()


def test_an_absent_speech_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        load_speech(tmp_path / "none.npz")


def test_the_judge_knows_unheard_voices_and_is_unsure_of_noise() -> None:
    speech = load_held_out()
    with torch.inference_mode():
        said = load_judge()(torch.from_numpy(speech.spectrograms)).softmax(dim=1)
        noise = torch.randn(200, mel.MELS, mel.FRAMES, generator=torch.Generator().manual_seed(0))
        of_noise = load_judge()(noise.clamp(-1, 1)).softmax(dim=1)
    assert (said.argmax(dim=1).numpy() == speech.words).mean() > 0.98
    assert (of_noise.amax(dim=1) > 0.9).float().mean() < 0.1


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_says_words_of_different_lengths_from_the_same_onset() -> None:
    voice = Voice("en-gb", "m3", 44, 150)
    clips = {word: speak(word, voice) for word in ("two", "seven")}
    onsets = {word: int(np.flatnonzero(clip)[0]) for word, clip in clips.items()}
    assert onsets["two"] == onsets["seven"] == 480
    assert np.count_nonzero(clips["seven"]) > np.count_nonzero(clips["two"])
    assert len(WORDS) == 10
