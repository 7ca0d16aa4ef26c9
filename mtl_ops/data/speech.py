"""Spoken digits: by espeak-ng, by a synthesiser of our own, or recordings from a folder."""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .digits import Split
from .folders import DataError, check_regular
from .synthesiser import RATE, WORDS, say
from .task import Batch, Goal, pair, ratio, unless_nan

__all__ = [
    "LETTERS",
    "Transcript",
    "edit_distance",
    "fsdd",
    "mfcc",
    "spoken_digits",
    "voice_in_use",
]

Array = npt.NDArray[np.float64]
#: A recording: samples in [-1, 1], samples a second, the digit.
Recording = tuple[Array, int, int]

#: What words are written with; 0 is CTC's blank, so the first letter is 1.
LETTERS = "".join(sorted(set("".join(WORDS))))
DIGITS = list(WORDS)
COEFFICIENTS = 13
#: Seconds of a window, and from one to the next.
WINDOW, HOP = 0.032, 0.016
#: Bytes of a file that is read, seconds of a recording, and the rates, whose half the highest band
#: of frequencies needs: one long recording would make all others as long.
BYTES, LONGEST, RATES = 2**24, 20, (8_000, 192_000)
#: Where people get the recordings.
FSDD_SOURCE = "github.com/Jakobovski/free-spoken-digit-dataset"


