"""Joins of predictions that hide which head is whose."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .movement import NARROWING, RULES
from .reach import Trace, root
from .saved import shape_of

__all__ = ["warn_of_hidden_heads"]

#: Nodes with several operands, each element of whose result comes from one of them.
_JOINS = {
    *("CopySlices", "torch::autograd::CopySlices"),
    *(
        f"{name}Backward{number}"
        for name in (
            *("AsStridedScatter", "BlockDiag", "Cat", "DiagonalScatter", "IndexAdd", "IndexCopy"),
            *("IndexPut", "IndexReduce", "MaskedScatter", "Put", "ScatterAdd", "Scatter"),
            *("ScatterReduce", "SelectScatter", "SliceScatter", "Stack", "Where"),
        )
        for number in "01"
    ),
}
_SUMS = {"AddBackward0", "SubBackward0", "RsubBackward1"}

#: How deep in what is shared no join is looked at.
_DEEP = 3

#: What follows an output of a node until a node has several operands: an output of that one, and the losses.
_Branch = tuple[tuple[Node, int], int]


def warn_of_hidden_heads(losses: Sequence[Tensor | None], params: Sequence[Tensor]) -> None:
    """Warns the caller of `MultiTaskOptimizer.backward` of parameters that only seem to be shared.

    Such are what lies behind a branch of a join (or of a sum) that a loss seems to use, while its gradient arrives at
    other branches of that join and is exactly zero at this one: a mask, a matrix, or an operation that no rule is
    known for keeps the branches apart, which the graph does not tell. It is looked for by differentiating each loss
    down to the joins, where there are any; on a GPU it waits. No sign is a loss without a gradient at a whole join
    (of weight zero, all of it masked, a head that starts from zeros), nor a branch that no loss has a gradient at.
    """
    trace = Trace.of(losses)
    shared = {leaf for leaf, users in trace.leaves().items() if users & (users - 1)}
    shared &= {id(param) for param in params}
    if not shared or "CompiledFunctionBackward" in trace.names.values():
        return
    joins = _joins(trace)
    ends: dict[tuple[Node, int], int] = {}
    for end, users in (branch for branches in joins for branch in branches):
        ends[end] = ends.get(end, 0) | users
    if not ends:
        return
    try:
        zeros = [_without_gradient(loss, t, ends) for t, loss in enumerate(losses)]
    except RuntimeError:  # the task's own backward says it in the user's words
        return
    signs = [_signs(joins, t, zero) for t, zero in enumerate(zeros)]
    if not any(signs):
        return
    arrived = [_leaves(trace, t, zero) for t, zero in enumerate(zeros)]
    hidden: dict[int, Tensor] = {}
    for t, sign in enumerate(signs):
        if sign:
            past = _leaves(trace, t, sign)
            others = set().union(*(leaves for u, leaves in enumerate(arrived) if u != t))
            hidden |= {
                name: leaf
                for name, leaf in _leaves(trace, t, set()).items()
                if name in shared and name in others and name not in past
            }
    if hidden:
        shape = tuple(next(iter(hidden.values())).shape)
        warnings.warn(
            f"Several losses seem to reach {len(hidden)} parameters (the first has shape {shape}) that get no gradient "
            "from some of them: predictions or losses are joined in one tensor, of which each loss uses a part in a "
            "way that the graph does not tell. They count as shared. Name those that are in `shared`, or index the "
            "joined tensor by slices and numbers.",
            stacklevel=5,
        )


# ---- where it is looked for ---------------------------------------------------------------------


def _joins(trace: Trace) -> list[list[_Branch]]:
    """The branches of each join, but for joins that lie deep in what is shared.

    Below the first operation that mixes what several losses use, the joins are looked at that come next, and not
    those below another such operation. A sum is a join only above the first of these, where something may keep the
    gradient from a branch: what several losses compute at once, numbers, and what has met no weight.
    """
    starts = [start[0] for start in trace.starts if start is not None]
    depth, weightless = dict.fromkeys(starts, 0), set(starts)
    found = []
    for node in trace.order:
        here, name = depth.get(node, _DEEP), trace.names[node]
        used = [edge for edge in trace.edges(node) if edge[2]]
        if here == _DEEP or not used:
            continue
        several = bool(trace.reached[node] & (trace.reached[node] - 1))
        joins = len(used) > 1 and (name in _JOINS or _may_join(trace, node, used))
        sums = len(used) > 1 and name in _SUMS and not here
        if sums and (several or node in weightless or _size(node, 0) == 1):
            joins = any(_is_doubtful(trace, *edge) for edge in used)
        if joins:
            branches = [(_ends(trace, *edge)[-1], edge[2]) for edge in used]
            if len({end for end, _ in branches}) > 1:
                found.append(branches)
        if several and (joins if here == 1 else name not in RULES and name not in _JOINS):
            here += 1
        for after, _, _ in used:
            depth[after] = min(here, depth.get(after, here))
        if node in weightless and not any(_is_weight(trace, after) for after, _, _ in used):
            weightless.update(after for after, _, _ in used)
    return found


def _ends(trace: Trace, node: Node, place: int, users: int) -> list[tuple[Node, int]]:
    """The outputs that a branch leads to, until a node has several operands."""
    found = [(node, place)]
    while len(edges := trace.edges(node)) == 1 and not users & ~edges[0][2]:
        after, at, _ = edges[0]
        leaf = not trace.following[after]
        if leaf and _size(after, at) > _size(node, place):
            break  # its gradient would cost more memory than the branch
        found.append((after, at))
        node, place = after, at
    return found


def _is_doubtful(trace: Trace, node: Node, place: int, users: int) -> bool:
    """Whether something on a branch may keep the gradient from its end."""
    names = (trace.names[one] for one, _ in _ends(trace, node, place, users)[:-1])
    return any(name == "MulBackward0" or name in NARROWING or name not in RULES for name in names)


def _may_join(trace: Trace, node: Node, used: Sequence[tuple[Node, int, int]]) -> bool:
    """Whether it is a function of the user's own with several operands besides weights."""
    own = isinstance(node, torch.autograd.function.BackwardCFunction)
    return own and sum(not _is_weight(trace, after) for after, _, _ in used) > 1


