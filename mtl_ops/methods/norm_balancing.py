"""Norm balancing."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ._base import NativeMethod, check_losses
from ._checks import integer, one_of, only, share
from ._memory import recall
from ._registry import register

__all__ = ["NormBalancing"]


@register("norm_balancing")
class NormBalancing(NativeMethod):
    """Norm balancing: weights that bring all gradients to the same length, averaged over the steps.

    The scheme of jaxpi for physics-informed networks. With n_i the norm of the gradient of task i and q_i its
    measure, in calls 0, k, 2k, ... (k is ``every``)

        ``λ_i ← β λ_i + (1 - β) t / q_i``, and in every call ``w = λ``; λ = 1 at first,

    where the target t is the mean of q, its sum, or that of one task, and q_i is

        ``n_i`` (``"norm"``), ``n_i² / L_i`` (``"ntk"``), ``n_i / √L_i`` (``"ntk_sqrt"``),

    or what is handed in as ``measures``.

    ``every`` spares the division, not the gradients. ``MultiTaskOptimizer(..., weights_every=1000)`` spares these: λ
    is then averaged at every 1000th step, and the steps in between take one backward of ``Σ λ_i L_i``.

    For a mean of squares ``L = ½|r|²``, ``n²/(2L) = rᵀKr / rᵀr`` is the Rayleigh quotient of the task's neural
    tangent kernel K at its residuals, between the least and the largest eigenvalue. The traces ``Σ |∇r|²`` over the
    points, by which Wang, Yu and Perdikaris weigh, are no function of the tasks' gradients: compute them, and hand
    them in as ``measures``.

    Guarantees: ``λ > 0``. With ``momentum=0`` all ``w_i q_i`` are the same. With constant gradients λ approaches that
    by the factor β in every update. For ``"norm"``, multiplying all gradients by a number leaves w as it is. For two
    tasks, ``"norm"``, ``"mean"`` and ``momentum=0`` are ConFIG: ``w_i = ½(n_1 + n_2)/n_i``.

    Args:
        measure: q.
        target: t: ``"mean"``, ``"sum"`` or ``"reference"``, of the tasks that take part and whose gradient is not zero.
        reference: The number of the task whose q is the target ``"reference"``.
        momentum: β, in [0, 1).
        every: In how many calls λ is changed once.

    Memory: λ, and with ``every`` the number of calls until the next update. Norms are over all sets of parameters,
    so all sets have the same weights. Weights of tasks and clip factors are part of n, and so make no difference
    once λ has settled.

    Degenerate cases: a task whose gradient is zero keeps its λ and is not part of t. If all are zero, or with
    ``"reference"`` if that task's is or if it takes no part, nothing changes. A task that takes no part has the
    weight 0 and keeps its λ. A measure of the NTK of a loss that is not positive makes the answer NaN, unless the
    gradient is zero; so does a gradient that is not finite. λ then stays. T = 1: w approaches 1 (``"mean"``).

    Where others differ: jaxpi has the mean as the target (its companion paper states the sum: from memory), and is
    NaN or infinite for a zero gradient. PhysicsNeMo's ``NTK`` is ``measure="ntk_sqrt"``, ``target="sum"``, but for a
    constant factor of the measure, which cancels. Wang, Teng and Perdikaris' statistic is ``max|∇L_r| / mean|∇L_i|``
    over the elements, PhysicsNeMo's ``mean|∇L_r| / mean|∇L_i|``: neither is a function of norms.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses for a measure of the NTK.

    Sifan Wang, Yujun Teng, Paris Perdikaris, "Understanding and Mitigating Gradient Flow Pathologies in
    Physics-Informed Neural Networks", SIAM J. Sci. Comput. 43(5), 2021. Sifan Wang, Shyam Sankaran, Hanwen Wang,
    Paris Perdikaris, "An Expert's Guide to Training Physics-Informed Neural Networks", arXiv 2308.08468, 2023. Sifan
    Wang, Xinling Yu, Paris Perdikaris, "When and Why PINNs Fail to Train: A Neural Tangent Kernel Perspective",
    J. Comput. Phys. 449, 2022.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.NormBalancing(momentum=0.0)
        >>> mtl_ops.merge(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), method)
        tensor([2., 2.])
    """

    state_names = ("balance", "wait")

    def __init__(
        self,
        *,
        measure: Literal["norm", "ntk", "ntk_sqrt"] = "norm",
        target: Literal["mean", "sum", "reference"] = "mean",
        reference: int = 0,
        momentum: float = 0.9,
        every: int = 1,
    ) -> None:
        self.measure = one_of("measure", measure, ("norm", "ntk", "ntk_sqrt"))
        self.target = one_of("target", target, ("mean", "sum", "reference"))
        self.reference = integer("reference", reference, 0)
        self.momentum = share("momentum", momentum)
        self.every = integer("every", every, 1)
        self.balance: Tensor | None = None
        self.wait: Tensor | None = None

    @property
    def uses_losses(self) -> bool:  # type: ignore[override]
        """For a measure of the NTK."""
        return bool(self.measure != "norm")

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given, "measures")
        scale = torch.ones_like(gram[..., 0]) if scale is None else scale
        tasks, device = gram.shape[-1], gram.device
        if self.target == "reference" and self.reference >= tasks:
            raise ValueError(
                f"Parameter `reference` should be the number of one of {tasks} tasks. "
                f"Found `reference = {self.reference}`."
            )
        present = scale != 0
        part = present.any(dim=0)
        norms = _norms(gram, scale, present)
        measures = self._measures(norms, losses, given)
        balance = recall(self, "balance", (tasks,), device, 1.0)
        if self.every > 1:
            recall(self, "wait", (), device, 0.0)
        usable = torch.where(part, norms + measures, 0.0).isfinite().all()
        self._update(measures, part, usable)
        answer = torch.where(usable, scale * balance, torch.nan)
        return torch.where(present, answer, 0.0)

    def _measures(self, norms: Tensor, losses: Tensor | None, given: dict[str, Any]) -> Tensor:
        """q, ``(T,)`` float64."""
        if "measures" in given:
            measures = check_losses(given["measures"], self.name).to(norms)
            if measures.shape != norms.shape:
                raise ValueError(
                    f"Parameter `measures` should have shape {tuple(norms.shape)}. "
                    f"Found shape {tuple(measures.shape)}."
                )
            return torch.where(measures >= 0, measures, torch.nan)
        if self.measure == "norm":
            return norms
        values = check_losses(losses, self.name).to(norms)
        root = norms / torch.where(values > 0, values, torch.nan).sqrt()
        return torch.where(norms == 0, 0.0, root if self.measure == "ntk_sqrt" else root.square())

    def _update(self, measures: Tensor, part: Tensor, usable: Tensor) -> None:
        """Writes the new λ into its tensor, if it is time; nothing if something is not finite."""
        assert self.balance is not None
        used = part & (measures > 0)
        known = torch.where(used, measures, 0.0)
        target = known[self.reference] if self.target == "reference" else known.sum()
        if self.target == "mean":
            target = target / used.sum()
        now = used & usable & (target > 0)
        if self.wait is not None:
            now &= self.wait == 0
        new = self.momentum * self.balance + (1 - self.momentum) * target / measures
        self.balance.copy_(torch.where(now, new, self.balance))
        if self.wait is not None:
            later = torch.where(self.wait == 0, float(self.every), self.wait) - 1
            self.wait.copy_(torch.where(usable, later, self.wait))


def _norms(gram: Tensor, scale: Tensor, present: Tensor) -> Tensor:
    """``(T,)``: of each task's scaled gradient, over the sets in which it takes part."""
    lengths = scale.abs() * gram.diagonal(dim1=1, dim2=2).sqrt()
    found: Tensor = torch.linalg.vector_norm(torch.where(present, lengths, 0.0), dim=0)
    return found
