"""An optimizer that is another one to everything that looks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["OptimizerWrapper", "tell_grad_scaler"]


class OptimizerWrapper(Optimizer):
    """Delegates all of ``torch.optim.Optimizer`` to an inner optimizer.

    ``param_groups``, ``state`` and ``defaults`` are properties and not copies: the inner optimizer
    makes new lists when it loads a state, and a scheduler that edits an old list edits nothing.
    Hooks are registered with the inner optimizer, and called with the wrapper. Public attributes
    that only the inner optimizer has (``train``, ``eval``, ``first_step``) are found there.

    Args:
        optimizer: The inner optimizer.

    Raises:
        TypeError: If it is not an optimizer, or is wrapped already.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # Not Optimizer.__init__, which would make parameter groups and hooks of its own.
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, OptimizerWrapper):
            raise TypeError(
                "Parameter `optimizer` should be an optimizer of torch.optim. "
                f"Found {type(optimizer).__name__}."
            )
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The inner optimizer's parameter groups."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The inner optimizer's state."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's default options."""
        return self.optimizer.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As ``torch.optim.Optimizer.add_param_group``."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As ``torch.optim.Optimizer.zero_grad``."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner optimizer's step."""
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the inner optimizer's state."""
        self.optimizer.load_state_dict(state_dict)

    # ---- GradScaler: a fused inner optimizer unscales, and skips, on the device -----------------

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))

    def step_unless(self, lost: Tensor) -> Any:
        """The step of a fused inner optimizer, which skips it by itself if the 0-d ``lost`` is true."""
        before = getattr(self, "found_inf", None)
        self.found_inf = lost.float() if before is None else before + lost
        try:
            return OptimizerWrapper.step(self)
        finally:
            del self.found_inf
            if before is not None:
                self.found_inf = before

    # ---- hooks ----------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_step_pre_hook``."""
        return self.optimizer.register_step_pre_hook(self._outer(hook))

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_step_post_hook``."""
        return self.optimizer.register_step_post_hook(self._outer(hook))

    def register_state_dict_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_state_dict_pre_hook``."""
        return self.optimizer.register_state_dict_pre_hook(self._outer(hook), prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_state_dict_post_hook``."""
        return self.optimizer.register_state_dict_post_hook(self._outer(hook), prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_load_state_dict_pre_hook``."""
        return self.optimizer.register_load_state_dict_pre_hook(self._outer(hook), prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """As ``torch.optim.Optimizer.register_load_state_dict_post_hook``."""
        return self.optimizer.register_load_state_dict_post_hook(self._outer(hook), prepend)

    def _outer(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, called with this wrapper where it would see the inner optimizer."""

        @functools.wraps(hook)
        def call(_: Optimizer, *args: Any) -> Any:
            return hook(self, *args)

        return call

    # ---- copies ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # What schedulers put in the place of `step` is not ours to keep; torch drops it as well.
        return {name: value for name, value in vars(self).items() if name not in _PATCHED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    # ---- what is not of torch's optimizers ------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """An attribute that the inner optimizer alone has, such as ``train``, ``eval`` or ``first_step``."""
        # Not `self.optimizer`: an object that is being copied or unpickled has none yet.
        inner = vars(self).get("optimizer")
        if inner is not None and not name.startswith("_") and hasattr(inner, name):
            return getattr(inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"


def tell_grad_scaler(
    grad_scaler: torch.amp.GradScaler, optimizer: Optimizer, lost: Tensor | None
) -> None:
    """Makes the scaler's next ``update`` lower the scale if the 0-d ``lost`` is true.

    ``GradScaler.step`` looks for Infs in ``.grad`` before it calls the optimizer's ``step``. One
    that was left out of the merged gradient is not there any more, but it says just as well that
    the scale is too large.
    """
    if lost is None:
        return
    found = grad_scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
    for flag in found.values():
        flag.logical_or_(lost.to(flag.device, non_blocking=True))


#: What a scheduler sets on an optimizer.
_PATCHED = frozenset({"step", "_opt_called"})


def _delegate(name: str) -> property:
    """An attribute that is the inner optimizer's: read, set and deleted there."""
    return property(
        lambda self: getattr(self.optimizer, name),
        lambda self, value: setattr(self.optimizer, name, value),
        lambda self: delattr(self.optimizer, name),
    )


# Set by GradScaler, and read by the kernels of a fused inner optimizer.
for _name in ("grad_scale", "found_inf"):
    setattr(OptimizerWrapper, _name, _delegate(_name))
