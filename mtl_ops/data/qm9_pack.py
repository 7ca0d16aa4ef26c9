"""QM9 with coordinates, where ``qm9pack`` is installed: eleven targets in the units papers print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .cache import Say, cached, say_on_stderr
from .folders import DataError
from .packaged import QM9_PACK
from .tables import Csv, numbers
from .task import Batch

__all__ = ["QM9_TARGETS", "Conformers", "QM9Parts", "qm9_arrays", "qm9_files", "qm9_parts"]

Array = npt.NDArray[Any]

HARTREE, MEV = 27.211386246, 1000.0


class Target(NamedTuple):
    """A column of the files, what it is multiplied by, and the unit it is in afterwards.

    ``atoms`` is what H, C, N, O and F alone have, in hartree, which is subtracted: the published
    targets are energies of atomisation (atomref.txt of the data set's authors).
    """

    column: str
    factor: float
    symbol: str
    atoms: tuple[float, ...] = ()


#: The eleven targets of Nash-MTL, FAMO and FairGrad, in the order of their tables.
QM9_TARGETS = {
    "mu": Target("Dipole_debye", 1.0, "D"),
    "alpha": Target("Polarizability_bohr3", 1.0, "bohr³"),
    "homo": Target("HOMO_au", HARTREE * MEV, "meV"),
    "lumo": Target("LUMO_au", HARTREE * MEV, "meV"),
    "r2": Target("R2_bohr2", 1.0, "bohr²"),
    "zpve": Target("ZPVE_au", HARTREE * MEV, "meV"),
    "u0": Target(
        "InternalEnergy_0K_au",
        HARTREE * MEV,
        "meV",
        (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    ),
    "u": Target(
        "InternalEnergy_298K_au",
        HARTREE * MEV,
        "meV",
        (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    ),
    "h": Target(
        "Enthalphy_298K_au",
        HARTREE * MEV,
        "meV",
        (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    ),
    "g": Target(
        "GibbsFreeEnergy_298K_au",
        HARTREE * MEV,
        "meV",
        (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
    ),
    "cv": Target("Heatcapacity_Cv_cal_mol_K", 1.0, "cal/(mol K)"),
}
_NAMES = """\
XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry,Elements,XYZ_Ang,Mulliken_pop,Harmonic_Freq_cmi,\
RotA_GHz,RotB_GHz,RotC_GHz,Dipole_debye,Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,\
R2_bohr2,ZPVE_au,InternalEnergy_0K_au,InternalEnergy_298K_au,Enthalphy_298K_au,\
GibbsFreeEnergy_298K_au,Heatcapacity_Cv_cal_mol_K"""
COLUMNS = tuple(_NAMES.split(","))
FILES = ("data/qm9_part1.csv", "data/qm9_part2.csv", "data/qm9_part3.csv")
ROWS = (43_610, 43_611, 43_610)
#: The elements by the number they have in :class:`Conformers`; 0 is no atom.
ELEMENTS = {"H": 1, "C": 2, "N": 3, "O": 4, "F": 5}
#: Atoms of the largest molecule.
LARGEST = 29
#: Molecules of the test and of the validation part as published; all others are to train.
TEST, VALIDATION = 10_000, 10_000
VERSION = 1
#: Molecules after which it is said how far reading is.
PROGRESS = 25_000
_BRACKETS = str.maketrans("", "", "[]' \"")


class Conformers(NamedTuple):
    """Molecules as atoms in space, padded to 29.

    Attributes:
        atoms: ``(n, 29)`` uint8: 1 to 5 for H, C, N, O, F, and 0 where there is no atom.
        places: ``(n, 29, 3)`` float32, in ångström.
    """

    atoms: Tensor
    places: Tensor


class QM9Parts(NamedTuple):
    """Three parts, and mean and deviation of each target in its unit, ``(11,)`` float64."""

    train: Batch
    validation: Batch
    test: Batch
    mean: Tensor
    deviation: Tensor


def qm9_parts(
    seed: int = 0,
    sizes: tuple[int | None, int, int] = (None, VALIDATION, TEST),
    scales: tuple[Tensor, Tensor] | None = None,
    paths: Sequence[Path] | None = None,
    say: Say = say_on_stderr,
) -> QM9Parts:
    """QM9 split and normalised as Nash-MTL, FAMO and FairGrad have it.

    After a shuffle the first 10,000 molecules are the test part, the next 10,000 the validation
    part, and all others are to train. Each target is divided by its deviation in the train part
    (Bessel's correction included) after its mean is subtracted. Without that division (``--scale-y
    False`` of the published code) squared errors of the eleven targets lie ten orders of magnitude apart,
    and no published figure comes out: issue 5 of FAMO's repository.

    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, whose repository has the split;
    Ramakrishnan, Dral, Rupp, von Lilienfeld, "Quantum chemistry structures and properties of 134 kilo
    molecules", Scientific Data 1, 2014.

    Args:
        seed: Of the shuffle.
        sizes: Molecules of the train, validation and test part; ``None``: all that are left. Of files
            that hold fewer, each part gets as much less.
        scales: Mean and deviation to normalise by, ``(11,)``; ``None`` for those of the train part.
        paths: CSV files of that form with any number of rows; ``None`` for those of the package
            ``qm9pack``, which is not imported, and whose arrays are kept in the cache.
        say: Is told what takes long.

    Returns:
        For each part ``input``, :class:`Conformers`, and each of :data:`QM9_TARGETS`, ``(n, 1)``
        float32.

    Raises:
        DataError: If the package is not installed, or a file is missing, truncated or not of that
            form; or if there are fewer molecules than the parts want.
    """
    arrays = qm9_arrays(paths, say)
    count = len(arrays["atoms"])
    train, validation, test = _sizes(sizes, count, paths is not None)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ends = [test, test + validation, test + validation + train]
    rows = {"test": order[: ends[0]], "validation": order[ends[0] : ends[1]]}
    rows["train"] = order[ends[1] : ends[2]]
    targets = torch.from_numpy(arrays["targets"])
    if scales is None:
        deviation, mean = torch.std_mean(targets[rows["train"]], dim=0)
    else:
        mean, deviation = scales

    def part(name: str) -> Batch:
        own = rows[name]
        scaled = ((targets[own] - mean) / deviation.clamp(min=1e-12)).float()
        columns = dict(zip(QM9_TARGETS, scaled.unsqueeze(2).unbind(dim=1), strict=True))
        atoms, places = (torch.from_numpy(arrays[each])[own] for each in ("atoms", "places"))
        return {"input": Conformers(atoms, places), **columns}

    return QM9Parts(part("train"), part("validation"), part("test"), mean, deviation)


def qm9_files(folder: Path) -> list[Path]:
    """The CSV files in a folder, in their order."""
    return sorted(folder.glob("qm9_part*.csv"))


def _sizes(sizes: tuple[int | None, int, int], count: int, shrink: bool) -> tuple[int, int, int]:
    """How many molecules each part gets of those that are there."""
    train, validation, test = sizes
    whole = sum(ROWS) if train is None else train + validation + test
    if shrink and count < whole:
        share = count / whole
        validation, test = max(1, int(share * validation)), max(1, int(share * test))
        train = count - validation - test
    elif train is None:
        train = count - validation - test
    if min(train, validation, test) < 1 or train + validation + test > count:
        raise DataError(f"QM9's files hold {count} molecules, too few for parts of {sizes}.")
    return train, validation, test


def qm9_arrays(paths: Sequence[Path] | None = None, say: Say = say_on_stderr) -> dict[str, Array]:
    """All molecules: ``atoms`` (n, 29) uint8, ``places`` (n, 29, 3) float32, ``targets`` (n, 11) float64.

    Raises:
        DataError: As :func:`qm9_parts`.
    """
    if paths is not None:
        remedy = f"the form is that of {QM9_PACK.distribution}"
        return _read([Csv(path, COLUMNS, True, None, remedy) for path in paths], say)
    own = QM9_PACK.files(FILES)
    sources = [
        Csv(path, COLUMNS, True, rows, QM9_PACK.remedy)
        for path, rows in zip(own, ROWS, strict=True)
    ]
    return cached("qm9", own, VERSION, lambda say: _read(sources, say), say)


def _read(sources: Sequence[Csv], say: Say) -> dict[str, Array]:
    made: dict[str, list[Array]] = {"atoms": [], "places": [], "targets": []}
    total, said = 0, 0
    for source in sources:
        for line, texts in source.pieces():
            column = dict(zip(COLUMNS, texts, strict=True))
            atoms, places = _conformers(source, line, column)
            made["atoms"].append(atoms)
            made["places"].append(places)
            made["targets"].append(_targets(source, line, column, atoms))
            total += len(atoms)
            if total - said >= PROGRESS:
                said = total
                say(
                    f"Reading QM9: {total:,} of {sum(ROWS):,} molecules; the next time it takes a second."
                )
    return {name: np.concatenate(each) for name, each in made.items()}


def _conformers(source: Csv, line: int, column: dict[str, tuple[str, ...]]) -> tuple[Array, Array]:
    """Elements and coordinates of some rows."""
    count = len(column["Elements"])
    atoms = np.zeros((count, LARGEST), dtype=np.uint8)
    places = np.zeros((count, LARGEST, 3), dtype=np.float32)
    for row, (names, texts) in enumerate(zip(column["Elements"], column["XYZ_Ang"], strict=True)):
        elements = re.findall(r"'(\w+)'", names)
        if not 1 <= len(elements) <= LARGEST or not ELEMENTS.keys() >= set(elements):
            found = names[:40]
            raise source.error(
                line + row, f"should have 1 to {LARGEST} atoms of H, C, N, O and F, has {found}"
            )
        own = _coordinates(texts)
        if own is None or len(own) != 3 * len(elements):
            raise source.error(
                line + row,
                f"should have three finite coordinates for each of {len(elements)} atoms",
            )
        atoms[row, : len(elements)] = [ELEMENTS[name] for name in elements]
        places[row, : len(elements)] = own.reshape(-1, 3)
    return atoms, places


def _coordinates(text: str) -> Array | None:
    """All numbers in nested brackets, or nothing if one is none."""
    try:
        values = np.array(text.translate(_BRACKETS).split(","), dtype=np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _targets(source: Csv, line: int, column: dict[str, tuple[str, ...]], atoms: Array) -> Array:
    """``(n, 11)`` float64, in the units of :data:`QM9_TARGETS`."""
    counts = np.stack([(atoms == number).sum(axis=1) for number in ELEMENTS.values()], axis=1)
    found = []
    for target in QM9_TARGETS.values():
        values = numbers(source, line, target.column, column[target.column])
        if target.atoms:
            values = values - counts @ np.array(target.atoms)
        found.append(values * target.factor)
    stacked: Array = np.stack(found, axis=1)
    return stacked
