"""Operations that move the elements of tensors, and which part of their operands a part of the result comes from.

What the forward saved is read off the nodes of autograd here and nowhere else. Where a node does not have what is
expected (another version of torch, a graph that was freed) every operand counts as used as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from . import scattering
from .overwriting import written_part
from .parts import (
    NOTHING,
    WHOLE,
    Part,
    broadcast,
    intersect,
    of_indices,
    reshape,
    spread,
    tidy,
    union,
    without,
)
from .saved import dim_of, readable, shape_of, signed

__all__ = ["NARROWING", "RULES", "SLOTTED", "operands"]

#: Of a node and the part of each of its outputs that is used: the part of each operand, ``NOTHING`` if none is.
Rule = Callable[[Node, Mapping[int, Part]], list[Part | None]]


def operands(node: Node, rule: Rule, used: Mapping[int, Part]) -> list[Part | None]:
    """The part of each operand of a node that the used parts of its outputs are computed from."""
    try:
        return [
            WHOLE if part and not any(map(_is_some, part)) else part for part in rule(node, used)
        ]
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return [WHOLE] * len(node.next_functions)


def _is_some(bits: int | None) -> bool:
    return bits is not None


# ---- one output, of which parts are used -------------------------------------------------------


def _elementwise(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    return [
        NOTHING if after is None else broadcast(used[0], shape, shape_of(after, place))
        for after, place in node.next_functions
    ]


def _view(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    return [reshape(used[0], shape_of(node, 0), node._saved_self_sym_sizes)]


def _unsqueeze(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    dims, d = spread(used[0], len(shape)), dim_of(node, len(shape))
    return [tidy(dims[:d] + dims[d + 1 :], shape[:d] + shape[d + 1 :])]


def _transpose(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    dims = spread(used[0], len(shape_of(node, 0)))
    if node.name() == "TBackward0":
        return [tuple(reversed(dims))]
    a, b = (dim_of(node, len(dims), name) for name in ("_saved_dim0", "_saved_dim1"))
    dims[a], dims[b] = dims[b], dims[a]
    return [tuple(dims)]


def _permute(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    dims = spread(used[0], len(shape_of(node, 0)))
    found: list[int | None] = [None] * len(dims)
    for d, source in enumerate(node._saved_dims):
        found[signed(source) % len(dims)] = dims[d]
    return [tuple(found)]


def _expand(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    return [broadcast(used[0], shape_of(node, 0), node._saved_self_sym_sizes)]


def _reduce(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """A sum or mean over some dimensions."""
    shape = node._saved_self_sym_sizes
    reduced = {signed(d) % len(shape) for d in node._saved_dim} or set(range(len(shape)))
    dims = spread(used[0], len(shape_of(node, 0)))
    left = iter(dims)
    found: list[int | None] = []
    for d in range(len(shape)):
        bits = None if d in reduced and not node._saved_keepdim else next(left)
        found.append(None if d in reduced else bits)
    return [tidy(found, shape)]


def _flip(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    dims = spread(used[0], len(shape))
    for d in {signed(d) % len(shape) for d in node._saved_dims}:
        bits = dims[d]
        if bits is not None:
            dims[d] = of_indices(shape[d] - 1 - i for i in range(shape[d]) if bits >> i & 1)
    return [tidy(dims, shape)]


def _along(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    """What mixes the elements of one dimension, as a softmax."""
    dims = spread(used[0], len(shape_of(node, 0)))
    dims[dim_of(node, len(dims))] = None
    return [tuple(dims)]


# ---- joins -------------------------------------------------------------------------------------


def _cat(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    d = dim_of(node, len(shape))
    dims = spread(used[0], len(shape))
    sizes = [_cat_size(after, place, d) for after, place in node.next_functions]
    starts = _starts(sizes, shape[d])
    found: list[Part | None] = []
    for start, size in zip(starts, sizes, strict=True):
        if size is None:
            found.append(NOTHING)  # it requires no gradient
        elif start is None:
            found.append(WHOLE)
        else:
            bits = None if dims[d] is None else (dims[d] or 0) >> start & ((1 << size) - 1)
            found.append(
                tidy([*dims[:d], bits, *dims[d + 1 :]], (*shape[:d], size, *shape[d + 1 :]))
            )
    return found


def _cat_size(node: Node | None, place: int, dim: int) -> int | None:
    """``None`` where there is no node that tells."""
    if node is None:
        return None
    shape = shape_of(node, place)
    return (
        shape[dim] if shape != (0,) else 0
    )  # such a tensor is left out, whatever the others' dimensions


def _starts(sizes: Sequence[int | None], total: int) -> list[int | None]:
    """Where each tensor of a join begins, as far as that can be told from both of its ends."""
    starts: list[int | None] = [None] * len(sizes)
    before, after = 0, total
    for k, size in enumerate(sizes):
        starts[k] = before
        if size is None:
            break
        before += size
    for k in reversed(range(len(sizes))):
        size = sizes[k]
        if size is None:
            break
        after -= size
        starts[k] = after
    return starts


def _stack(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    d = dim_of(node, len(shape))
    dims = spread(used[0], len(shape))
    rest = tidy(dims[:d] + dims[d + 1 :], shape[:d] + shape[d + 1 :])
    bits = dims[d]
    return [
        rest if bits is None or bits >> k & 1 else NOTHING for k in range(len(node.next_functions))
    ]


def _copy_slices(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    """A tensor of which a view was written to; the operands are the tensor and what was written."""
    written = written_part(node)
    if written is None:
        return [WHOLE] * len(node.next_functions)
    shape = shape_of(node, 0)
    found: list[Part | None] = [without(used[0], written.part, shape)]
    taken = intersect(used[0], written.part)
    for after, place in node.next_functions[1:]:
        if after is None or taken is NOTHING:
            found.append(NOTHING)
        else:
            view = tidy(written.in_view(spread(taken, len(shape))), written.sizes)
            source = shape_of(after, place)
            found.append(NOTHING if view is NOTHING else broadcast(view, written.sizes, source))
    return found


def _copy(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    """A whole tensor that was written to."""
    after, place = node.next_functions[1]
    shape = shape_of(node, 0)
    return [
        NOTHING,
        NOTHING if after is None else broadcast(used[0], shape, shape_of(after, place)),
    ]


def _index_put(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(node, 0)
    chosen = _indexed(node, len(shape))
    if node._saved_accumulate or chosen is None:
        return [WHOLE] * len(node.next_functions)
    d, indices, _ = chosen
    dims: list[int | None] = [None] * len(shape)
    dims[d] = of_indices(index % shape[d] for index in indices)
    written = tuple(dims)
    values = NOTHING if intersect(used[0], written) is NOTHING else WHOLE
    return [without(used[0], written, shape), values]


# ---- what picks a part -------------------------------------------------------------------------


def _select(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = node._saved_self_sym_sizes
    d = dim_of(node, len(shape))
    dims = spread(used[0], len(shape) - 1)
    return [tidy([*dims[:d], 1 << signed(node._saved_index) % shape[d], *dims[d:]], shape)]


def _slice(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = node._saved_self_sym_sizes
    d = dim_of(node, len(shape))
    start, end = (
        None if bound is None else signed(bound) for bound in (node._saved_start, node._saved_end)
    )
    picked = range(shape[d])[start : end : node._saved_step]
    return [_picked(used[0], d, picked, shape)]


def _picked(part: Part, dim: int, picked: Sequence[int], shape: Sequence[int]) -> Part | None:
    """A part of some indices of one dimension, as a part of the whole."""
    dims = spread(part, len(shape))
    bits = dims[dim]
    if isinstance(picked, range) and picked.step == 1:
        every = (1 << len(picked)) - 1 if bits is None else bits
        dims[dim] = every << picked.start
    else:
        dims[dim] = of_indices(i for k, i in enumerate(picked) if bits is None or bits >> k & 1)
    return tidy(dims, shape)


def _unbind(node: Node, used: Mapping[int, Part]) -> list[Part | None]:
    shape = shape_of(*node.next_functions[0])  # of the node's own outputs it would list them all
    d = dim_of(node, len(shape))
    found: Part | None = NOTHING
    for place, part in used.items():
        dims = spread(part, len(shape) - 1)
        found = _joined(found, tidy([*dims[:d], 1 << place, *dims[d:]], shape))
    return [found]


def _split(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = node._saved_self_sym_sizes
    d = dim_of(node, len(shape))
    found: Part | None = NOTHING
    for place, part in used.items():
        if node.name().startswith("SplitWithSizes"):
            start = sum(node._saved_split_sizes[:place])
            stop = start + node._saved_split_sizes[place]
        else:
            start = node._saved_split_size * place
            stop = min(start + node._saved_split_size, shape[d])
        found = _joined(found, _picked(part, d, range(start, stop), shape))
    return [found]


def _joined(one: Part | None, two: Part | None) -> Part | None:
    if one is NOTHING or two is NOTHING:
        return two if one is NOTHING else one
    return union(one, two)


def _index_select(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = node._saved_self_sym_sizes
    index: Tensor = node._saved_index
    d = dim_of(node, len(shape))
    if not readable(index):
        dims = spread(used[0], len(shape))
        dims[d] = None
        return [tidy(dims, shape)]
    return [_picked(used[0], d, index.reshape(-1).tolist(), shape)]


def _index(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    shape = node._saved_self_sym_sizes
    chosen = _indexed(node, len(shape))
    if chosen is None:
        return [WHOLE]
    d, indices, width = chosen
    dims = spread(used[0], len(shape) - 1 + width)
    bits = dims[d] if width == 1 else None
    picked = [index % shape[d] for k, index in enumerate(indices) if bits is None or bits >> k & 1]
    return [tidy([*dims[:d], of_indices(picked), *dims[d + width :]], shape)]


def _indexed(node: Any, dims: int) -> tuple[int, list[int], int] | None:
    """The one dimension that is indexed, by what, and of how many dimensions; ``None`` if there is another number."""
    given = [(d, index) for d, index in enumerate(node._saved_indices) if index is not None]
    if len(given) != 1:
        return None
    d, index = given[0]
    if not readable(index) or (index.dtype == torch.bool and index.dim() != 1) or d >= dims:
        return None
    if index.dtype == torch.bool:
        index = index.nonzero().reshape(-1)
        return d, index.tolist(), 1
    return d, index.reshape(-1).tolist(), index.dim()


_ELEMENTWISE = """
    Abs Add Alias BinaryCrossEntropy BinaryCrossEntropyWithLogits Celu Clamp ClampMax ClampMin Clone Cos Detach Div Elu
    Erf Exp Expm1 Gelu Hardsigmoid Hardswish Hardtanh HuberLoss LeakyRelu Log Log1P LogSigmoid Logit Maximum Minimum
    MaskedFill Mish MseLoss Mul NanToNum NativeDropout Neg Pow Reciprocal Relu Rsqrt Rsub Sigmoid Silu Sin SmoothL1Loss
    Softplus Sqrt Sub Tanh Threshold ToCopy Where
