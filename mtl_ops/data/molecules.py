"""Graphs like molecules by a stated generator, and QM9 where torch-geometric is installed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .digits import Split
from .folders import DataError
from .task import Batch

__all__ = ["MOLECULE_TARGETS", "Graphs", "is_qm9", "molecules", "qm9"]

#: What is to be predicted of a molecule.
MOLECULE_TARGETS = ("dipole", "polarizability", "gap", "energy")
#: Valence, electronegativity (Pauling), bond energy with itself in eV, size; QM9's atoms but H.
ATOMS = {
    "C": (4, 2.55, 3.6, 1.76),
    "N": (3, 3.04, 1.7, 1.10),
    "O": (2, 3.44, 1.5, 0.80),
    "F": (1, 3.98, 1.6, 0.56),
}
#: How often each is drawn.
SHARES = (0.6, 0.15, 0.15, 0.1)
#: Atoms of a molecule, and ring closures and double bonds that are tried.
SMALLEST, LARGEST, TRIES = 5, 12, 3
#: Columns of QM9's targets, in the order of MOLECULE_TARGETS: mu, alpha, gap, U0.
QM9_COLUMNS = (0, 1, 4, 7)
QM9_ATOMS = (1, 6, 7, 8, 9)
#: Atoms of a molecule that are read; QM9's have up to 29. Memory grows with the square.
QM9_LARGEST = 64
#: Molecules of QM9 that are used, of 130,831.
QM9_COUNT = 10_000
QM9_SOURCE = "torch_geometric.datasets.QM9, which downloads and processes them"


class Graphs(NamedTuple):
    """Many small graphs, padded to the size of the largest.

    Attributes:
        atoms: ``(n, A, kinds)`` float32, one-hot; zeros where there is no atom.
        bonds: ``(n, A, A)`` float32, the order of the bond between two atoms, or 0; symmetric.
    """

    atoms: Tensor
    bonds: Tensor


def molecules(train: int, test: int, seed: int = 0) -> Split:
    """Draw connected graphs that respect valences, and compute four properties of each.

    Five to twelve atoms of C, N, O, F; each but the first is bound to an earlier one with a free
    valence, drawn at random; then three pairs with free valences are drawn, and get a bond (a ring)
    or a bond more. With χ the electronegativity, E the energy of a bond with itself, a the size of
    an atom and b the order of a bond:

    * ``energy = -Σ_bonds b (sqrt(E_i E_j) + (χ_i - χ_j)²)``, after Pauling,
    * ``gap``: of Hückel's matrix ``H_ii = -χ_i, H_ij = -b_ij``, the level above the middle minus that
      below,
    * ``dipole = sqrt(Σ_i q_i²)`` with ``q_i = Σ_j b_ij (χ_i - χ_j)``,
    * ``polarizability = Σ_i a_i (1 + 0.2 p_i)`` with p_i the bonds of i beyond single ones.

    These are rules of thumb that a network can learn from the graph, and no chemistry.

    Args:
        train: Graphs in the train part.
        test: Graphs in the test part.
        seed: Decides all of them.

    Returns:
        For each part ``input``, ``Graphs``, and each of ``MOLECULE_TARGETS`` ``(n, 1)``
        float32, with mean 0 and variance 1 in the train part.

    Raises:
        ValueError: If a number is less than 2.

    Example:
        >>> train, test = molecules(30, 10)
        >>> train["input"].atoms.shape, test["energy"].shape
        (torch.Size([30, 12, 4]), torch.Size([10, 1]))
    """
    for name, value in (("train", train), ("test", test)):
        if value < 2:
            raise ValueError(f"Parameter `{name}` should be at least 2. Found `{name} = {value}`.")
    source = random.Random(seed)
    kinds = torch.full((train + test, LARGEST), -1)
    bonds = torch.zeros(train + test, LARGEST, LARGEST)
    for row in range(train + test):
        atoms, pairs = _draw(source)
        kinds[row, : len(atoms)] = torch.tensor(atoms)
        for (one, two), order in pairs.items():
            bonds[row, one, two] = bonds[row, two, one] = order
    one_hot = torch.nn.functional.one_hot(kinds + 1, len(ATOMS) + 1)[..., 1:].float()
    return _split(Graphs(one_hot, bonds), _properties(one_hot, bonds), train)


def is_qm9(folder: Path) -> bool:
    """Whether torch-geometric has been here."""
    return any((folder / "processed").glob("data*.pt"))


def qm9(folder: Path, seed: int = 0, limit: int = QM9_COUNT) -> Split:
    """QM9 as torch-geometric has processed it: a sample of it, four fifths to train.

    Ramakrishnan, Dral, Rupp, von Lilienfeld, "Quantum chemistry structures and properties of 134
    kilo molecules", Scientific Data 1, 2014.

    Args:
        folder: The ``root`` of ``torch_geometric.datasets.QM9``.
        seed: Decides the sample and its parts.
        limit: Molecules of the sample.

    Returns:
        As :func:`molecules`, with μ, α, the gap, and U₀ of QM9.

    Raises:
        ImportError: If torch-geometric is not installed.
        DataError: If the folder lacks the processed files, or they are not QM9's.
    """
    if not is_qm9(folder):
        raise DataError(f"Folder {folder} lacks processed/data*.pt; get it by {QM9_SOURCE}.")
    try:
        from torch_geometric.datasets import QM9
    except ImportError as error:
        raise ImportError(
            "QM9 is read by torch-geometric. Install it with `pip install torch-geometric`."
        ) from error
    try:
        data: Any = QM9(str(folder))
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        rows = [data[int(place)] for place in order[:limit]]
        for place, row in zip(order.tolist(), rows, strict=False):
            _check(row, f"Molecule {place}")
        if len(rows) < 5:
            raise ValueError(f"it holds {len(rows)} molecules, and five are needed")
        graphs, targets = _padded(rows), torch.cat([row.y for row in rows])[:, QM9_COLUMNS]
    except Exception as error:
        # What torch-geometric raises on a file that is not its own has no common type.
        reason = (str(error) or type(error).__name__).split("\n", maxsplit=1)[0].rstrip(".")
        raise DataError(f"Folder {folder} is not QM9's of torch-geometric: {reason}.") from None
    return _split(graphs, targets.double(), len(rows) - len(rows) // 5)


def _draw(source: random.Random) -> tuple[list[int], dict[tuple[int, int], int]]:
    """Kinds of the atoms, and the orders of the bonds by pair."""
    valences = [valence for valence, *_ in ATOMS.values()]
    atoms = [0]
    free = [valences[0]]
    bonds: dict[tuple[int, int], int] = {}
    for place in range(1, source.randint(SMALLEST, LARGEST)):
        hosts = [host for host in range(place) if free[host]]
        if not hosts:
            break
        host = source.choice(hosts)
        kind = source.choices(range(len(ATOMS)), SHARES)[0]
        # The last free valence goes to an atom that brings more, so that the molecule can grow.
        if sum(free) == 1 and valences[kind] == 1:
            kind = 0
        atoms.append(kind)
        free.append(valences[kind] - 1)
        free[host] -= 1
        bonds[host, place] = 1
    for _ in range(TRIES):
        one, two = sorted(source.sample(range(len(atoms)), 2))
        if free[one] and free[two] and bonds.get((one, two), 0) < 3:
            bonds[one, two] = bonds.get((one, two), 0) + 1
            free[one] -= 1
            free[two] -= 1
    return atoms, bonds


def _properties(one_hot: Tensor, bonds: Tensor) -> Tensor:
    """``(n, 4)`` float64, in the order of MOLECULE_TARGETS."""
    table = torch.tensor([values[1:] for values in ATOMS.values()], dtype=torch.float64)
    chi, strength, size = (one_hot.double() @ table).unbind(dim=-1)
    there, order = one_hot.sum(dim=-1) > 0, bonds.double()
    contrast = chi.unsqueeze(2) - chi.unsqueeze(1)
    bond = (strength.unsqueeze(2) * strength.unsqueeze(1)).sqrt() + contrast.square()
    energy = -(order * bond).sum(dim=(1, 2)) / 2
    dipole = (order * contrast).sum(dim=2).square().sum(dim=1).sqrt()
    more = (order - 1).clamp(min=0).sum(dim=2)
    polarizability = (size * (1 + 0.2 * more)).sum(dim=1)
    # Where there is no atom, a level far above all others.
    diagonal = torch.where(there, -chi, 1e3)
    levels = torch.linalg.eigvalsh(torch.diag_embed(diagonal) - order)
    middle = (there.sum(dim=1) // 2).unsqueeze(1)
    gap = (levels.gather(1, middle) - levels.gather(1, middle - 1)).squeeze(1)
    return torch.stack([dipole, polarizability, gap, energy], dim=1)


def _check(row: Any, what: str) -> None:
    """Whether a molecule is what :func:`_padded` takes: an index from the end is an index, too."""
    atoms = len(row.z)
    if not 1 <= atoms <= QM9_LARGEST or not torch.isin(row.z, torch.tensor(QM9_ATOMS)).all():
        raise ValueError(f"{what} should have 1 to {QM9_LARGEST} atoms of H, C, N, O and F")
    edges = row.edge_index
    if edges.is_floating_point() or ((edges < 0) | (edges >= atoms)).any():
        raise ValueError(f"{what} has bonds of atoms that it has not")
    if not row.y.is_floating_point() or row.y.ndim != 2 or len(row.y) != 1:
        raise ValueError(f"{what} should have one row of real targets")
    if not (row.y.isfinite().all() and row.edge_attr.isfinite().all()):
        raise ValueError(f"{what} has values that are not finite")


def _padded(rows: list[Any]) -> Graphs:
    """Molecules of torch-geometric; the order of a bond is the place of the 1 in ``edge_attr``."""
    largest = max(len(row.z) for row in rows)
    atoms = torch.zeros(len(rows), largest, len(QM9_ATOMS))
    bonds = torch.zeros(len(rows), largest, largest)
    # Single, double, triple, aromatic.
    orders = torch.tensor([1.0, 2.0, 3.0, 1.5])
    for place, row in enumerate(rows):
        atoms[place, : len(row.z)] = (row.z.unsqueeze(1) == torch.tensor(QM9_ATOMS)).float()
        bonds[place, row.edge_index[0], row.edge_index[1]] = row.edge_attr.float() @ orders
    return Graphs(atoms, bonds)


def _split(graphs: Graphs, targets: Tensor, train: int) -> Split:
    """Both parts, the targets by mean and deviation of the train part."""
    deviation, mean = torch.std_mean(targets[:train], dim=0, correction=0)
    scaled = ((targets - mean) / deviation.clamp(min=1e-12)).float()

    def part(rows: slice) -> Batch:
        columns = zip(MOLECULE_TARGETS, scaled[rows].unbind(dim=1), strict=True)
        own = {name: column.unsqueeze(1) for name, column in columns}
        return {"input": Graphs(graphs.atoms[rows], graphs.bonds[rows]), **own}

    return Split(part(slice(None, train)), part(slice(train, None)))
