"""A graph convolutional network for four properties of a molecule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data import Goal, Split, Task
from ..data.folders import DataError
from ..data.molecules import MOLECULE_TARGETS, QM9_SOURCE, Graphs, is_qm9, molecules, qm9
from ..models import SharedBottom
from .base import Example, Size
from .encoded import graph_model
from .layers import linear_heads

__all__ = ["GraphBackbone", "Molecules", "normalised"]


def normalised(graphs: Graphs) -> Tensor:
    """``D^(-1/2) (A + I) D^(-1/2)`` of each graph, ``(B, A, A)``; zero where there is no atom.

    A holds the orders of the bonds, and D the sums of the rows of A + I.

    Example:
        >>> import torch
        >>> pair = Graphs(torch.tensor([[[1.0], [1.0], [0.0]]]), torch.zeros(1, 3, 3))
        >>> pair.bonds[0, 0, 1] = pair.bonds[0, 1, 0] = 1.0
        >>> normalised(pair)[0]
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    there = graphs.atoms.sum(dim=-1)
    adjacency = graphs.bonds + torch.diag_embed(there)
    degree = adjacency.sum(dim=-1)
    scale = torch.where(degree > 0, degree, 1.0).rsqrt()
    return scale.unsqueeze(2) * adjacency * scale.unsqueeze(1)


class GraphBackbone(nn.Module):
    """Graph convolutions, then the sum over the atoms: :class:`Graphs` to ``(B, width)``.

    ``H_(l+1) = relu(Â H_l W_l + H_l V_l)`` with Â of :func:`normalised`: the second term keeps an atom
    apart from its neighbours. Kipf, Welling, "Semi-Supervised Classification with Graph
    Convolutional Networks", ICLR 2017.

    Args:
        kinds: Of atoms.
        width: Of all layers.
        depth: Number of layers.

    Example:
        >>> from mtl_ops.data.molecules import molecules
        >>> GraphBackbone(4, 8)(molecules(5, 2).train["input"]).shape
        torch.Size([5, 8])
    """

    def __init__(self, kinds: int, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        sizes = [kinds] + depth * [width]
        self.around = nn.ModuleList(nn.Linear(before, width, bias=False) for before in sizes[:-1])
        self.own = nn.ModuleList(nn.Linear(before, width) for before in sizes[:-1])
        self.after = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, graphs: Graphs) -> Tensor:
        """Features of the graphs."""
        adjacency = normalised(graphs)
        there = graphs.atoms.sum(dim=-1, keepdim=True)
        states = graphs.atoms
        for around, own in zip(self.around, self.own, strict=True):
            states = torch.relu(adjacency @ around(states) + own(states)) * there
        # A tenth of the sum is about as large as a mean, and still tells how many there are.
        features: Tensor = self.after(states.sum(dim=1) / 10)
        return features


class Molecules(Example):
    """Dipole, polarizability, gap and energy of generated molecules, or of QM9's."""

    name: ClassVar[str] = "graph"
    title: ClassVar[str] = "molecules"
    note: str = "MSE: 1 is the variance of the property."
    formats: ClassVar[tuple[str, ...]] = ("QM9 (torch-geometric)",)
    architectures: ClassVar[tuple[str, ...]] = ("gcn",)
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "nash_mtl", "upgrad", "famo")
    seeds: ClassVar[tuple[int, ...]] = (0, 1)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is not None and not is_qm9(folder):
            raise DataError(
                f"Folder {folder} lacks processed/data*.pt; example '{self.name}' reads "
                f"{self.formats[0]}, from {QM9_SOURCE}."
            )

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(self._goals())

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`."""
        tiny = size == "tiny"
        if self.folder is not None:
            return qm9(self.folder, seed, 500) if tiny else qm9(self.folder, seed)
        return molecules(*((320, 80) if tiny else (2000, 500)), seed)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = self._goals()
        return SharedBottom(
            GraphBackbone(split.train["input"].atoms.shape[-1]),
            *linear_heads({task: goals[task] for task in tasks}, 64),
        )

    def variant(self, architecture: str, tasks: dict[str, Task], split: Split) -> nn.Module:
        """The reference network on sparse graphs."""
        return graph_model(tasks, split.train["input"].atoms.shape[-1])

    def _goals(self) -> dict[str, Task]:
        return {name: Task(name, 1, "regression") for name in MOLECULE_TARGETS}
