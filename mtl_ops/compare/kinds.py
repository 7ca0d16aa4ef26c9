"""The kinds of step that are compared, each as a change of the options of an exact one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..methods import Method
from ..optim.settings import Settings

__all__ = ["EXACT", "PERIOD", "Kind", "kinds_of"]

#: In how many steps weights are solved anew once, where they are kept.
PERIOD = 8

#: The options that decide which kind of step is taken, and those of an exact one.
_DECIDE: dict[str, Any] = {
    "gram_on": None,
    "weights_every": 1,
    "grad_dtype": None,
    "memory": None,
    "batched": False,
    "gradients": "dense",
}


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        name: What tables call it.
        options: Arguments of :class:`mtl_ops.MultiTaskOptimizer` that make it one.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def of(self, settings: Settings, method: Method, device: torch.device) -> Settings:
        """All settings, alone in one process and without turns.

        Args:
            settings: Those that are varied.
            method: To be used instead of theirs.
            device: Of the parameters.
        """
        drawn = torch.Generator(device).manual_seed(0)
        alone = {"method": method, "distributed": None, "process_group": None, "generator": drawn}
        turns = {"groups": None, "order": "fixed", "closing_joint": False}
        return replace(settings, **{**alone, **turns, **_DECIDE, **self.options})


EXACT = Kind("exact")


def kinds_of(settings: Settings, layer: Tensor | None, features: bool) -> list[Kind]:
    """All kinds, exact first; whether the options allow them is not looked at.

    Args:
        settings: The user's own choice is among them.
        layer: The last shared weight, if there is one.
        features: Whether features are handed in.
    """
    kinds = [
        EXACT,
        Kind("batched", {"batched": True}),
        Kind("factored", {"gradients": "factored"}),
        Kind("auto", {"gradients": "auto"}),
        Kind("rows in bfloat16", {"grad_dtype": torch.bfloat16}),
        Kind("streamed", {"memory": "stream"}),
    ]
    if features:
        kinds.append(Kind("G on the features", {"gram_on": "features"}))
    if layer is not None:
        kinds.append(Kind("G on the last shared weight", {"gram_on": [layer]}))
    kept = {"weights_every": PERIOD}
    kinds.append(Kind(f"weights every {PERIOD} steps", kept))
    kinds.append(Kind(f"factored, every {PERIOD} steps", {**kept, "gradients": "factored"}))
    chosen = {name: getattr(settings, name) for name in _DECIDE}
    own = {name: value for name, value in chosen.items() if not _same(value, _DECIDE[name])}
    if not any(_alike(kind.options, own) for kind in kinds):
        kinds.insert(1, Kind("as it is set", own))
    return kinds


def _alike(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)


def _same(one: Any, two: Any) -> bool:
    """Lists of tensors by their tensors."""
    if isinstance(one, Sequence) and isinstance(two, Sequence) and not isinstance(one, str):
        return [id(item) for item in one] == [id(item) for item in two]
    return bool(one == two)
