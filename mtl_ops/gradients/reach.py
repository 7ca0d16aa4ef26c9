"""Which parameters a loss depends on, by what part of each tensor it uses.

Autograd alone says too much: the backward of ``torch.cat`` hands zeros to the heads whose columns a loss does not
use, so that each loss seems to reach all of them. Here the part that is used is followed from each loss through what
only moves elements, or works on each by itself, and what feeds no used part is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .movement import DROPPING, NARROWING, RULES, SLOTTED, Rule, operands
from .parts import NOTHING, WHOLE, Part, union
from .saved import name_of, named_by_type

__all__ = [
    "Trace",
    "leaves_of_each",
    "narrowed",
    "root",
    "root_node",
    "roots_of_stack",
    "surely_differentiable",
]

#: What hands on an element as it is.
_MOVES = NARROWING | {
    "AliasBackward0",
    "CatBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "StackBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
}


def root(loss: Tensor) -> Tensor | GradientEdge | None:
    """What to differentiate: of an element of a tensor of losses, the loss that became that element.

    ``None`` for a loss that does not require a gradient, also as such an element.
    """
    if not loss.requires_grad:
        return None
    node, place = loss.grad_fn, loss.output_nr
    if node is None or name_of(node) not in _MOVES:
        return loss
    part: Part = WHOLE
    found: Tensor | GradientEdge = loss
    stack = _stack_of_scalars(node, loss)
    if stack is not None:  # the usual tensor of losses, in every step
        node, place = stack.next_functions[place]
        if node is None:
            return None
        if _is_like(node, place, loss.shape, loss.dtype):
            found = GradientEdge(node, place)
    while (name := name_of(node)) in _MOVES:
        used = [
            (edge, one)
            for edge, one in zip(
                node.next_functions, operands(node, RULES[name], {place: part}), strict=True
            )
            if one is not NOTHING
        ]
        if len(used) != 1:
            break
        (after, place), part = used[0]
        if after is None:
            return None
        node = after
        if not part and _is_like(node, place, loss.shape, loss.dtype):
            found = GradientEdge(node, place)
    return found


def roots_of_stack(stacked: Tensor) -> list[GradientEdge] | None:
    """The :func:`root` of each element of a tensor of losses ``(T,)`` that was stacked of scalars, in fewer looks.

    ``None`` if it was made otherwise, or one of them takes a closer look.
    """
    node = stacked.grad_fn
    if node is None or name_of(node) != "StackBackward0":
        return None
    found = []
    for after, place in node.next_functions:
        if after is None or name_of(after) in _MOVES:
            return None
        if not _is_like(after, place, (), stacked.dtype):
            return None
        found.append(GradientEdge(after, place))
    return found


def surely_differentiable(stacked: Tensor) -> bool:
    """Whether every element of a tensor of losses ``(T,)`` has a :func:`root`, by a look at what made the tensor.

    ``False`` where that takes a closer look.
    """
    node = stacked.grad_fn
    if node is None:
        return stacked.requires_grad
    name = name_of(node)
    if name != "StackBackward0":
        return name not in _MOVES
    return not any(after is None or name_of(after) in _MOVES for after, _ in node.next_functions)


def _stack_of_scalars(node: Any, loss: Tensor) -> Node | None:
    """The node that stacked losses, if ``node`` takes them apart again; ``None`` for anything else.

    Of one dimension there is only one to take apart, and to stack along.
    """
    if loss.dim() or name_of(node) != "UnbindBackward0":
        return None
    stack: Node | None = node.next_functions[0][0]
    return stack if stack is not None and name_of(stack) == "StackBackward0" else None


def _is_like(node: Node, place: int, shape: Sequence[int], dtype: torch.dtype) -> bool:
    variable = getattr(node, "variable", None)
    metadata = node._input_metadata[place] if variable is None else variable
    return bool(metadata.dtype == dtype and tuple(metadata.shape) == tuple(shape))


def root_node(loss: Tensor | None) -> Node | None:
    """The first node of a loss's backward; ``None`` for a leaf."""
    start = None if loss is None else root(loss)
    if start is None or isinstance(start, Tensor):
        return None if start is None else start.grad_fn
    return start.node


