"""Small files like those that other packages hold: a few hundred rows, with something to learn in them."""

from __future__ import annotations

import gzip
import random
import zipfile
from pathlib import Path

from mtl_ops.data.census import COLUMNS, NUMBERS
from mtl_ops.data.qm9_pack import COLUMNS as QM9_COLUMNS
from mtl_ops.data.river_tables import COUNTS, FEATURES, FLARES, KINDS, LABELS

__all__ = ["write_census", "write_flares", "write_qm9", "write_yeast"]


def census_row(source: random.Random) -> dict[str, str]:
    """A person: the old earn more and are married, those with a degree work as professionals."""
    age = source.randrange(90)
    degree = source.random() < 0.3
    row = dict.fromkeys(COLUMNS, "Not in universe")
    row |= {name: str(source.randrange(20)) for name in NUMBERS}
    row |= {
        "age": str(age),
        "education": "Masters degree(MA MS MEng MEd MSW MBA)" if degree else "10th grade",
        "occupation": "Professional specialty" if degree else source.choice(["Sales", "?"]),
        "marital status": "Never married" if age < 30 else "Divorced",
        "instance weight": "1700.09",
        "sex": source.choice(["Female", "Male"]),
        "income": "50000+." if age > 40 and degree else "- 50000.",
    }
    return row


def write_census(folder: Path, train: int = 300, test: int = 200) -> None:
    """UCI's two files."""
    source = random.Random(0)
    for name, count in (("census-income.data", train), ("census-income.test", test)):
        rows = [census_row(source).values() for _ in range(count)]
        (folder / name).write_text("".join(f"{', '.join(row)}\n" for row in rows))


def qm9_row(source: random.Random, number: int) -> list[str]:
    """A molecule whose properties are functions of its atoms."""
    elements = ["C", *source.choices("HCNOF", k=source.randint(2, 8))]
    places = [[round(1.1 * k, 3), source.random(), 0.0] for k in range(len(elements))]
    row = dict.fromkeys(QM9_COLUMNS, "0")
    carbon, others = elements.count("C"), len(elements) - elements.count("C")
    energies = (-37.8, -0.5, -54.6, -75.1, -99.7)
    total = sum(energies["CHNOF".index(element)] for element in elements) - 0.3 * len(elements)
    row |= {
        "XYZ_file": f"dsgdb9nsd_{number:06d}.xyz",
        "Elements": str(elements).replace(" ", ""),
        "XYZ_Ang": str(places).replace(" ", ""),
        **{name: f"{total + 0.01 * k:.5f}" for k, name in enumerate(QM9_COLUMNS[20:24])},
        "Dipole_debye": f"{0.5 * elements.count('O') + 0.3 * elements.count('F')}",
        "Polarizability_bohr3": f"{60 + 5 * carbon + others}",
        "HOMO_au": f"{-0.25 + 0.01 * elements.count('N')}",
        "LUMO_au": f"{0.01 * carbon}",
        "R2_bohr2": f"{100 * len(elements)}",
        "ZPVE_au": f"{0.02 * elements.count('H')}",
        "Heatcapacity_Cv_cal_mol_K": f"{3 * len(elements)}",
    }
    return [f'"{value}"' for value in row.values()]


def write_qm9(folder: Path, count: int = 300) -> None:
    """One file of the three."""
    source = random.Random(0)
    lines = [",".join(QM9_COLUMNS), *(",".join(qm9_row(source, k)) for k in range(count))]
    (folder / "qm9_part1.csv").write_text("\n".join(lines) + "\n")


def write_yeast(folder: Path, count: int = 300) -> None:
    source = random.Random(0)
    lines = [",".join((*FEATURES, *LABELS))]
    for _ in range(count):
        values = [source.gauss(0, 1) for _ in FEATURES]
        labels = [int(values[k] + 0.3 * values[k + 1] > 0) for k in range(len(LABELS))]
        lines.append(",".join([*(f"{value:.4f}" for value in values), *map(str, labels)]))
    with gzip.open(folder / "yeast.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")


def write_flares(folder: Path, count: int = 300) -> None:
    source = random.Random(0)
    lines = [",".join((*KINDS, *COUNTS, *FLARES))]
    for _ in range(count):
        kinds = [source.choice("BCDEFH") for _ in KINDS]
        values = [source.randint(1, 3) for _ in COUNTS]
        flares = [max(0, values[0] - 2), int(kinds[0] == "F"), int(values[1] == 3)]
        lines.append(",".join([*kinds, *map(str, values), *map(str, flares)]))
    with zipfile.ZipFile(folder / "solar-flare.csv.zip", "w") as archive:
        archive.writestr("solar-flare.csv", "\n".join(lines) + "\n")
