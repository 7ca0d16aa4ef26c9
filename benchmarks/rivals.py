"""Four ways to merge the gradients of T tasks: ours, a naive loop, LibMTL's way, and TorchJD's.

Each takes a :class:`~benchmarks.problems.Problem` and a method's name and returns a function without
arguments, the whole of what is timed: from the T lists of gradients that autograd returned to one
new list of merged gradients in the parameters' shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import mtl_ops
from mtl_ops.gradients.layout import find_layout
from mtl_ops.gradients.parameters import Parameters
from mtl_ops.gradients.tasks import Tasks
from mtl_ops.merging.call import Call
from mtl_ops.merging.merge import merge_rows
from mtl_ops.merging.rules import Rules

from .plain_solvers import SOLVERS
from .problems import Problem

__all__ = [
    "LIBMTL_METHODS",
    "NAIVE_METHODS",
    "available",
    "libmtl",
    "losses_of",
    "method_of",
    "naive",
    "ours",
    "torchjd",
    "torchjd_aggregator",
]

Merge = Callable[[], list[Tensor]]

#: Need gradients of several batches, or of another level.
NEED_BATCHES = frozenset({"auto_lambda", "forum", "modo", "moml", "sdmgrad"})
#: The fewest tasks that a method makes sense with.
FEWEST_TASKS = {"krum": 4, "trimmed_mean": 3}

N_BYZANTINE = 1


def available(names: Iterable[str] | None = None, tasks: int = 64) -> list[str]:
    """Those of the names, or of all methods, that this build has and a batch of T tasks allows."""
    known = mtl_ops.methods.available()
    return [
        name
        for name in (known if names is None else names)
        if name in known and name not in NEED_BATCHES and tasks >= FEWEST_TASKS.get(name, 1)
    ]


def method_of(name: str, tasks: int) -> mtl_ops.Method:
    """A new method of that name, with its defaults where it has some."""
    even = [1.0 / tasks] * tasks
    parameters: dict[str, dict[str, Any]] = {
        "constant": {"weights": even},
        "cosmos": {"preference": even, "lam": 1.0},
        "cr_mogm": {"method": "upgrad"},
        "krum": {"n_byzantine": N_BYZANTINE},
        "pbi": {"weights": even},
    }
    return mtl_ops.methods.get(name, **parameters.get(name, {}))


def losses_of(tasks: int, device: torch.device | str) -> Tensor:
    """Some losses, for methods that look at them."""
    return torch.linspace(1.0, 2.0, tasks, dtype=torch.float64, device=device)


def ours(problem: Problem, method: str, **given: Any) -> Merge:
    """What :meth:`MultiTaskOptimizer.backward` does after the last task's backward."""
    rows, tasks = problem.flat, len(problem.rows)
    merger = method_of(method, tasks)
    losses = losses_of(tasks, problem.params[0].device)
    known = Tasks(None, (None,) * tasks, part=(True,) * tasks, totals=losses)
    params, rules = Parameters(problem.params), Rules(nonfinite="skip_task")
    call = Call(merger, known, params, [1.0] * tasks, rules, given)

    def run() -> list[Tensor]:
        layout = find_layout(rows, tasks)
        out = [torch.empty_like(param) for param in problem.params]
        merge_rows(call, rows, out, layout)
        return out

    return run


# ---- a naive loop: one long vector a task, and the formula of the paper -------------------------


def naive(problem: Problem, method: str, orders: Tensor | None = None) -> Merge:
    """Concatenates each task's gradients and loops over the long vectors.

    Args:
        problem: What to merge.
        method: One of :data:`NAIVE_METHODS`.
        orders: ``(T, T)`` for PCGrad and GradVac, instead of random ones.
    """
    merge = _VECTOR_METHODS.get(method) or _Weighted(SOLVERS[method])

    def call() -> list[Tensor]:
        vectors = [torch.cat([gradient.flatten() for gradient in row]) for row in problem.rows]
        merged = merge(vectors, orders) if method in _ORDERED else merge(vectors)
        return _split(merged, problem.params)

    return call


