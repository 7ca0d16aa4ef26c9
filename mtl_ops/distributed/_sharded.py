"""Parameters that are spread over the processes: those of ``fully_shard`` (FSDP2), and DTensors in general.

Every process measures and merges the part of the parameters that it holds; what goes over the wire beyond FSDP's own
reduce-scatters is one all-reduce of the (S, T, T) Gram matrix. FSDP2 reduces gradients in hooks, which put them into
``.grad`` of the sharded parameters. So each task takes a ``backward``, whose ``.grad`` is its row and is put aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ..gradients.graph import leaf_tensors
from ..gradients.layout import NOTHING_REACHED, find_layout
from ..gradients.rows import columns, dtypes_of
from ..gradients.storage import is_dtensor
from ..gradients.tasks import Tasks
from ..merging.call import Call, Part
from ..merging.merge import merge_rows
from ..merging.report import Report
from ..merging.sink import Early
from ._placements import check_sharding, first_element, measured_here
from ._processes import Processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

__all__ = ["Sharded"]

#: In how many steps the processes compare what their tasks reach, which takes a walk over each graph.
LOOK_AT_FIRST = 3


class Sharded(Processes):
    """Merges the local parts of DTensors.

    Args:
        params: The optimizer's parameters.
        group: The processes that hold them; ``None`` for the default group.
        module: The module that ``fully_shard`` was applied to, or that holds such modules: every process
            has a part of the batch then, and the reduction of its gradients is their mean. ``None`` for
            other DTensors, as of tensor parallelism: every process computes the same losses then.

    Raises:
        ValueError: If a parameter is whole in every process, is spread in another way than
            ``Shard(0)`` or ``Replicate`` over all processes of the group, or the module reduces
            gradients in a way of its own.
    """

    one_backward = False

    def __init__(
        self,
        params: Sequence[Tensor],
        group: ProcessGroup | None,
        module: torch.nn.Module | None,
    ) -> None:
        super().__init__(group)
        ranks = list(range(dist.get_world_size())) if group is None else None
        check_sharding(params, ranks or dist.get_process_group_ranks(group), module is not None)
        self.module = module
        self.fsdp = [] if module is None else fsdp_modules(module)
        self.leaves_known = module is None
        self._leaves: dict[int, Tensor] = {}  # of the losses' graph

    def check_parameters(self, params: Sequence[Tensor]) -> None:
        """Checks that all processes hold parts of the same parameters.

        Raises:
            ValueError: On every process, if they do not.
        """
        facts = [[list(p.shape), str(cast("DTensor", p).placements)] for p in params]
        for rank, others in enumerate(self.wire.gather(facts, params[0].device)):
            if others != facts:
                raise self.common(
                    "All processes should optimize parts of the same parameters. "
                    f"Found others on rank {rank} than on rank {self.rank}."
                )

    def forget(self) -> None:
        self._leaves = {}

    # ---- agreement ------------------------------------------------------------------------------

    def _whole(self, tasks: Tasks) -> Tasks:
        if any(loss is not None and is_dtensor(loss) for loss in tasks.losses):
            with self.wire.watch.torch_calls():
                tasks = replace(tasks, losses=tuple(map(_full, tasks.losses)))
        whole = tasks.losses
        self._leaves = leaf_tensors(whole)
        return tasks

    def _reach(self, tasks: Tasks) -> list[float]:
        if self.reads > LOOK_AT_FIRST:
            return super()._reach(tasks)
        return [0.0 if loss is None else float(len(leaf_tensors([loss]))) for loss in tasks.losses]

    def _check_table(self, tasks: Tasks, table: list[list[list[float]]]) -> None:
        """A reduction in the backward needs every process: with the same tasks, through the same modules."""
        counts, _, has, reach = ([row[k] for row in table] for k in range(4))
        for t in range(len(tasks.losses)):
            without = [rank for rank in range(self.world) if not has[rank][t]]
            if 0 < len(without) < self.world:
                raise self.common(
                    "Parameter `losses` should hold the same tasks on all processes, whose backwards reduce sharded "
                    "gradients together: hand in 0 times an output of the task, and 0 `samples`, where it is absent. "
                    f"Found no {tasks.label(t)} on rank {without[0]}."
                )
            for rank in range(self.world):
                if reach[rank][t] != reach[0][t]:
                    raise self.common(
                        "Parameter `losses` should be computed by the same modules on all processes. "
                        f"Found {tasks.label(t)} to reach {reach[0][t]:.0f} tensors on rank 0 and "
                        f"{reach[rank][t]:.0f} on rank {rank}."
                    )
                if self.module is None and counts[rank][t] != counts[0][t]:
                    raise self.common(
                        "Parameter `samples` should be the same on all processes that compute the same losses. "
                        f"Found {counts[0][t]} of {tasks.label(t)} on rank 0 and {counts[rank][t]} on rank {rank}."
                    )

    def _shares(self, counts: Sequence[float], total: Sequence[float]) -> tuple[float, ...] | None:
        shares = super()._shares(counts, total)
        if self.module is None or shares is None:
            return None  # every process has the whole loss
        return tuple(share * self.world for share in shares)  # FSDP takes the mean

    # ---- differentiating ------------------------------------------------------------------------

    def derive(
        self,
        outputs: Sequence[Any],
        params: Sequence[Tensor],
        factors: Sequence[Tensor | None],
        retain_graph: bool,
    ) -> Sequence[Tensor | None]:
        """The local parts of the reduced gradients; no ``.grad`` is changed in the end."""
        for one in self.fsdp:
            one.set_requires_gradient_sync(True, recurse=False)
        kept = self._put_aside(params)
        try:
            with self.wire.watch.torch_calls():
                torch.autograd.backward(outputs, factors, retain_graph=retain_graph)
            self._check_reduced(params)
            with self.wire.watch.torch_calls():
                return [_local_gradient(param) for param in params]
        finally:
            for tensor, before in kept:
                tensor.grad = before

    def _put_aside(self, params: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """The ``.grad`` of everything that a backward adds to, which is ``None`` from here on."""
        touched = {id(param): param for param in params}
        if self.module is not None:
            touched |= {id(param): param for param in self.module.parameters()}
        touched |= self._leaves
        kept = [(tensor, tensor.grad) for tensor in touched.values()]
        for tensor in touched.values():
            tensor.grad = None
        return kept

    def _check_reduced(self, params: Sequence[Tensor]) -> None:
        """FSDP fills the gradient of what is no leaf of the graph, and that is their mean."""
        for place, param in enumerate(params):
            if param.grad is not None and (id(param) in self._leaves) != (self.module is None):
                raise ValueError(
                    "Parameter `module` should be the module that `fully_shard` was applied to if it was, to all "
                    f"parameters of the optimizer. Found another at place {place}."
                )

    # ---- merging --------------------------------------------------------------------------------

    def merged(
        self, call: Call, rows: Sequence[Tensor | None], early: Early | None
    ) -> tuple[Report, dict[int, Tensor]]:
        """The merged gradient of each parameter that any task reaches, a DTensor, by its place."""
        assert early is None  # FSDP sends gradients by itself
        for one in self.fsdp:  # or the next forward would not see what the step has changed
            one.reshard()
        params = call.params.tensors
        layout = find_layout(rows, len(call.task_weights), call.params.sets, call.params.shared)
        kept = list(range(len(params))) if layout.kept is None else list(layout.kept)
        if not kept:
            raise ValueError(NOTHING_REACHED)
        reached = [cast("DTensor", params[p]) for p in kept]
        rows = columns(rows, len(params), kept)
        out = [
            torch.empty_like(param.to_local(), dtype=dtype)
            for param, dtype in zip(reached, dtypes_of(rows, reached), strict=True)
        ]
        numbers = layout.first_numbers(reached)
        part = Part(
            self.total,
            measured=[measured_here(param) for param in reached],
            first=[
                number + first_element(param)
                for param, number in zip(reached, numbers, strict=True)
            ],
        )
        report = merge_rows(call, rows, out, layout, part=part)
        return report, {
            p: _as_dtensor(local, param) for p, local, param in zip(kept, out, reached, strict=True)
        }


def _full(loss: Tensor | None) -> Tensor | None:
    return cast("DTensor", loss).full_tensor() if loss is not None and is_dtensor(loss) else loss


def fsdp_modules(module: torch.nn.Module) -> list[FSDPModule]:
    """The modules in there that ``fully_shard`` was applied to.

    Raises:
        ValueError: If one divides its gradients by another number than that of the processes, or has
            zeros reduced for parameters that a loss does not reach, which would all seem shared.
    """
    from torch.distributed.fsdp import FSDPModule

    found: list[FSDPModule] = [one for one in module.modules() if isinstance(one, FSDPModule)]
    for one in found:
        for group in _parameter_groups(one):
            if group.gradient_divide_factor is not None:
                raise ValueError(
                    "Parameter `module` should reduce gradients to their mean. "
                    f"Found `set_gradient_divide_factor({group.gradient_divide_factor})`."
                )
            if getattr(group, "reduce_scatter_unused_params", False):
                raise ValueError(
                    "Parameter `module` should reduce the gradients of what a loss reaches. "
                    "Found `set_reduce_scatter_unused_params(True)`."
                )
    return found


def _parameter_groups(module: FSDPModule) -> list[Any]:
    state: Any = module._get_fsdp_state()
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    one = state._fsdp_param_group  # before torch 2.12
    return [] if one is None else [one]


def _local_gradient(param: Tensor) -> Tensor | None:
    gradient, param = cast("DTensor | None", param.grad), cast("DTensor", param)
    if gradient is None:
        return None
    if not is_dtensor(gradient):
        raise ValueError(
            "Parameter `optimizer` should hold DTensors whose gradients are DTensors, too. "
            f"Found a plain gradient of shape {tuple(gradient.shape)}."
        )
    if gradient.placements != param.placements:
        gradient = gradient.redistribute(placements=param.placements)
    with torch.no_grad():
        return gradient.to_local()


def _as_dtensor(local: Tensor, like: DTensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