@dataclass(frozen=True)
class Transcript(Goal):
    """A text for a sequence of frames: connectionist temporal classification.

    The output is a pair, log-probabilities ``(B, frames, letters + 1)`` and the numbers of frames
    ``(B,)``; the target is a pair, letters ``(B, length)`` from 1 and the lengths ``(B,)``. Judged by
    the edit distance between the best path and the text, over the letters of the text.

    Graves, Fernández, Gomez, Schmidhuber, "Connectionist Temporal Classification: Labelling
    Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006.

    Example:
        >>> import torch
        >>> path = torch.tensor([[1, 1, 0, 2]])
        >>> output = torch.nn.functional.one_hot(path, 4).float().log_softmax(-1), torch.tensor([4])
        >>> Transcript("speech").score(output, (torch.tensor([[1, 3]]), torch.tensor([2])))
        tensor(0.5000)
    """

    name: str
    metric: ClassVar[str] = "char. error"
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = True

    def loss(self, output: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Mean over the batch of ``-log p(text) / length``."""
        (frames, counts), (letters, lengths) = output, target
        return functional.ctc_loss(
            frames.transpose(0, 1), letters, counts, lengths, zero_infinity=True
        )

    def tally(self, output: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Edits and letters: ``(2,)`` float64."""
        best, counts = output[0].argmax(dim=-1).tolist(), output[1].tolist()
        texts, lengths = target[0].tolist(), target[1].tolist()
        edits = sum(
            edit_distance(_collapse(path[:count]), text[:length])
            for path, count, text, length in zip(best, counts, texts, lengths, strict=True)
        )
        return unless_nan(pair(torch.tensor(edits), sum(lengths)), output[0].cpu())

    def figure(self, tally: Tensor) -> Tensor:
        """The character error rate."""
        return ratio(tally).float()


def edit_distance(one: Sequence[int], two: Sequence[int]) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein 1966).

    Example:
        >>> edit_distance([1, 2, 3], [2, 3, 4])
        2
    """
    row = list(range(len(two) + 1))
    for place, left in enumerate(one, start=1):
        before, row[0] = row[0], place
        for column, right in enumerate(two, start=1):
            kept = before + (left != right)
            before, row[column] = row[column], min(kept, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def spoken_digits(train: int, test: int, seed: int = 0, *, voice: str = "auto") -> Split:
    """Spoken digits and how they are written.

    Args:
        train: Recordings in the train part; each has a voice of its own.
        test: Recordings in the test part.
        seed: Decides the voices.
        voice: ``"espeak-ng"``, ``"synthesiser"`` (``mtl_ops.data.synthesiser``), or ``"auto"``:
            the former where it is installed.

    Returns:
        For each part ``input``, a pair of MFCC ``(n, frames, 13)`` float32 and numbers of frames
        ``(n,)``, and ``speech``, a pair of letters ``(n, 5)`` (numbers in ``LETTERS`` from 1)
        and lengths ``(n,)``.

    Raises:
        ImportError: If librosa is not installed.
        ValueError: If a number is not positive, or there is no such voice.
        DataError: If espeak-ng fails.
    """
    for name, value in (("train", train), ("test", test)):
        if value < 1:
            raise ValueError(f"Parameter `{name}` should be positive. Found `{name} = {value}`.")
    if voice not in ("auto", "espeak-ng", "synthesiser"):
        raise ValueError(
            "Parameter `voice` should be 'auto', 'espeak-ng' or 'synthesiser'. "
            f"Found `voice = {voice!r}`."
        )
    program = None if voice == "synthesiser" else shutil.which("espeak-ng")
    if voice == "espeak-ng" and program is None:
        raise DataError("Program espeak-ng is not installed; use the synthesiser.")
    rng = np.random.default_rng(seed)
    recordings: list[Recording] = []
    for place in range(train + test):
        digit = place % 10
        if program is None:
            recordings.append((say(DIGITS[digit], rng), RATE, digit))
        else:
            recordings.append((*_espeak(program, DIGITS[digit], rng), digit))
    return _split(recordings[:train], recordings[train:])


def voice_in_use() -> str:
    """Who says the digits on this machine, in words.

    Example:
        >>> voice_in_use() in ("espeak-ng", "the formant synthesiser of this package")
        True
    """
    found = shutil.which("espeak-ng")
    return "espeak-ng" if found else "the formant synthesiser of this package"


def fsdd(folder: Path, limit: int | None = None) -> Split:
    """The Free Spoken Digit Dataset, wav files ``<digit>_<speaker>_<number>.wav``.

    Numbers 0 to 4 of each digit and speaker are the test part, as its authors say.
    Jackson et al., "Free Spoken Digit Dataset", Zenodo, 2018.

    Args:
        folder: With the files, or with a folder ``recordings`` that holds them.
        limit: Recordings of each part; ``None`` for all.

    Returns:
        As :func:`spoken_digits`.

    Raises:
        ImportError: If librosa is not installed.
        DataError: If there are no such files in one of the parts, or one is broken.
    """
    inner = folder / "recordings"
    parts: dict[bool, list[Path]] = {False: [], True: []}
    for path in sorted((inner if inner.is_dir() else folder).glob("*.wav")):
        found = re.fullmatch(r"(\d)_(\w+)_(\d+)\.wav", path.name)
        if found:
            parts[int(found[3]) < 5].append(path)
    if not all(parts.values()):
        raise DataError(
            f"Folder {folder} lacks wav files <digit>_<speaker>_<number>.wav, with numbers from 0 to "
            f"4 to test and others to train; get them from {FSDD_SOURCE}."
        )
    # Every digit and speaker, also if only some are wanted.
    for paths in parts.values():
        paths.sort(key=lambda path: (int(path.stem.split("_")[2]), path.name))
    train, test = ([_read(path) for path in parts[key][:limit]] for key in (False, True))
    return _split(train, test)


def mfcc(samples: Array, rate: int) -> Tensor:
    """Mel-frequency cepstral coefficients by librosa, ``(frames, 13)`` float32, standardised.

    Davis, Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word
    Recognition", IEEE TASSP 1980.

    Args:
        samples: ``(n,)`` in [-1, 1].
        rate: Samples a second.

    Raises:
        ImportError: If librosa is not installed.
    """
    try:
        from librosa.feature import mfcc as coefficients
    except ImportError as error:
        raise ImportError(
            'Speech needs librosa for its MFCC. Install it with `pip install "mtl-ops[speech]"`.'
        ) from error
    window = int(WINDOW * rate)
    # A word that is shorter than a window is followed by silence.
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    values = coefficients(
        y=padded.astype(np.float32),
        sr=rate,
        n_mfcc=COEFFICIENTS,
        n_mels=26,
        n_fft=window,
        hop_length=int(HOP * rate),
        fmax=4000,
    )
    frames = torch.as_tensor(values.T.copy(), dtype=torch.float32)
    return (frames - frames.mean(dim=0)) / frames.std(dim=0, correction=0).clamp(min=1e-3)


def _split(train: Sequence[Recording], test: Sequence[Recording]) -> Split:
    return Split(_batch(train), _batch(test))


def _batch(recordings: Sequence[Recording]) -> Batch:
    frames = [mfcc(samples, rate) for samples, rate, _ in recordings]
    texts = [
        torch.tensor([LETTERS.index(letter) + 1 for letter in DIGITS[digit]])
        for *_, digit in recordings
    ]
    return {"input": _padded(frames), "speech": _padded(texts)}


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths with zeros at the end, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def _collapse(path: Sequence[int]) -> list[int]:
    """A path without repetitions, then without blanks."""
    return [
        now for before, now in zip([0, *path[:-1]], path, strict=True) if now not in (0, before)
    ]


def _espeak(program: str, word: str, rng: np.random.Generator) -> tuple[Array, int]:
    """A word spoken by espeak-ng, at a speed, a pitch and in a voice drawn at random."""
    speed, pitch = int(rng.integers(120, 200)), int(rng.integers(20, 80))
    voice = f"en+{rng.choice(['m1', 'm3', 'm5', 'm7', 'f1', 'f2', 'f4'])}"
    try:
        done = subprocess.run(
            [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word],
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise DataError(f"Program {program} cannot be run: {error.strerror or error}.") from None
    if done.returncode:
        raise DataError(f"Program {program} failed: {done.stderr.decode(errors='replace').strip()}")
    return _samples(done.stdout, f"Output of {program}")


def _read(path: Path) -> Recording:
    check_regular(path, BYTES)
    samples, rate = _samples(path.read_bytes(), f"File {path}")
    return samples, rate, int(path.name[0])


def _samples(data: bytes, what: str) -> tuple[Array, int]:
    """The samples of a wav file of 16 bits, its channels averaged."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
            # What comes through a pipe does not know its length and says the largest.
            whole = len(raw) == width * channels * file.getnframes() or what.startswith("Output")
    except (wave.Error, EOFError, RuntimeError, ArithmeticError, ValueError, struct.error):
        raise DataError(f"{what} is truncated, or no wav file.") from None
    if width != 2:
        raise DataError(f"{what} should have 16 bits a sample and has {8 * width}.")
    if not whole or len(raw) < 2 * channels:
        raise DataError(f"{what} is truncated.")
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(
            f"{what} should have {RATES[0]} to {RATES[1]} samples a second and has {rate}."
        )
    if len(raw) > 2 * channels * rate * LONGEST:
        raise DataError(f"{what} should be a word and is longer than {LONGEST} seconds.")
    values: Any = np.frombuffer(raw[: len(raw) // (2 * channels) * 2 * channels], dtype="<i2")
    return values.reshape(-1, channels).mean(axis=1) / 32768, rate