""".split()  # noqa: SIM905

#: The rule of each kind of node; all others mix what they get.
RULES: dict[str, Rule] = {
    **{f"{name}Backward{number}": _elementwise for name in _ELEMENTWISE for number in "01"},
    **dict.fromkeys(
        (
            "ViewBackward0",
            "UnsafeViewBackward0",
            "ReshapeAliasBackward0",
            "SqueezeBackward0",
            "SqueezeBackward1",
            "SqueezeBackward2",
        ),
        _view,
    ),
    **dict.fromkeys(["SumBackward1", "MeanBackward1"], _reduce),
    **dict.fromkeys(["SoftmaxBackward0", "LogSoftmaxBackward0", "CumsumBackward0"], _along),
    **dict.fromkeys(["TransposeBackward0", "TBackward0"], _transpose),
    **dict.fromkeys(["SplitBackward0", "SplitWithSizesBackward0"], _split),
    **dict.fromkeys(["CopySlices", "torch::autograd::CopySlices"], _copy_slices),
    "UnsqueezeBackward0": _unsqueeze,
    "PermuteBackward0": _permute,
    "FlipBackward0": _flip,
    "ConstantPadNdBackward0": scattering.pad,
    "RollBackward0": scattering.roll,
    "ExpandBackward0": _expand,
    "CatBackward0": _cat,
    "StackBackward0": _stack,
    "IndexPutBackward0": _index_put,
    "SliceScatterBackward0": scattering.slice_scatter,
    "SelectScatterBackward0": scattering.select_scatter,
    "ScatterBackward0": scattering.scatter,
    "ScatterAddBackward0": scattering.scatter_add,
    "IndexCopyBackward0": scattering.index_copy,
    "IndexAddBackward0": scattering.index_add,
    **dict.fromkeys(["CopyBackwards", "torch::autograd::CopyBackwards"], _copy),
    "SelectBackward0": _select,
    "SliceBackward0": _slice,
    "UnbindBackward0": _unbind,
    "IndexBackward0": _index,
    "IndexSelectBackward0": _index_select,
}

#: Nodes with several outputs, each of which is a part.
SLOTTED = frozenset({"UnbindBackward0", "SplitBackward0", "SplitWithSizesBackward0"})

#: Nodes that may use nothing of an operand where a part of their result is used: what joins tensors, or takes none.
DROPPING = frozenset(
    {
        "CatBackward0",
        "ConstantPadNdBackward0",
        "CopyBackwards",
        "torch::autograd::CopyBackwards",
        "CopySlices",
        "torch::autograd::CopySlices",
        "IndexAddBackward0",
        "IndexBackward0",
        "IndexCopyBackward0",
        "IndexPutBackward0",
        "IndexSelectBackward0",
        "ScatterAddBackward0",
        "ScatterBackward0",
        "SelectScatterBackward0",
        "SliceBackward0",
        "SliceScatterBackward0",
        "SplitWithSizesBackward0",
        "StackBackward0",
    }
)

#: Nodes that use a part of an operand where all of their own result is used.
NARROWING = SLOTTED | {
    "SelectBackward0",
    "SliceBackward0",
    "IndexBackward0",
    "IndexSelectBackward0",
    "IndexPutBackward0",
    "SliceScatterBackward0",
    "SelectScatterBackward0",
    "ScatterBackward0",
    "IndexCopyBackward0",
    "CopyBackwards",
    "torch::autograd::CopyBackwards",
    "CopySlices",
    "torch::autograd::CopySlices",
}
