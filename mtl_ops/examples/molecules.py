"""Eleven properties of QM9's molecules, as Nash-MTL, FAMO and FairGrad have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import Goal, Split
from ..data.folders import DataError
from ..data.metrics import AbsoluteError
from ..data.packaged import QM9_PACK, Packaged
from ..data.qm9_pack import ELEMENTS, QM9_TARGETS, qm9_files, qm9_parts
from ..models import DistanceNet, MultiTaskModel, SharedBottom
from ..models.distances import pairs_of
from .base import Example, Size

__all__ = ["QM9_SCALES", "EdgeNetwork", "QuantumMolecules", "molecule_model"]

#: Mean and standard deviation of each target over all 130,831 molecules, in its unit.
QM9_SCALES: dict[str, tuple[float, float]] = {
    "mu": (2.67295, 1.50348),
    "alpha": (75.2812, 8.17383),
    "homo": (-6536.45, 597.741),
    "lumo": (322.044, 1274.86),
    "r2": (1189.41, 280.478),
    "zpve": (4056.94, 901.723),
    "u0": (-76116.0, 10323.8),
    "u": (-76580.5, 10415.2),
    "h": (-77018.2, 10489.3),
    "g": (-70836.6, 9498.34),
    "cv": (31.6204, 4.06758),
}


class QuantumMolecules(Example):
    """Dipole, polarizability, orbital energies, energies of atomisation, ...: eleven targets of QM9."""

    name: ClassVar[str] = "molecules"
    title: ClassVar[str] = "QM9"
    note: str = (
        "MAE in the unit of the published tables; energies of atomisation. A part of QM9, unless the "
        "protocol is the published one. Data: QM9, Ramakrishnan et al. 2014."
    )
    formats: ClassVar[tuple[str, ...]] = ("QM9 (CSV files of qm9pack)",)
    packaged: ClassVar[Mapping[str, Packaged]] = {"qm9": QM9_PACK}
    published: ClassVar[Mapping[str, Any]] = {
        "size": "published",
        "architecture": "edge-network",
        "epochs": 300,
        "batch_size": 120,
        "learning_rate": 1e-3,
    }
    architectures: ClassVar[tuple[str, ...]] = ("edge-network",)
    methods: ClassVar[tuple[str, ...]] = ("upgrad", "famo", "uncertainty")
    epochs: ClassVar[int] = 4
    batch_size: ClassVar[int] = 60
    learning_rate: ClassVar[float] = 3e-3
    seeds: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is not None and not qm9_files(folder):
            raise DataError(
                f"Folder {folder} lacks qm9_part1.csv; example '{self.name}' reads {self.formats[0]}, "
                f"which `{QM9_PACK.command}` brings."
            )

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return {
            name: AbsoluteError(name, QM9_SCALES[name][1], target.symbol)
            for name, target in QM9_TARGETS.items()
        }

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; the published size is all of QM9, with 10,000 molecules to test."""
        sizes: dict[str, tuple[int | None, int, int]] = {
            "tiny": (300, 1, 100),
            "default": (1000, 1, 500),
            "published": (None, 10_000, 10_000),
        }
        # Of all molecules: the figures of any part are then in the same unit.
        mean, deviation = torch.tensor(list(QM9_SCALES.values()), dtype=torch.float64).T
        own = None if self.folder is None else qm9_files(self.folder)
        parts = qm9_parts(seed, sizes[size], (mean, deviation), own)
        return Split(parts.train, parts.test)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`: :class:`mtl_ops.models.DistanceNet`."""
        return molecule_model(tasks, DistanceNet(len(ELEMENTS), 32), 32)

    def build(
        self, tasks: Sequence[str], split: Split, architecture: str | None = None
    ) -> nn.Module:
        """See :class:`Example`."""
        if architecture == "edge-network":
            return molecule_model(tasks, EdgeNetwork(), 64)
        return super().build(tasks, split, architecture)


def molecule_model(tasks: Sequence[str], encoder: nn.Module, width: int) -> MultiTaskModel:
    """An encoder that all targets share, and a linear head for each."""
    return SharedBottom(
        encoder,
        {task: nn.Linear(width, 1) for task in tasks},
        dict.fromkeys(tasks, nn.functional.mse_loss),
    )


class EdgeNetwork(nn.Module):
    """The network of the published QM9 tables, by torch_geometric: NNConv, a GRU and Set2Set.

    A matrix for each pair of atoms, made of its distance by two layers; the same convolution and the
    same recurrence three times. The published one also sees the orders of bonds and what RDKit says of
    each atom (aromatic, hybridisation, hydrogens); the CSV files have neither.

    Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017; sizes as in Navon et al., ICML
    2022.

    Args:
        width: Of all features.

    Raises:
        ImportError: If torch_geometric is not installed.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import NNConv, Set2Set
        except ImportError as error:
            raise ImportError(
                "Architecture 'edge-network' needs torch_geometric. Install it with "
                "`pip install torch_geometric`."
            ) from error
        matrix = nn.Sequential(nn.Linear(1, 128), nn.ReLU(), nn.Linear(128, width**2))
        self.before = nn.Linear(len(ELEMENTS) + 1, width)
        self.convolution: Any = NNConv(width, width, matrix, aggr="mean")
        self.recurrence = nn.GRUCell(width, width)
        self.pool: Any = Set2Set(width, processing_steps=3)
        self.after = nn.Linear(2 * width, width)

    def forward(self, molecules: tuple[Tensor, Tensor]) -> Tensor:
        """Features of the molecules, ``(B, width)``."""
        kinds, molecule, edges, distance = pairs_of(*molecules)
        one_hot = nn.functional.one_hot(kinds - 1, len(ELEMENTS)).to(distance.dtype)
        charge = kinds.new_tensor([1, 6, 7, 8, 9])[kinds - 1].unsqueeze(1)
        states = torch.relu(self.before(torch.cat([one_hot, charge.to(distance.dtype)], dim=1)))
        hidden = states
        for _ in range(3):
            messages = torch.relu(self.convolution(states, edges, distance.unsqueeze(1)))
            hidden = states = self.recurrence(messages, hidden)
        pooled = self.pool(states, molecule, dim_size=len(molecules[0]))
        features: Tensor = torch.relu(self.after(pooled))
        return features