def _size(node: Node, place: int) -> float:
    """How many elements an output has; infinity where that is no number, as of nested tensors."""
    try:
        return math.prod(int(size) for size in shape_of(node, place))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return math.inf


def _is_weight(trace: Trace, node: Node) -> bool:
    """Whether it is a leaf, or the transpose of one."""
    return not any(trace.following[after] for after, _, _ in trace.edges(node))


# ---- what is found there ------------------------------------------------------------------------


def _without_gradient(
    loss: Tensor | None, task: int, ends: Mapping[tuple[Node, int], int]
) -> set[tuple[Node, int]]:
    """The outputs of nodes that a loss seems to use, and at which its gradient is zero."""
    used = [end for end, users in ends.items() if users >> task & 1]
    start: Any = None if loss is None else root(loss)
    if start is None or not used:
        return set()
    gradients = torch.autograd.grad(
        [start],
        [GradientEdge(node, place) for node, place in used],
        retain_graph=True,
        allow_unused=True,
    )
    return {end for end, one in zip(used, gradients, strict=True) if one is None or _is_zero(one)}


def _is_zero(gradient: Tensor) -> bool:
    values = gradient._values() if gradient.layout is torch.sparse_coo else gradient
    return not bool((values != 0).any())


def _signs(
    joins: Sequence[Sequence[_Branch]], task: int, zeros: set[tuple[Node, int]]
) -> set[tuple[Node, int]]:
    """The ends without a gradient of joins that a loss has a gradient at elsewhere."""
    found: set[tuple[Node, int]] = set()
    for branches in joins if zeros else ():
        used = {end for end, users in branches if users >> task & 1}
        if not used <= zeros:
            found |= used & zeros
    return found


def _leaves(trace: Trace, task: int, stops: set[tuple[Node, int]]) -> dict[int, Tensor]:
    """The leaves that a loss seems to use otherwise than through some outputs, by their ``id``."""
    start = trace.starts[task]
    met: set[Node] = set() if start is None or start in stops else {start[0]}
    found: dict[int, Tensor] = {}
    for node in trace.order if met else ():
        if node in met:
            met.update(
                after
                for after, place, users in trace.edges(node)
                if users >> task & 1 and (after, place) not in stops
            )
            variable = None if trace.following[node] else getattr(node, "variable", None)
            if variable is not None:
                found[id(variable)] = variable
    return found