@dataclass
class Trace:
    """What the losses are computed from.

    Losses are bits here: the number ``5`` stands for those at places 0 and 2.

    Attributes:
        starts: Of each loss where its backward begins; ``None`` for a leaf, and for no loss.
        order: The nodes, each before all that it leads to.
        following: What each node leads to.
        names: The name of each node.
        reached: The losses that use what a node computed.
        by_edge: The same of each edge to what follows, of nodes where it differs between them.
        narrowed: Whether a loss uses nothing of what one of its nodes leads to.
    """

    starts: list[tuple[Node, int] | None]
    order: list[Node] = field(default_factory=list)
    following: dict[Node, tuple[tuple[Node | None, int], ...]] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    reached: dict[Node, int] = field(default_factory=dict)
    by_edge: dict[Node, list[int]] = field(default_factory=dict)
    narrowed: bool = False
    _edges: dict[Node, list[tuple[Node, int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, losses: Sequence[Tensor | None]) -> Trace:
        """Follows the losses to the leaves."""
        trace = cls([_start(loss) for loss in losses])
        for start in trace.starts:
            if start is not None:
                trace._visit(start[0])
        trace.order.reverse()
        trace._follow()
        return trace

    def edges(self, node: Node) -> list[tuple[Node, int, int]]:
        """What a node leads to: nodes, which of their outputs, and the losses that use it."""
        found = self._edges.get(node)
        if found is None:
            uses = self.by_edge.get(node)
            bits = self.reached[node]
            found = self._edges[node] = [
                (after, place, bits if uses is None else uses[k])
                for k, (after, place) in enumerate(self.following[node])
                if after is not None
            ]
        return found

    def leaves(self) -> dict[int, int]:
        """The losses that use a leaf, by its ``id``."""
        found = {}
        for node in self.order:
            variable = None if self.following[node] else getattr(node, "variable", None)
            if variable is not None and self.reached[node]:
                found[id(variable)] = self.reached[node]
        return found

    def _visit(self, start: Node) -> None:
        """Appends to the order, of which the last come first here."""
        order, following, names = self.order, self.following, self.names
        waiting: list[Node | None] = [start]
        opened: list[Node] = []
        while waiting:
            node = waiting.pop()
            if node is None:  # all that the last opened one leads to is done
                order.append(opened.pop())
            elif node not in following:
                edges = node.next_functions
                following[node] = edges
                names[node] = name_of(node)
                opened.append(node)
                waiting.append(None)
                waiting.extend(after for after, _ in edges if after is not None)

    def _follow(self) -> None:
        following, names = self.following, self.names
        reached = self.reached = dict.fromkeys(self.order, 0)
        parts: dict[Node, dict[int, dict[int, Part]]] = {}
        for t, start in enumerate(self.starts):
            if start is not None:
                self._send(start, WHOLE, 1 << t, parts)
        for node in self.order:
            bits, name = reached[node], names[node]
            if not bits:
                continue
            if name in NARROWING or node in parts:
                self._follow_parts(node, RULES[name], parts)
                continue
            for after, place in following[node]:
                if after is None:
                    continue
                if names[after] in SLOTTED or after in parts:
                    self._send((after, place), WHOLE, bits, parts)
                else:
                    reached[after] |= bits

    def _follow_parts(
        self, node: Node, rule: Rule, parts: dict[Node, dict[int, dict[int, Part]]]
    ) -> None:
        by_loss = parts.pop(node, {})
        some = sum(1 << t for t in by_loss)
        groups = [(1 << t, used) for t, used in by_loss.items()]
        if self.reached[node] & ~some:  # the others use all of its only output
            groups.append((self.reached[node] & ~some, {0: WHOLE}))
        edges = self.following[node]
        uses = [0] * len(edges)
        for bits, used in groups:
            for k, part in enumerate(operands(node, rule, used)):
                if part is NOTHING:
                    self.narrowed |= edges[k][0] is not None
                elif edges[k][0] is not None:
                    uses[k] |= bits
                    self._send(edges[k], part, bits, parts)
        self.by_edge[node] = uses

    def _send(
        self,
        edge: tuple[Node | None, int],
        part: Part,
        bits: int,
        parts: dict[Node, dict[int, dict[int, Part]]],
    ) -> None:
        """Some losses use a part of an output."""
        node, place = edge
        assert node is not None
        before = self.reached[node]
        self.reached[node] = before | bits
        name = self.names[node]
        if name not in RULES or (not part and name not in SLOTTED and node not in parts):
            return
        of_node = parts.setdefault(node, {})
        while bits:
            lowest = bits & -bits
            bits ^= lowest
            t = lowest.bit_length() - 1
            if before & lowest and t not in of_node and name not in SLOTTED:
                continue  # all of it is used already
            used = of_node.setdefault(t, {})
            used[place] = union(used[place], part) if place in used else part


def _start(loss: Tensor | None) -> tuple[Node, int] | None:
    start = None if loss is None else root(loss)
    if start is None:
        return None
    if isinstance(start, Tensor):
        return None if start.grad_fn is None else (start.grad_fn, start.output_nr)
    return start.node, start.output_nr


def leaves_of_each(losses: Sequence[Tensor | None], trace: Trace | None = None) -> list[set[int]]:
    """Of each loss the ``id`` of every leaf that it depends on."""
    found = [
        {id(loss)} if loss is not None and loss.is_leaf and loss.requires_grad else set()
        for loss in losses
    ]
    for leaf, bits in (trace or Trace.of(losses)).leaves().items():
        for t, leaves in enumerate(found):
            if bits >> t & 1:
                leaves.add(leaf)
    return found


def narrowed(
    losses: Sequence[Tensor | None],
    starts: Sequence[Tensor | GradientEdge | None] | None = None,
) -> list[set[int]] | None:
    """As :func:`leaves_of_each`; ``None`` if autograd finds no more than that by itself.

    Args:
        losses: T losses.
        starts: The :func:`root` of each, if it is known.
    """
    if starts is None:
        starts = [None if loss is None else root(loss) for loss in losses]
    if not _takes_parts(starts):
        return None
    trace = Trace.of(losses)
    return leaves_of_each(losses, trace) if trace.narrowed else None


#: Whether nodes of a type use a part of an operand, and whether they may use none of one.
_KINDS: dict[type, tuple[bool, bool]] = {}


def _kind_of(node: Node) -> tuple[bool, bool]:
    """The entry of a node, which goes by its name: remembered where each node of its type has that."""
    name = node.name()
    found = name in NARROWING, name in DROPPING
    if named_by_type(node, name):
        _KINDS[type(node)] = found
    return found


#: Of the types of all nodes of a graph, where each was remembered: the answer of :func:`_takes_parts`.
_ANSWERS: dict[frozenset[type], bool] = {}


def _takes_parts(starts: Sequence[Tensor | GradientEdge | None]) -> bool:
    """Whether a node uses a part of an operand, and another may use none of one: in most graphs this is not so.

    Asked in every step, so that what follows parts through the graph, and takes ten times as long, need not be.
    """
    nodes: list[Node] = []
    seen: set[Node | None] = {None}
    for start in starts:
        first = (
            start.grad_fn if isinstance(start, Tensor) else None if start is None else start.node
        )
        if first not in seen:
            seen.add(first)
            nodes.append(first)  # type: ignore[arg-type]
    add, append = seen.add, nodes.append
    for node in nodes:  # which become more
        for after, _ in node.next_functions:
            if after not in seen:
                add(after)
                append(after)  # type: ignore[arg-type]
    kinds = frozenset(map(type, nodes))
    answer = _ANSWERS.get(kinds)
    if answer is None:
        found = [_kind_of(node) for node in nodes]
        answer = any(narrows for narrows, _ in found) and any(drops for _, drops in found)
        if kinds <= _KINDS.keys():
            _ANSWERS[kinds] = answer
    return answer
