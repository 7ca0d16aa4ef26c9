"""What the graph of the losses tells: which parameters they reach, and what hides it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence

import torch._functorch.config as compiler_config
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .reach import leaves_of_each, root

__all__ = [
    "allow_repeated_backward",
    "hidden_by_compiler",
    "leaf_tensors",
    "node_names",
    "refuse_reentrant_checkpoints",
    "warn_of_graph",
]


def leaf_tensors(losses: Sequence[Tensor | GradientEdge | None]) -> dict[int, Tensor]:
    """Every leaf that autograd goes to from a loss, by its ``id``; see :mod:`.reach` for what is used of them."""
    found = {id(t): t for t in losses if isinstance(t, Tensor) and t.is_leaf and t.requires_grad}
    for node, _ in _edges(losses):
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
    return found


def hidden_by_compiler(losses: Sequence[Tensor | None]) -> bool:
    """Whether several losses use different outputs of one compiled function.

    A compiled backward computes the gradients of all its parameters at once, zeros where there is
    none, so that each loss seems to reach them all.
    """
    used: dict[Node, list[frozenset[int]]] = {}
    for loss in losses:
        outputs: dict[Node, set[int]] = {}
        for node, place in _edges([loss]):
            if node.name() == "CompiledFunctionBackward":
                outputs.setdefault(node, set()).add(place)
        for node, places in outputs.items():
            used.setdefault(node, []).append(frozenset(places))
    return any(len(set(places)) > 1 for places in used.values())


def warn_of_graph(
    losses: Sequence[Tensor | None], params: Sequence[Tensor], shared_known: bool
) -> None:
    """Warns the caller of `MultiTaskOptimizer.backward` of what has no gradient, and of what a compiler hides."""
    reached = set().union(*leaves_of_each(losses))
    unreached = [tuple(param.shape) for param in params if id(param) not in reached]
    if unreached:
        warnings.warn(
            f"No loss reaches {len(unreached)} of the optimizer's {len(params)} parameters, which get no "
            f"gradient; the first has shape {unreached[0]}.",
            stacklevel=5,
        )
    if not shared_known and hidden_by_compiler(losses):
        warnings.warn(
            "The losses use different outputs of one compiled model, which hides what each of them reaches: all "
            "its parameters count as shared. Name those that are in `shared`, or compile the model without the "
            "heads.",
            stacklevel=5,
        )


def node_names(losses: Sequence[Tensor | None]) -> frozenset[str]:
    """The kinds of operations that the losses are computed by."""
    return frozenset(node.name() for node, _ in _edges(losses))


def refuse_reentrant_checkpoints(losses: Sequence[Tensor | None]) -> None:
    """The parameters in there would get no gradient, and nothing would say so.

    Raises:
        ValueError: If a loss is computed through a reentrant activation checkpoint.
    """
    if any(node.name() == "CheckpointFunctionBackward" for node, _ in _edges(losses)):
        raise ValueError(
            "Parameter `losses` should come from a model whose activation checkpoints are not reentrant "
            "(`use_reentrant=False`). Found one that is, which hides its parameters."
        )


def _edges(losses: Sequence[Tensor | GradientEdge | None]) -> Iterator[tuple[Node, int]]:
    """Every output of a node that the losses are computed from, once."""
    waiting: list[tuple[Node | None, int]] = []
    for loss in losses:
        start = root(loss) if isinstance(loss, Tensor) else loss
        if isinstance(start, Tensor):
            waiting.append((start.grad_fn, start.output_nr))
        elif start is not None:
            waiting.append((start.node, start.output_nr))
    seen: set[tuple[Node, int]] = set()
    followed: set[Node] = set()
    while waiting:
        node, place = waiting.pop()
        if node is None or (node, place) in seen:
            continue
        seen.add((node, place))
        yield node, place
        if node not in followed:
            followed.add(node)
            waiting.extend(node.next_functions)


def allow_repeated_backward() -> None:
    """Lets models that are compiled from now on be differentiated once a task.

    By default a compiled backward may reuse the memory of what the forward saved, and refuses to run
    with ``retain_graph=True``. Where something was compiled that way already, the setting stays: it
    also governs the check, without which such a backward would silently return wrong gradients
    when it runs again.
    """
    compiler = sys.modules.get("torch._dynamo.convert_frame")
    if compiler is None or getattr(compiler, "FRAME_COUNTER", 1) == 0:
        compiler_config.donated_buffer = False
