"""Checkpoints that any number of processes can write, and any other number can read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

__all__ = ["TrainingState"]


class MergingOptimizer(Protocol):
    """What is saved of a :class:`mtl_ops.MultiTaskOptimizer`."""

    optimizer: Optimizer

    @property
    def learnable(self) -> list[torch.nn.Parameter]:
        """What the method learns itself."""

    def state_dict(self) -> dict[str, Any]:
        """With what the merging remembers under ``"tasks"``."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""


class TrainingState:
    """A model and its optimizer for ``torch.distributed.checkpoint``, which calls what is here.

    The parameters and the inner optimizer's state are saved by the parameters' names, each process
    writing its part, so that another number of processes can read them. What the merging remembers
    is the same on all processes and written once. (``torch.distributed.checkpoint.state_dict`` alone
    would save the inner optimizer's state, and leave that out.)

    Save each checkpoint into a folder of its own, and load the last one that holds the file ``.metadata``, which
    is written last. In a folder that is there already the data files are written over one by one: a
    process that is killed meanwhile leaves a mixture of both, and metadata of the old one.

    Args:
        model: The model: bare, in a ``DistributedDataParallel``, or of ``fully_shard``.
        optimizer: The optimizer of its parameters.

    Example:
        >>> import tempfile, torch, mtl_ops
        >>> import torch.distributed.checkpoint as dcp
        >>> from mtl_ops.distributed import TrainingState
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.Adam(model.parameters()))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = {"training": TrainingState(model, optimizer)}
        ...     _ = dcp.save(state, checkpoint_id=folder, no_dist=True)
        ...     dcp.load(state, checkpoint_id=folder, no_dist=True)
    """

    def __init__(self, model: torch.nn.Module, optimizer: MergingOptimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from; the optimizer's state is made if there is none yet."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        inner = self.optimizer.optimizer
        with _without_own(self.optimizer):
            model, state = get_state_dict(self.model, inner)
        tasks = self.optimizer.state_dict()["tasks"]
        return {"model": model, "optimizer": state, "tasks": _pack([tasks, self._own_state()])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            ValueError: If the state is of another method or of other tasks.
        """
        from torch.distributed.checkpoint.state_dict import set_state_dict

        inner = self.optimizer.optimizer
        tasks, own = _unpack(state_dict["tasks"])
        self.optimizer.load_state_dict({**inner.state_dict(), "tasks": tasks})
        with _without_own(self.optimizer):
            set_state_dict(
                self.model,
                inner,
                model_state_dict=state_dict["model"],
                optim_state_dict=state_dict["optimizer"],
            )
        self._load_own_state(own)

    def _own_state(self) -> dict[str, Any]:
        """That of the method's own parameters, which no model names."""
        inner, own = self.optimizer.optimizer, self.optimizer.learnable
        groups = [group for group in inner.param_groups if _is_own(group, own)]
        return {
            "options": [{k: v for k, v in group.items() if k != "params"} for group in groups],
            "state": [inner.state.get(param, {}) for param in own],
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        inner, own = self.optimizer.optimizer, self.optimizer.learnable
        groups = [group for group in inner.param_groups if _is_own(group, own)]
        for group, options in zip(groups, state["options"], strict=True):
            group.update(options)
        for param, values in zip(own, state["state"], strict=True):
            if values:
                inner.state[param] = {
                    # As torch.optim does: a step counter stays where it is.
                    name: v.to(param.device) if isinstance(v, torch.Tensor) and v.dim() else v
                    for name, v in values.items()
                }


@contextlib.contextmanager
def _without_own(optimizer: MergingOptimizer) -> Iterator[None]:
    """Takes the method's own parameters out of the inner optimizer for a while."""
    inner: Optimizer = optimizer.optimizer
    own = optimizer.learnable
    places = [k for k, group in enumerate(inner.param_groups) if _is_own(group, own)]
    groups = [inner.param_groups[k] for k in places]
    state: dict[torch.Tensor, Any] = {
        param: inner.state.pop(param) for param in own if param in inner.state
    }
    for place in reversed(places):
        del inner.param_groups[place]
    try:
        yield
    finally:
        for place, group in zip(places, groups, strict=True):
            inner.param_groups.insert(place, group)
        inner.state.update(state)


def _is_own(group: dict[str, Any], own: list[torch.nn.Parameter]) -> bool:
    return bool(own) and {id(p) for p in group["params"]} <= {id(p) for p in own}


def _pack(value: Any) -> bytes:
    """One value that is written once, whatever it holds: a checkpoint has to know its own shape."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
