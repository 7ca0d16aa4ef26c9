"""Photographs from a folder: CelebA with its attributes, Office-31 and Office-Home with their domains."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .digits import Split
from .folders import DataError, require

__all__ = ["celeba", "celeba_attributes", "office", "office_domains"]

#: Where people get the files.
CELEBA_SOURCE = "mmlab.ie.cuhk.edu.hk/projects/CelebA.html (aligned images and annotations)"
OFFICE_SOURCE = "the Office-31 or the Office-Home (hemanthdv.org) data set"
#: Pixels in a row and in a column, after the middle square of a photograph was made smaller.
SIDE = 64
#: Photographs of each part of CelebA that are used, of 162,770 and 19,962.
CELEBA_COUNTS = (10_000, 2_000)
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
KINDS = (".jpg", ".jpeg", ".png")


def celeba_attributes(folder: Path) -> list[str]:
    """Names of the attributes, in the order of the file.

    Raises:
        DataError: If the file is missing, or has no such line.
    """
    (path,) = require(folder, [ATTRIBUTES], CELEBA_SOURCE)
    lines = _lines(path)
    if len(lines) < 3 or not lines[0].strip().isdigit() or len(lines[1].split()) < 2:
        raise DataError(f"File {path} should begin with a number and the names of attributes.")
    return lines[1].split()


def celeba(folder: Path, counts: tuple[int, int] = CELEBA_COUNTS) -> Split:
    """Faces, and which of the attributes each has.

    Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Args:
        folder: With ``img_align_celeba``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``.
        counts: The first so many photographs to train (part 0) and to test (part 2).

    Returns:
        ``input`` ``(n, 3, 64, 64)`` float32 in [0, 1], and for each attribute ``(n,)`` float, 0 or 1.

    Raises:
        DataError: If a file is missing or broken.
    """
    names = celeba_attributes(folder)
    paths = require(folder, [ATTRIBUTES, PARTITION], CELEBA_SOURCE)
    values: dict[str, list[float]] = {}
    for number, line in enumerate(_lines(paths[0])[2:], start=3):
        name, *marks = line.split()
        if len(marks) != len(names) or set(marks) - {"-1", "1"}:
            raise DataError(
                f"File {paths[0]} should hold a name and {len(names)} times -1 or 1 in each line, "
                f"and does not in line {number}."
            )
        values[name] = [float(mark == "1") for mark in marks]
    chosen: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for number, line in enumerate(_lines(paths[1]), start=1):
        parts = line.split()
        if len(parts) != 2 or parts[1] not in chosen or parts[0] not in values:
            raise DataError(
                f"File {paths[1]} should hold the name of a photograph and 0, 1 or 2 in each line, "
                f"and does not in line {number}."
            )
        chosen[parts[1]].append(parts[0])
    result = []
    for part, count in zip(("0", "2"), counts, strict=True):
        files = chosen[part][:count]
        if not files:
            raise DataError(f"File {paths[1]} names no photograph of part {part}.")
        images = torch.stack([_picture(folder / "img_align_celeba" / name) for name in files])
        marks_of = torch.tensor([values[name] for name in files])
        columns = dict(zip(names, marks_of.unbind(dim=1), strict=True))
        result.append({"input": images, **columns})
    return Split(*result)


def office_domains(folder: Path) -> dict[str, Path]:
    """The folder of each domain's classes; Office-31 has a folder ``images`` in between.

    Raises:
        DataError: If there are less than two domains.
    """
    domains = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        inner = path / "images" if (path / "images").is_dir() else path
        if any(_pictures(each) for each in _folders(inner)):
            domains[path.name] = inner
    if len(domains) < 2:
        raise DataError(
            f"Folder {folder} lacks photographs <domain>/<class>/<name>.jpg, or "
            f"<domain>/images/<class>/<name>.jpg, of two domains; get {OFFICE_SOURCE}."
        )
    return domains


def office(folder: Path, seed: int = 0, limit: int | None = None) -> tuple[Split, list[str]]:
    """The same classes in photographs of several domains, a task each; a fifth of each class to test.

    Saenko, Kulis, Fritz, Darrell, "Adapting Visual Category Models to New Domains", ECCV 2010;
    Venkateswara, Eusebio, Chakraborty, Panchanathan, "Deep Hashing Network for Unsupervised Domain
    Adaptation", CVPR 2017.

    Args:
        folder: With a folder for each domain.
        seed: Decides the parts.
        limit: Photographs of a class in a domain; ``None`` for all.

    Returns:
        For each part and domain ``input`` ``(n, 3, 64, 64)`` float32 in [0, 1] and, under the domain's
        name, the class ``(n,)`` int64; and the names of the classes.

    Raises:
        DataError: If files are missing or broken.
    """
    domains = office_domains(folder)
    classes = sorted({each.name for path in domains.values() for each in _folders(path)})
    source = random.Random(seed)
    parts: tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]] = ({}, {})
    for domain, path in domains.items():
        rows: tuple[list[tuple[Path, int]], list[tuple[Path, int]]] = ([], [])
        for label, name in enumerate(classes):
            files = _pictures(path / name)
            source.shuffle(files)
            files = files[:limit]
            for place, file in enumerate(files):
                rows[int(place < len(files) / 5 and len(files) > 1)].append((file, label))
        for part, chosen in zip(parts, rows, strict=True):
            if not chosen:
                raise DataError(f"Folder {path} should hold two photographs of a class at least.")
            part[domain] = {
                "input": torch.stack([_picture(file) for file, _ in chosen]),
                domain: torch.tensor([label for _, label in chosen]),
            }
    return Split(*parts), classes


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.suffix.lower() in KINDS)


def _lines(path: Path) -> Sequence[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"File {path} is no text file.") from None


def _picture(path: Path) -> Tensor:
    """The middle square of a photograph, ``(3, 64, 64)`` float32."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'Photographs are read by Pillow. Install it with `pip install "mtl-ops[demo]"`.'
        ) from error
    try:
        with Image.open(path) as file:
            side = min(file.size)
            left, top = ((length - side) // 2 for length in file.size)
            square = file.convert("RGB").crop((left, top, left + side, top + side))
            pixels = np.asarray(square.resize((SIDE, SIDE)), dtype=np.float32) / 255
    except FileNotFoundError:
        raise DataError(f"File {path} is missing.") from None
    except (OSError, SyntaxError, ValueError):
        raise DataError(f"File {path} is truncated, or no picture.") from None
    return torch.as_tensor(pixels).movedim(2, 0).contiguous()
