"""The kernels over the long gradients, each against its definition in :mod:`mtl_ops.reference`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .finding import Comparison, Finding, judge
from .rows import EPSILON, SEGMENTS, Case, cases, dyadic, magnitudes, normal

__all__ = ["PASSES", "check_passes"]

#: Error of G, as a share of the product of two norms: sums in float32 lanes, or in float64 throughout.
GRAM_ERROR = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}

#: ``clip_value``, ``max_norm`` and ``accumulate``.
RULES = ((None, None, False), (0.75, None, True), (1.5, 0.5, False))

#: What follows ``accumulate`` in the methods of single coordinates, for T tasks.
COORDINATES: dict[str, Callable[[int], tuple[tuple[Any, ...], ...]]] = {
    "merge_graddrop_": lambda tasks: (
        ([0.0] * tasks, 3, 5, None, []),
        ([0.25] * tasks, -7, 2**40, None, [70, 2**32 - 9, 1, 0, 4096, 13, 500]),
    ),
    "merge_trimmed_mean_": lambda _: ((0,), (1,)),
    "merge_median_": lambda _: ((),),
    "merge_sign_agreement_": lambda _: ((0.4, True), (1.0, False)),
}


def check_passes(device: str) -> Iterator[Finding]:
    """Measuring and merging, in every way."""
    for name, compare in PASSES.items():
        yield judge(name, device, functools.partial(compare, device))


def _gram(device: str) -> Iterator[Comparison]:
    for case, (clip_value, _, _) in zip(cases(device, normal), itertools.cycle(RULES)):
        _, rows = case.on(device)
        found = torch.ops.mtl_ops.gram(rows, case.tasks, SEGMENTS, clip_value).cpu()
        wanted = reference.gram(case.rows, case.tasks, SEGMENTS, clip_value)
        norms = wanted.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        allowed = GRAM_ERROR[case.dtype] * norms.unsqueeze(1) * norms.unsqueeze(2)
        off = share(found, wanted, allowed)
        off = off if torch.equal(found, found.transpose(1, 2)) else torch.inf
        yield Comparison(f"{case}, clip_value = {clip_value}", off)
    for dtype in EPSILON:  # what is added up in too few bits, or twice, shows in a sum of ones
        ones = torch.ones(70_001, dtype=dtype, device=device)
        found = torch.ops.mtl_ops.gram([ones, -ones], 2, [], None).cpu()
        wanted = reference.gram([ones.cpu(), -ones.cpu()], 2, [], None)
        yield Comparison(f"70,001 ones, {dtype}", 0.0 if torch.equal(found, wanted) else torch.inf)


def _gram_and_scales(device: str) -> Iterator[Comparison]:
    """What the two operators answer one after the other, to the last bit."""
    kernels = torch.ops.mtl_ops
    for case, (clip_value, limit, skip) in zip(cases(device, normal), itertools.cycle(RULES)):
        _, rows = case.on(device)
        weights = [float(place % 4) / 2 for place in range(3 * case.tasks)]
        counts = [torch.arange(case.tasks, device=device) for _ in range(2)]
        given = (rows, case.tasks, SEGMENTS, clip_value)
        found = kernels.gram_and_scales(*given, weights, limit, skip, counts[0])
        gram = kernels.gram(*given)
        wanted = (gram, kernels.task_scales(gram, weights, limit, skip, counts[1]))
        pairs = [*zip(found, wanted, strict=True), (counts[0], counts[1])]
        same = all(torch.equal(one, other) for one, other in pairs)
        yield Comparison(f"{case}, max_task_norm = {limit}", 0.0 if same else torch.inf)


def _task_scales(device: str) -> Iterator[Comparison]:
    for tasks in (1, 2, 5, 33, 64):
        squares = torch.linspace(0.1, 9.0, 3 * tasks * tasks, dtype=torch.float64)
        gram = squares.view(3, tasks, tasks).clone()
        gram[0, tasks // 2, tasks // 2] = torch.nan
        weights = [float(place % 4) / 2 for place in range(3 * tasks)]
        for limit, skip in ((None, False), (1.5, True)):
            counts = [torch.arange(tasks), torch.arange(tasks).to(device)]
            there = gram.to(device)
            found = torch.ops.mtl_ops.task_scales(there, weights, limit, skip, counts[1]).cpu()
            wanted = reference.task_scales(gram, weights, limit, skip, counts[0])
            off = share(found, wanted, 1e-14 * wanted.abs())
            off = off if torch.equal(counts[0], counts[1].cpu()) else torch.inf
            yield Comparison(f"T = {tasks}, skip_nonfinite = {skip}", off)


def _merge(device: str) -> Iterator[Comparison]:
    for case, rules in zip(cases(device, normal), itertools.cycle(RULES)):
        clip_value, max_norm, accumulate = rules
        weights = torch.linspace(-1.0, 2.0, 3 * case.tasks, dtype=torch.float64)
        weights = weights.view(3, case.tasks)
        weights[1, case.tasks // 2] = 0.0
        gram = reference.gram(case.rows, case.tasks, SEGMENTS, None)
        out, rows = case.on(device)
        rest = (SEGMENTS, max_norm, clip_value, accumulate)
        there = (weights.to(device), gram.to(device))
        factor = torch.ops.mtl_ops.merge_(out, rows, *there, *rest).cpu()
        wanted, terms = case.exact(), [target.abs() for target in case.exact()]
        right = reference.merge_(wanted, case.rows, weights, gram, *rest)
        rest = (SEGMENTS, None, clip_value, accumulate)
        reference.merge_(terms, magnitudes(case.rows), right.abs() * weights.abs(), None, *rest)
        off = share(factor, right, 1e-12 * right.abs())
        off = max(off, _rounded(case, out, wanted, terms))
        name = f"{case}, clip_value = {clip_value}, max_norm = {max_norm}"
        yield Comparison(f"{name}, accumulate = {accumulate}", off)


def _coordinates(name: str, device: str) -> Iterator[Comparison]:
    rules = itertools.cycle(RULES)
    for case in cases(device, dyadic):
        scale = torch.tensor([0.5, 1.0, 2.0, 1.0], dtype=torch.float64)
        scale = scale[torch.arange(3 * case.tasks) % 4].view(3, case.tasks).contiguous()
        scale[1, case.tasks // 2] = 0.0
        for own in COORDINATES[name](case.tasks):
            clip_value, _, accumulate = next(rules)
            out, rows = case.on(device)
            rest = (SEGMENTS, clip_value, accumulate, *own)
            square = getattr(torch.ops.mtl_ops, name)(out, rows, scale.to(device), *rest).cpu()
            wanted = case.exact()
            right = getattr(reference, name)(wanted, case.rows, scale, *rest)
            terms = [1.0 + target.abs() for target in wanted]
            off = max(share(square, right, 1e-5 * right), _rounded(case, out, wanted, terms))
            yield Comparison(f"{case}, clip_value = {clip_value}, {own[:1]}", off)


def share(found: Tensor, wanted: Tensor, allowed: Tensor) -> float:
    """The largest error, as a share of what is allowed there; NaN should meet NaN."""
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    shares = torch.where(same, 0.0, (found - wanted).abs() / allowed)
    return float(shares.nan_to_num(nan=torch.inf).max()) if shares.numel() else 0.0


def _rounded(
    case: Case, found: Sequence[Tensor], wanted: Sequence[Tensor], terms: Sequence[Tensor]
) -> float:
    """Rounding of each element, and of the sum of its terms; ``terms`` are the sums of magnitudes."""
    worst = 0.0
    inner = (
        64 * EPSILON[torch.float64] if case.dtype == torch.float64 else 16 * EPSILON[torch.float32]
    )
    smallest = torch.finfo(case.dtype).smallest_normal
    for one, other, size in zip(found, wanted, terms, strict=True):
        allowed = 1.01 * EPSILON[case.dtype] * other.abs() + inner * size + smallest
        worst = max(worst, share(one.cpu().double(), other, allowed))
    return worst


#: What compares each operator on a device.
PASSES: dict[str, Callable[[str], Iterator[Comparison]]] = {
    "gram": _gram,
    "gram_and_scales": _gram_and_scales,
    "task_scales": _task_scales,
    "merge_": _merge,
    **{name: functools.partial(_coordinates, name) for name in COORDINATES},
}
