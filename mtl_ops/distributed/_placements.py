"""How DTensors are spread over the processes, and which of them can be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ..gradients.storage import is_dtensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["check_sharding", "first_element", "measured_here"]


def check_sharding(params: Sequence[Tensor], ranks: Sequence[int], fsdp: bool) -> None:
    """Refuses parameters whose parts cannot be merged where they are.

    Raises:
        ValueError: If one is no DTensor, or not ``Shard(0)`` or ``Replicate`` over all the ranks; with
            FSDP, ``(Replicate, Shard(0))`` on a mesh of two dimensions is right, too.
    """
    from torch.distributed.tensor import Replicate, Shard

    for place, param in enumerate(params):
        if not is_dtensor(param):
            raise ValueError(
                "Parameter `optimizer` should hold either only DTensors or none. "
                f"Found a plain tensor of shape {tuple(param.shape)} at place {place}."
            )
        spread = cast("DTensor", param)
        mesh, placements = spread.device_mesh, spread.placements
        plain = all(isinstance(one, Replicate) or one == Shard(0) for one in placements)
        hybrid = fsdp and mesh.ndim == 2 and placements[0] == Replicate()
        if not plain or not (mesh.ndim == 1 or hybrid):
            raise ValueError(
                "Parameter `optimizer` should hold DTensors of placements (Shard(0),) or (Replicate(),), or "
                "(Replicate(), Shard(0)) with `fully_shard`. "
                f"Found {tuple(placements)} at place {place}."
            )
        held = sorted(mesh.mesh.flatten().tolist())
        if held != sorted(ranks):
            raise ValueError(
                "Parameter `process_group` should be the processes that hold the parameters, "
                f"{sorted(ranks)}. Found a parameter on {held} at place {place}."
            )


def measured_here(param: DTensor) -> bool:
    """Whether this process measures its part: one of those that hold the same part does."""
    from torch.distributed.tensor import Replicate

    coordinate: Sequence[int] = param.device_mesh.get_coordinate() or []
    return all(
        where == 0
        for where, placement in zip(coordinate, param.placements, strict=True)
        if isinstance(placement, Replicate)
    )


def first_element(param: DTensor) -> int:
    """The number of the first element of this process's part among those of the parameter."""
    from torch.distributed.tensor import Shard

    if not param.dim() or not param.numel():
        return 0
    coordinate: Sequence[int] = param.device_mesh.get_coordinate() or []
    row = 0
    for dim, (where, placement) in enumerate(zip(coordinate, param.placements, strict=True)):
        if isinstance(placement, Shard):  # as torch.chunk: the last parts may be smaller, or empty
            row = min(where * -(-len(param) // param.device_mesh.size(dim)), len(param))
    return row * (param.numel() // len(param))