def _split(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    pieces = vector.split([param.numel() for param in params])
    return [piece.view_as(param) for piece, param in zip(pieces, params, strict=True)]


class _Weighted:
    """A method of the Gram matrix, which is filled pair by pair."""

    def __init__(self, solve: Callable[[Any], Any]) -> None:
        self.solve = solve

    def __call__(self, vectors: list[Tensor]) -> Tensor:
        tasks = len(vectors)
        gram = torch.zeros(tasks, tasks, dtype=torch.float64)
        for i in range(tasks):
            for j in range(i, tasks):
                gram[i, j] = gram[j, i] = torch.dot(vectors[i], vectors[j]).item()
        merged = torch.zeros_like(vectors[0])
        for weight, vector in zip(self.solve(gram.numpy()), vectors, strict=True):
            merged += float(weight) * vector
        return merged


def _order(orders: Tensor | None, task: int, tasks: int) -> list[int]:
    """In which order the others are visited."""
    order = torch.randperm(tasks) if orders is None else orders[task]
    return [j for j in order.tolist() if j != task]


def _pcgrad(vectors: list[Tensor], orders: Tensor | None = None) -> Tensor:
    merged = torch.zeros_like(vectors[0])
    for i, vector in enumerate(vectors):
        projected = vector.clone()
        for j in _order(orders, i, len(vectors)):
            inner = torch.dot(projected, vectors[j]).item()
            if inner < 0:
                projected -= inner / torch.dot(vectors[j], vectors[j]).item() * vectors[j]
        merged += projected
    return merged


def _gradvac(vectors: list[Tensor], orders: Tensor | None = None, beta: float = 0.5) -> Tensor:
    """The first step, where the average of the cosines that it remembers is 0."""
    merged = torch.zeros_like(vectors[0])
    goals = torch.zeros(len(vectors), len(vectors)).tolist()
    for i, vector in enumerate(vectors):
        changed = vector.clone()
        for j in _order(orders, i, len(vectors)):
            own, other = changed.norm().item(), vectors[j].norm().item()
            cosine, goal = torch.dot(changed, vectors[j]).item() / (own * other), goals[i][j]
            if cosine < goal:
                sine, goal_sine = (1 - cosine**2) ** 0.5, (1 - goal**2) ** 0.5
                factor = own * (goal * sine - cosine * goal_sine) / (other * goal_sine)
                changed += factor * vectors[j]
            goals[i][j] = (1 - beta) * goal + beta * cosine
        merged += changed
    return merged


def _graddrop(vectors: list[Tensor]) -> Tensor:
    matrix = torch.stack(vectors)
    purity = 0.5 * (1 + matrix.sum(dim=0) / matrix.abs().sum(dim=0))
    draws = torch.rand_like(purity)
    merged = torch.zeros_like(purity)
    for row in matrix:
        kept = (purity > draws) & (row > 0) | (purity < draws) & (row < 0)
        merged += kept * row
    return merged


def _trimmed_mean(vectors: list[Tensor], trim: int = 1) -> Tensor:
    return torch.stack(vectors).sort(dim=0).values[trim : len(vectors) - trim].mean(dim=0)


def _median(vectors: list[Tensor]) -> Tensor:
    ordered = torch.stack(vectors).sort(dim=0).values
    return (ordered[(len(vectors) - 1) // 2] + ordered[len(vectors) // 2]) / 2


def _sign_agreement(vectors: list[Tensor], tau: float = 1.0) -> Tensor:
    matrix = torch.stack(vectors)
    agree = matrix.sign().sum(dim=0).abs() >= tau * len(vectors)
    return agree * matrix.mean(dim=0)


_ORDERED = {"pcgrad": _pcgrad, "gradvac": _gradvac}
_VECTOR_METHODS: dict[str, Callable[..., Tensor]] = {
    **_ORDERED,
    "graddrop": _graddrop,
    "median": _median,
    "sign_agreement": _sign_agreement,
    "trimmed_mean": _trimmed_mean,
}
NAIVE_METHODS = frozenset({*SOLVERS, *_VECTOR_METHODS})


# ---- LibMTL's way: a matrix filled slice by slice, merged, and copied back ----------------------


def libmtl(problem: Problem, method: str, orders: Tensor | None = None) -> Merge:
    """Packs, merges and unpacks as LibMTL's ``AbsWeighting`` does.

    Each task's gradients are copied into a vector of zeros and that into a matrix of zeros; the
    merged vector is copied into each parameter's gradient. PCGrad loops over all pairs of rows, the
    task itself among them; the others take the Gram matrix to the host.

    Args:
        problem: What to merge.
        method: One of :data:`LIBMTL_METHODS`.
        orders: ``(T, T)`` for PCGrad, instead of random ones.
    """

    def call() -> list[Tensor]:
        matrix = _pack(problem)
        if method == "pcgrad":
            merged = _libmtl_pcgrad(matrix, orders)
        else:
            gram = (matrix @ matrix.T).cpu().double()
            weights = torch.as_tensor(SOLVERS[method](gram.numpy())).to(matrix)
            merged = torch.einsum("i,ij->j", weights, matrix)
        return [piece.clone() for piece in _split(merged, problem.params)]

    return call


LIBMTL_METHODS = frozenset({"cagrad", "mgda", "pcgrad", "upgrad"}) & NAIVE_METHODS


def _pack(problem: Problem) -> Tensor:
    like = problem.params[0]
    matrix = like.new_zeros(len(problem.rows), problem.elements)
    for task, row in enumerate(problem.rows):
        vector = like.new_zeros(problem.elements)
        start = 0
        for gradient in row:
            vector[start : start + gradient.numel()] = gradient.reshape(-1)
            start += gradient.numel()
        matrix[task] = vector
    return matrix


def _libmtl_pcgrad(matrix: Tensor, orders: Tensor | None) -> Tensor:
    projected = matrix.clone()
    tasks = len(matrix)
    for i in range(tasks):
        for j in (torch.randperm(tasks) if orders is None else orders[i]).tolist():
            inner = torch.dot(projected[i], matrix[j]).item()
            if inner < 0:
                projected[i] -= inner * matrix[j] / matrix[j].norm().pow(2)
    return projected.sum(dim=0)


# ---- TorchJD ------------------------------------------------------------------------------------


def torchjd(problem: Problem, method: str, sum_grams: bool = False) -> Merge | None:
    """``torchjd.autojac.jac_to_grad`` on Jacobians that lie in ``.jac`` already.

    Args:
        problem: What to merge. The Jacobian of each parameter is stacked beforehand, as TorchJD's
            backward leaves it; the time for that is not counted.
        method: A method's name.
        sum_grams: ``optimize_gramian_computation=True``: no concatenation, the Gram matrices of
            the parameters are added up.

    Returns:
        ``None`` if TorchJD is not installed, does not have the method, or cannot ``sum_grams``.
    """
    aggregator = torchjd_aggregator(method, len(problem.rows), problem.params[0].device)
    if aggregator is None:
        return None
    from torchjd.aggregation import GramianWeightedAggregator
    from torchjd.autojac import jac_to_grad

    if sum_grams and not isinstance(aggregator, GramianWeightedAggregator):
        return None
    options = {"optimize_gramian_computation": True} if sum_grams else {}
    params = problem.with_jacobians

    def call() -> list[Tensor]:
        for param in params:
            param.grad = None
        jac_to_grad(params, aggregator, retain_jac=True, **options)
        return [param.grad for param in params]

    return call


def torchjd_aggregator(method: str, tasks: int, device: torch.device | str = "cpu") -> Any:
    """The aggregator of that method with our defaults where it has parameters, or ``None``."""
    try:
        from torchjd import aggregation
    except ImportError:
        return None
    makers: Mapping[str, Callable[[], Any]] = {
        "aligned_mtl": aggregation.AlignedMTL,
        "cagrad": lambda: aggregation.CAGrad(c=0.5),
        "config": aggregation.ConFIG,
        "dualproj": aggregation.DualProj,
        "fairgrad": lambda: aggregation.FairGrad(alpha=1.0),
        "graddrop": aggregation.GradDrop,
        "gradvac": aggregation.GradVac,
        "imtl_g": aggregation.IMTLG,
        "krum": lambda: aggregation.Krum(n_byzantine=N_BYZANTINE),
        "mean": aggregation.Mean,
        "mgda": aggregation.MGDA,
        "nash_mtl": lambda: aggregation.NashMTL(n_tasks=tasks),
        "pcd": aggregation.PCD,
        "pcgrad": aggregation.PCGrad,
        "random": aggregation.Random,
        "sum": aggregation.Sum,
        "trimmed_mean": lambda: aggregation.TrimmedMean(trim_number=1),
        "upgrad": aggregation.UPGrad,
    }
    return makers[method]().to(device) if method in makers else None
