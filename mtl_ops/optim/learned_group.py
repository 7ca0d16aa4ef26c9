"""The parameter group of what a method learns itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

__all__ = ["add_group", "state_with_group"]


def add_group(optimizer: Optimizer, params: Sequence[Parameter], method: str) -> None:
    """Adds the parameters, as far as they are new, as one group without weight decay.

    Raises:
        ValueError: If a scheduler was made already: it would fail for want of a learning rate.
    """
    known = {id(param) for group in optimizer.param_groups for param in group["params"]}
    new = [param for param in params if id(param) not in known]
    if not new:
        return
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise ValueError(
            f"Parameter `tasks` should be given with method {method!r}, whose own parameters have to "
            "be there before a scheduler is made. Found None."
        )
    decay = {"weight_decay": 0.0} if "weight_decay" in optimizer.defaults else {}
    optimizer.add_param_group({"params": new, **decay})


def state_with_group(
    optimizer: Optimizer, params: Sequence[Parameter], state: dict[str, Any]
) -> dict[str, Any]:
    """The state of an optimizer that never had the group, as if it had, with no state in it yet.

    Some optimizers that wrap others have no groups in their state: it is then left as it is.
    """
    if not params or "param_groups" not in state:
        return state
    own = {id(param) for param in params}
    missing = [
        (place, group)
        for place, group in enumerate(optimizer.param_groups)
        if {id(param) for param in group["params"]} <= own
    ]
    groups = list(state["param_groups"])
    if len(groups) + len(missing) != len(optimizer.param_groups):
        return state
    unused = 1 + max((index for group in groups for index in group["params"]), default=-1)
    for place, group in missing:
        indices = list(range(unused, unused + len(group["params"])))
        groups.insert(place, {**group, "params": indices})
        unused += len(indices)
    return {**state, "param_groups": groups}
