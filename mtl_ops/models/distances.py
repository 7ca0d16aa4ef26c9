"""Message passing between atoms in space, whose messages depend on the distances alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DistanceNet", "pairs_of"]


def pairs_of(atoms: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All ordered pairs of two atoms of the same molecule.

    Args:
        atoms: ``(B, A)`` integers, 0 where there is no atom.
        places: ``(B, A, 3)``.

    Returns:
        The element ``(N,)`` int64 of every atom there is, its molecule ``(N,)``, the pairs ``(2, E)`` as
        numbers of atoms (from, to), and their distances ``(E,)``.

    Example:
        >>> import torch
        >>> atoms = torch.tensor([[1, 1, 0], [2, 0, 0]])
        >>> places = torch.tensor([[[0.0, 0, 0], [3, 4, 0], [0, 0, 0]], [[0, 0, 0]] * 3])
        >>> pairs_of(atoms, places)[2:]
        (tensor([[0, 1],
                [1, 0]]), tensor([5., 5.]))
    """
    there = atoms > 0
    number = there.flatten().cumsum(0).view_as(there) - 1
    both = there.unsqueeze(2) & there.unsqueeze(1)
    apart = ~torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
    molecule, one, two = (both & apart).nonzero().unbind(dim=1)
    distance = (places[molecule, one] - places[molecule, two]).norm(dim=1)
    edges = torch.stack([number[molecule, one], number[molecule, two]])
    return atoms[there].long(), there.nonzero()[:, 0], edges, distance


class DistanceNet(nn.Module):
    """Continuous-filter convolutions: atoms and places to features of molecules, ``(B, width)``.

    ``h_i <- h_i + U relu(V Σ_j h_j ∘ W(e(d_ij)))``, where e(d) are Gaussians of the distance and W two
    layers; in the end the sum over the atoms. Turning or moving a molecule, or numbering its atoms
    otherwise, changes nothing.

    K. T. Schütt, P.-J. Kindermans, H. E. Sauceda, S. Chmiela, A. Tkatchenko, K.-R. Müller, "SchNet: A
    continuous-filter convolutional neural network for modeling quantum interactions", NIPS 2017;
    J. Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017.

    Args:
        kinds: Of atoms, numbered from 1 on; 0 is none.
        width: Of all features.
        layers: How many.
        gaussians: Of the distance.
        reach: Where the last of them stands, in the unit of the places.

    Raises:
        ValueError: If one of them is not positive.

    Example:
        >>> import torch
        >>> atoms, places = torch.tensor([[1, 2, 0]]), torch.rand(1, 3, 3)
        >>> DistanceNet(5, 8)((atoms, places)).shape
        torch.Size([1, 8])
    """

    centres: Tensor

    def __init__(
        self, kinds: int, width: int = 64, layers: int = 3, gaussians: int = 16, reach: float = 8.0
    ) -> None:
        super().__init__()
        for name, value in (
            ("kinds", kinds),
            ("width", width),
            ("layers", layers),
            ("gaussians", gaussians),
            ("reach", reach),
        ):
            if not value > 0:
                raise ValueError(
                    f"Parameter `{name}` should be positive. Found `{name} = {value}`."
                )
        self.embedding = nn.Embedding(kinds + 1, width)
        self.filters = nn.ModuleList(
            nn.Sequential(nn.Linear(gaussians, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.register_buffer("centres", torch.linspace(0.0, reach, gaussians), persistent=False)
        self.sharpness = gaussians / reach
        self.after = nn.Sequential(nn.Linear(width, width), nn.SiLU())

    def forward(self, molecules: tuple[Tensor, Tensor]) -> Tensor:
        """Features of the molecules."""
        atoms, places = molecules
        kinds, molecule, (source, goal), distance = pairs_of(atoms, places)
        states: Tensor = self.embedding(kinds)
        near = torch.exp(-((distance.unsqueeze(1) - self.centres) * self.sharpness).square())
        near = near.to(states.dtype)
        for weigh, update in zip(self.filters, self.updates, strict=True):
            messages = states[source] * weigh(near)
            summed = torch.zeros_like(states, dtype=messages.dtype).index_add(0, goal, messages)
            # About as large as one message, however many there are.
            states = states + update(summed / 8)
        features = self.after(states)
        total = features.new_zeros(len(atoms), features.shape[1])
        pooled: Tensor = total.index_add(0, molecule, features)
        return pooled / 16
