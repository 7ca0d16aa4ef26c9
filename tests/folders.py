"""Small files in the formats of the field, for the tests of what reads them."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import numpy as np


def idx(values: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: int = 20, test: int = 10, side: int = 28) -> None:
    """The four files, with random images; the labels are 0, 1, ..., 9, 0, ..."""
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, side, side))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))


def write_dense(
    folder: Path,
    labels: str = "label",
    classes: int = 13,
    count: int = 3,
    size: tuple[int, int] = (12, 16),
) -> None:
    """A folder as MTAN's authors have prepared NYUv2, or Cityscapes with ``label_7``."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("image", labels, "depth"):
            (folder / part / name).mkdir(parents=True)
        for number in range(count):
            file = f"{number}.npy"
            np.save(folder / part / "image" / file, rng.random((*size, 3)))
            np.save(folder / part / labels / file, rng.integers(-1, classes, size).astype(float))
            np.save(folder / part / "depth" / file, rng.random((*size, 1)) * 5)


def wav(samples: np.ndarray, rate: int = 8000, width: int = 2) -> bytes:
    """A wav file with one channel."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(width)
        target.setframerate(rate)
        target.writeframes((samples * 32767).astype("<i2").tobytes()[:: 3 - width])
    return file.getvalue()


def write_fsdd(folder: Path, count: int = 7, rate: int = 8000) -> None:
    """Recordings of all digits by one speaker: noise, half a second each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for digit in range(10):
        for number in range(count):
            noise = rng.uniform(-0.5, 0.5, rate // 2)
            (folder / f"{digit}_ann_{number}.wav").write_bytes(wav(noise, rate))


LINES = '"3","Wall St. rises","Stocks are up, again"\n"1","A vote","The people have voted"\n'


def write_celeba(folder: Path, count: int = 66) -> None:
    """Faces of noise with three attributes; of four, one is to validate and one to test."""
    rng = np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{place:06}.jpg" for place in range(1, count + 1)]
    marks = rng.choice([-1, 1], (count, 3))
    parts = [(0, 0, 0, 1, 0, 0, 0, 2)[place % 8] for place in range(count)]
    for name in names:
        _photograph(folder / "img_align_celeba" / name, rng)
    rows = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, marks, strict=True)]
    head = [str(count), "Bald Smiling Young"]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*head, *rows]) + "\n")
    lines = [f"{name} {part}" for name, part in zip(names, parts, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def write_office(folder: Path, inner: str = "") -> None:
    """Two domains with two classes of five photographs each; Office-31 has ``inner="images"``."""
    rng = np.random.default_rng(0)
    for domain in ("art", "photo"):
        for name in ("bike", "mug"):
            path = folder / domain / inner / name
            path.mkdir(parents=True)
            for place in range(5):
                _photograph(path / f"{place}.jpg", rng)


def _photograph(path: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    Image.fromarray(rng.integers(0, 256, (22, 18, 3), dtype=np.uint8)).save(path)
