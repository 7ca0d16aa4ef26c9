"""What a comparison changes on its way, and puts back."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

__all__ = ["Start", "left_as_it_was"]


class _RandomState:
    """Of torch's generators of the CPU and a device, of ``random`` and of NumPy's global one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._python, self._numpy = random.getstate(), np.random.get_state()

    def put_back(self) -> None:
        """As it was when this was made."""
        torch.set_rng_state(self._cpu)
        if self._own is not None:
            torch.cuda.set_rng_state(self._own, self._device)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


class _Buffers:
    """Of all modules that hold one of some parameters, themselves or in a part of them."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        owned = {id(param) for param in params}
        # Not isinstance: it asks objects for their class, which lazy ones answer by an import.
        alive = [o for o in gc.get_objects() if issubclass(type(o), Module)]
        holders = [m for m in alive if _holds(m, owned)]
        modules = {id(part): part for module in holders for part in module.modules()}
        self._put_back = [_saved(module._buffers) for module in modules.values()]

    def put_back(self) -> None:
        """As they were when this was made."""
        for put_back in self._put_back:
            put_back()


def _holds(module: Module, owned: set[int]) -> bool:
    try:
        return any(id(param) in owned for param in module.parameters())
    except AttributeError:  # one whose constructor failed, which a traceback keeps alive
        return False


class Start:
    """What a forward draws from and writes to.

    Args:
        params: The parameters.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._random, self._buffers = _RandomState(params[0].device), _Buffers(params)

    def again(self) -> None:
        """As it was when this was made."""
        self._buffers.put_back()
        self._random.put_back()


@contextlib.contextmanager
def left_as_it_was(optimizer: Optimizer, params: Sequence[Tensor]) -> Iterator[Start]:
    """Around what may change parameters, ``.grad``, buffers, random states and the optimizer.

    Hooks of the optimizer's steps are not called meanwhile.

    Args:
        optimizer: What takes steps.
        params: Its parameters.
    """
    hooks = {
        name: getattr(optimizer, name)
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    }
    grads = [(param, param.grad) for param in params]
    values = [(param, param.detach().clone()) for param in params]
    state = {key: _saved(value) for key, value in optimizer.state.items()}
    groups = [_saved(group) for group in optimizer.param_groups]
    start = Start(params)
    try:
        for name in hooks:
            setattr(optimizer, name, OrderedDict())
        for param in params:
            param.grad = None  # a function may clear it, in place
        yield start
    finally:
        for name, before in hooks.items():
            setattr(optimizer, name, before)
        with torch.no_grad():
            for param, value in values:
                param.copy_(value)
        for param, grad in grads:
            param.grad = grad
        for key in [key for key in optimizer.state if key not in state]:
            del optimizer.state[key]
        for put_back in [*state.values(), *groups]:
            put_back()
        start.again()


def _saved(values: MutableMapping[str, Any]) -> Callable[[], None]:
    """What puts a dict back in place: the same tensors with their values, and copies of the rest.

    Of lists of tensors (the parameters of a group) only the list is kept.
    """
    kept = {key: _kept(value) for key, value in values.items()}
    tensors = [
        (value, value.detach().clone()) for value in values.values() if isinstance(value, Tensor)
    ]

    def put_back() -> None:
        if isinstance(values, MutableMapping):
            values.clear()
        for key, value in kept.items():  # a scripted module has no other way to its buffers
            values[key] = value
        with torch.no_grad():
            for tensor, value in tensors:
                tensor.copy_(value)

    return put_back


def _kept(value: Any) -> Any:
    """A tensor, which is put back in place, or a copy."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list) and all(isinstance(item, Tensor) for item in value):
        return list(value)
    return copy.deepcopy(value)
