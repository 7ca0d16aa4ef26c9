"""What the graph of the losses tells: which parameters they reach, and what hides it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence

import torch._functorch.config as compiler_config
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = [
    "allow_repeated_backward",
    "hidden_by_compiler",
    "leaf_tensors",
    "leaves",
    "leaves_of_each",
    "node_names",
    "refuse_reentrant_checkpoints",
    "root",
    "root_node",
    "warn_of_graph",
]


def root(loss: Tensor) -> Tensor | GradientEdge | None:
    """What to differentiate: of an element of stacked losses the loss that was stacked.

    The backward of a stack hands zeros to all other losses, whose parameters would all seem to be
    reached. ``None`` for a stacked loss that does not require a gradient.
    """
    node = loss.grad_fn
    if node is None or node.name() != "UnbindBackward0":
        return loss if loss.requires_grad else None
    stack = node.next_functions[0][0]
    if stack is None or stack.name() != "StackBackward0":
        return loss
    before, place = stack.next_functions[loss.output_nr]
    return None if before is None else GradientEdge(before, place)


def root_node(loss: Tensor | None) -> Node | None:
    """The first node of a loss's backward; ``None`` for a leaf."""
    start = None if loss is None else root(loss)
    if start is None or isinstance(start, Tensor):
        return None if start is None else start.grad_fn
    return start.node


def leaves(losses: Sequence[Tensor | None], stop: Sequence[Tensor] = ()) -> set[int]:
    """The ``id`` of every leaf that a loss reaches without passing through one of ``stop``."""
    return set(leaf_tensors(losses, stop))


def leaves_of_each(losses: Sequence[Tensor | None]) -> list[set[int]]:
    """As :func:`leaves` of each loss by itself; nodes that several losses share are looked at once."""
    starts = [root_node(loss) for loss in losses]
    found = [
        {id(loss)} if loss is not None and loss.is_leaf and loss.requires_grad else set()
        for loss in losses
    ]
    order: list[Node] = []  # every node after all that it leads to
    following: dict[Node, list[Node]] = {}
    for start in starts:
        waiting = [] if start is None else [(start, False)]
        while waiting:
            node, done = waiting.pop()
            if done:
                order.append(node)
            elif node not in following:
                following[node] = [after for after, _ in node.next_functions if after is not None]
                waiting.append((node, True))
                waiting.extend((after, False) for after in following[node])
    reached_by = dict.fromkeys(order, 0)  # bits of the losses
    for t, start in enumerate(starts):
        if start is not None:
            reached_by[start] |= 1 << t
    for node in reversed(order):
        bits = reached_by[node]
        for after in following[node]:
            reached_by[after] |= bits
        variable = None if following[node] else getattr(node, "variable", None)
        if variable is not None:
            for t in range(len(losses)):
                if bits >> t & 1:
                    found[t].add(id(variable))
    return found


def leaf_tensors(
    losses: Sequence[Tensor | GradientEdge | None], stop: Sequence[Tensor] = ()
) -> dict[int, Tensor]:
    """Every leaf that a loss reaches without passing through one of ``stop``, by its ``id``."""
    halt = {tensor.grad_fn for tensor in stop if tensor.grad_fn is not None}
    found = {id(t): t for t in losses if isinstance(t, Tensor) and t.is_leaf and t.requires_grad}
    for node, _ in _edges(losses, halt):
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
    reached = leaves(losses)
    unreached = [tuple(param.shape) for param in params if id(param) not in reached]
    if unreached:
        warnings.warn(
            f"No loss reaches {len(unreached)} of the optimizer's {len(params)} parameters, which get no "
            f"gradient; the first has shape {unreached[0]}.",
            stacklevel=4,
        )
    if not shared_known and hidden_by_compiler(losses):
        warnings.warn(
            "The losses use different outputs of one compiled model, which hides what each of them reaches: all "
            "its parameters count as shared. Name those that are in `shared`, or compile the model without the "
            "heads.",
            stacklevel=4,
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


def _edges(
    losses: Sequence[Tensor | GradientEdge | None], halt: set[Node] | frozenset[Node] = frozenset()
) -> Iterator[tuple[Node, int]]:
    """Every output of a node that the losses are computed from, once."""
    waiting: list[tuple[Node | None, int]] = []
    for loss in losses:
        start = root(loss) if isinstance(loss, Tensor) else loss
        if isinstance(start, Tensor):
            waiting.append((start.grad_fn, start.output_nr))
        elif start is not None:
            waiting.append((start.node, start.output_nr))
    seen: set[tuple[Node, int]] = set()
    followed: set[Node] = set(halt)
    while waiting:
        node, place = waiting.pop()
        if node is None or node in halt or (node, place) in seen:
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
