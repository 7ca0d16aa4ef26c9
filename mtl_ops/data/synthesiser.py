"""A small formant synthesiser that says the ten digits, for machines without espeak-ng."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RATE", "WORDS", "say"]

Array = npt.NDArray[np.float64]

#: Samples a second.
RATE = 8000
#: The ten digits as they are written, and as they are spoken.
WORDS = {
    "zero": "Z IH R AO UW",
    "one": "W AH N",
    "two": "T UW",
    "three": "TH R IY",
    "four": "F AO R",
    "five": "F AA IH V",
    "six": "S IH K S",
    "seven": "S EH V AH N",
    "eight": "EH IH T",
    "nine": "N AA IH N",
}
#: Three formants in Hz, loudness of the voice, of the noise, centre of the noise in Hz, seconds.
#: Vowels: Peterson and Barney, "Control Methods Used in a Study of the Vowels", JASA 1952 (men).
SOUNDS: dict[str, tuple[float, ...]] = {
    "IY": (270, 2290, 3010, 1.0, 0.0, 0, 0.14),
    "IH": (390, 1990, 2550, 1.0, 0.0, 0, 0.10),
    "EH": (530, 1840, 2480, 1.0, 0.0, 0, 0.12),
    "AA": (730, 1090, 2440, 1.0, 0.0, 0, 0.12),
    "AO": (570, 840, 2410, 1.0, 0.0, 0, 0.14),
    "UW": (300, 870, 2240, 1.0, 0.0, 0, 0.13),
    "AH": (640, 1190, 2390, 1.0, 0.0, 0, 0.10),
    "R": (310, 1060, 1380, 0.7, 0.0, 0, 0.08),
    "W": (290, 610, 2150, 0.6, 0.0, 0, 0.08),
    "N": (270, 1340, 2200, 0.4, 0.0, 0, 0.09),
    "V": (220, 1100, 2080, 0.3, 0.1, 2500, 0.07),
    "Z": (240, 1390, 2530, 0.3, 0.3, 3600, 0.09),
    "F": (220, 1100, 2080, 0.0, 0.2, 2500, 0.10),
    "TH": (220, 1100, 2080, 0.0, 0.2, 1800, 0.10),
    "S": (240, 1390, 2530, 0.0, 0.6, 3600, 0.11),
    "T": (300, 1700, 2600, 0.0, 0.5, 3000, 0.04),
    "K": (300, 1700, 2600, 0.0, 0.5, 1700, 0.04),
}
#: Sounds that a silence precedes, and its seconds.
STOPS, SILENCE = ("T", "K"), 0.04
#: Width of a formant, of a band of noise, and of the glide between sounds in seconds.
BAND, NOISE_BAND, GLIDE = 90.0, 700.0, 0.03


def say(word: str, rng: np.random.Generator) -> Array:
    """Speak a digit in a voice of its own.

    Harmonics of a falling pitch, each as loud as the resonances (1 / (1 + ((f - F)/90 Hz)²), summed
    over three formants) make it, and noise around a frequency, glide from sound to sound. Pitch
    (90 to 220 Hz), the size of the vocal tract (formants ±12 %), speed (±20 %), loudness and the
    background noise are drawn at random. It is a stand-in for recordings: clean, and far easier.

    Args:
        word: One of the ten digits, such as ``"seven"``.
        rng: Where the voice and the noise are drawn from.

    Returns:
        ``(samples,)`` float64 at 8 kHz, at most 1 in absolute value.

    Raises:
        ValueError: If the word is not a digit.

    Example:
        >>> import numpy as np
        >>> wave = say("seven", np.random.default_rng(0))
        >>> 2000 < len(wave) < 8000
        True
    """
    if word not in WORDS:
        raise ValueError(
            f"Parameter `word` should be one of {list(WORDS)}. Found `word = {word!r}`."
        )
    pitch, tract = rng.uniform(90, 220), rng.uniform(0.88, 1.12)
    pace = rng.uniform(0.8, 1.2)
    track = _track(word, pace)
    formants, voice, hiss, centre = tract * track[:3], track[3], track[4], track[5]
    time = np.arange(track.shape[1]) / RATE
    f0 = pitch * (1.05 - 0.15 * time / time[-1])
    wave = voice * _voiced(f0, formants) + hiss * _noise(centre, rng)
    wave *= rng.uniform(0.3, 0.9) / np.abs(wave).max()
    return np.asarray(np.clip(wave + 0.005 * rng.standard_normal(len(wave)), -1, 1))


def _track(word: str, pace: float) -> Array:
    """``(6, samples)``: the six figures of the sounds over time."""
    pieces: list[Any] = []
    for name in WORDS[word].split():
        sound = np.array(SOUNDS[name])
        if name in STOPS:
            silent = np.where(np.arange(6) < 3, sound[:6], 0.0)
            pieces.append(np.repeat(silent[:, None], int(SILENCE * pace * RATE), axis=1))
        pieces.append(np.repeat(sound[:6, None], int(sound[6] * pace * RATE), axis=1))
    track = np.concatenate(pieces, axis=1)
    window = np.hanning(int(GLIDE * RATE) | 1)
    window /= window.sum()
    padded = np.pad(track, ((0, 0), (len(window) // 2,) * 2), mode="edge")
    return np.stack([np.convolve(row, window, mode="valid") for row in padded])


def _voiced(f0: Array, formants: Array) -> Array:
    """The sum of the harmonics below half the sampling rate."""
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    wave = np.zeros_like(f0)
    for number in range(1, int(RATE / 2 / f0.max())):
        frequency = number * f0
        loudness = (1 / (1 + ((frequency - formants) / BAND) ** 2)).sum(axis=0)
        wave += loudness / np.sqrt(number) * np.sin(number * phase)
    return wave


def _noise(centre: Array, rng: np.random.Generator) -> Array:
    """Noise whose band is around ``centre`` at each time: a carrier, modulated by slow noise."""
    smooth = np.hanning(int(RATE / NOISE_BAND) | 1)
    smooth /= np.sqrt((smooth**2).sum())
    real, imaginary = (
        np.convolve(rng.standard_normal(len(centre)), smooth, mode="same") for _ in range(2)
    )
    phase = 2 * np.pi * np.cumsum(np.minimum(centre, 0.48 * RATE)) / RATE
    return np.asarray(real * np.cos(phase) - imaginary * np.sin(phase))
