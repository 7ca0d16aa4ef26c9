"""Losses to the merged gradient in ``.grad``: what the optimizer and the function of the same purpose share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..distributed import Processes, Samples, make_processes, read_samples
from ..gradients.batched import Batching
from ..gradients.checks import check_dtypes
from ..gradients.factored.make import make_factoring
from ..gradients.graph import allow_repeated_backward, refuse_reentrant_checkpoints, warn_of_graph
from ..gradients.hidden import warn_of_hidden_heads
from ..gradients.parameters import Finder, Parameters
from ..gradients.source import Source
from ..gradients.storage import is_dtensor
from ..gradients.tasks import Losses, Tasks, read_losses
from ..merging.call import Call
from ..merging.rules import TaskWeights, read_task_weights
from ..merging.sink import GRADS
from ..methods import Method, Momentum, OnlinePCGrad
from ..step.averaged import Fresh
from ..step.make import Plan, make_step
from ..step.step import Step
from ..step.unchanged import Before
from .capturing import Captured, check_capture
from .facts import Situation, check_together
from .learned_group import add_group
from .progress import Progress
from .settings import Settings

__all__ = ["Groups", "Holder", "Merger", "Request"]

_ALONE = contextlib.nullcontext()


class Groups(Protocol):
    """Whatever holds parameters as ``torch.optim.Optimizer`` does."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups."""


@dataclass
class Holder:
    """Parameters as an optimizer without options would hold them."""

    param_groups: list[dict[str, Any]]


@dataclass(eq=False)
class Request:
    """What a user asks of one backward, besides the losses.

    Attributes:
        features: What the heads are computed from.
        samples: How many samples of this process's batch each loss is the mean of.
        retain_graph: Keeps the graph for another backward.
        given: What the method otherwise draws or remembers.
    """

    features: Tensor | Sequence[Tensor] | None = None
    samples: Samples = 1.0
    retain_graph: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)


class Merger:
    """One way of merging, chosen once from the settings, and what it remembers from call to call.

    Args:
        settings: Each checked by itself.
        holder: Holds the parameters.
        learns: Whether what the method learns becomes a group of ``holder``, an optimizer.

    Attributes:
        method: What weighs the tasks.
        processes: Those that merge together; ``None`` for this one alone.
        step: What is run, in which order.
        generator: Where random methods draw from; ``None`` for the device's default.
        progress: What is counted and remembered.

    Raises:
        ValueError: If options do not go together, or processes do not agree.
    """

    def __init__(self, settings: Settings, holder: Groups, learns: bool) -> None:
        self.settings, self.holder, self.learns = settings, holder, learns
        self.method: Method = settings.method
        self.progress = Progress()
        self.generator = settings.generator
        self.processes: Processes | None = None
        everything = self.everything
        sharded = any(is_dtensor(param) for param in everything)
        check_together(settings, Situation(sharded=sharded))
        params = [param for param in everything if param.requires_grad]
        where = settings.distributed, settings.process_group, settings.module
        self.processes = make_processes(*where, params)
        if self.processes is not None:
            check_together(settings, Situation(sharded=sharded, several=True))
            drawn = self.generator or self.method.generator
            facts = settings.compared(everything)
            self.generator = self.processes.begin(facts, drawn, self.device, self)
        self.factoring = make_factoring(settings.gradients)
        self._finder = Finder(settings.granularity, settings.shared)
        self.step = self._make_step()
        if self.generator is not None:
            self.method.generator = self.generator
        if settings.tasks is not None:
            self.bind(settings.tasks, len(settings.tasks))
        allow_repeated_backward()

    @property
    def everything(self) -> list[Tensor]:
        """All parameters, in the order of their groups."""
        return [param for group in self.holder.param_groups for param in group["params"]]

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        for group in self.holder.param_groups:
            for param in group["params"]:
                return param.device  # type: ignore[no-any-return]
        raise ValueError("Parameter `optimizer` should hold a parameter. Found none.")

    @property
    def params(self) -> Parameters:
        """Those that are merged."""
        return self._finder.find(self.holder.param_groups, self.progress.learnable)

    # ---- what a user calls ----------------------------------------------------------------------

    def backward(self, losses: Losses, request: Request) -> None:
        """Adds the merged gradient to ``.grad``; after an error nothing has changed."""
        check_capture(self.settings, self._captured)
        before = self._before()
        try:
            self._backward(before, losses, request)
            before.add()
        except BaseException:
            self._put_back(before)
            raise

    def _backward(self, before: Before, losses: Losses, request: Request) -> None:
        """As :meth:`backward`, where no gradient is there yet."""
        progress = self.progress
        call = self._call(losses, request)
        read, params = call.tasks, call.params
        if progress.steps == 0:
            refuse_reentrant_checkpoints(read.losses)
        look = not progress.looked_at_graph and len(read.present) == len(read.losses)
        look = look and (self.processes is None or self.processes.leaves_known)
        if look and params.shared is None and self.processes is None:
            warn_of_hidden_heads(read.losses, params.tensors)
        if progress.learnable:
            before.set_aside(progress.learnable)
        fresh = before.set_aside(params.tensors)
        if self.step.sums is not None:
            before.forget(self.step, "sums")  # they are added to
        report = self.step.backward(call)
        progress.report, progress.unmerged = report, None
        progress.unstepped = (report,) if fresh else (*progress.unstepped, report)
        if look:
            progress.looked_at_graph = True
            warn_of_graph(read.losses, params.tensors, params.shared is not None)

    def accumulate(self, losses: Losses, request: Request) -> None:
        """Adds up gradients of micro-batches; after an error their sums are forgotten."""
        check_together(self.settings, Situation(accumulating=True))
        check_capture(self.settings, self._captured)
        before = self._before()
        try:
            call = self._call(losses, request)
            check_dtypes("params", {param.dtype for param in call.params.tensors})
            before.forget(self.step, "sums")  # a part may have been added after an error
            self.step.accumulate(call)
            self.progress.unmerged = None
        except BaseException:
            self._put_back(before)
            raise

    def observe(self, losses: Losses, samples: Samples) -> None:
        """Shows the method losses after the step."""
        read = functools.partial(self.read_own, losses, differentiable=False)
        if self.processes is None:
            tasks = read()
            read_samples(samples, tasks)
        else:
            with self.together():
                tasks = self.processes.read(read, self.progress.count, samples, self.device)
        self.method.observe(tasks.values)

    def forget(self) -> None:
        """Forgets gradients, as ``zero_grad`` does."""
        self.progress.forget_gradients()
        self.step.forget()

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Around what all processes have to do together."""
        return _ALONE if self.processes is None else self.processes.together()

    # ---- what a call is made of -----------------------------------------------------------------

    def read_own(self, losses: Losses, differentiable: bool = True) -> Tasks:
        """The losses of this process."""
        some = self.processes is None and self.step.sums is None
        read = read_losses(losses, self.progress.names, differentiable, some)
        self.progress.check_count(len(read.losses))
        return read

    def read(self, losses: Losses, request: Request) -> Tasks:
        """The losses of all processes, with the factor of a ``GradScaler``."""
        if self.processes is None:
            read = self.read_own(losses)
            if type(request.samples) is not float or request.samples != 1.0:
                read_samples(request.samples, read)  # they change nothing, but are checked
        else:
            own, count = functools.partial(self.read_own, losses), self.progress.count
            samples, given = request.samples, request.given
            read = self.processes.read(own, count, samples, self.device, given)
        if self.progress.count is None:
            self.bind(read.names, len(read.losses))
        if self.settings.grad_scaler is not None:
            one = torch.ones((), device=self.device)
            read = replace(read, scale=self.settings.grad_scaler.scale(one))
        return read

    def _call(self, losses: Losses, request: Request) -> Call:
        read, progress, params = self.read(losses, request), self.progress, self.params
        weights: TaskWeights | None = self.settings.task_weights
        counter = progress.times_skipped
        if counter is None:
            counter = progress.counter(self.device)
        return Call(
            method=self.method,
            tasks=read,
            params=params,
            task_weights=read_task_weights(weights, read.names, len(read.losses), progress.steps),
            rules=self.settings.rules,
            given=request.given,
            times_skipped=counter,
            retain_graph=request.retain_graph,
            features=_as_features(request.features, self.step),
            step=progress.steps,
            grad_dtype=self.settings.grad_dtype,
        )

    def bind(self, names: tuple[str, ...] | None, count: int) -> None:
        """From now on these are the tasks."""
        progress = self.progress
        if progress.count is None:
            progress.learnable = tuple(self.method.learnable(count, self.device))
            if self.learns:
                assert isinstance(self.holder, Optimizer)
                add_group(self.holder, progress.learnable, self.method.name)
        progress.names, progress.count = names, count

    def _captured(self) -> Captured:
        """What bears on the capture of a CUDA graph, besides the options."""
        sums = self.step.sums
        return Captured(
            first=self.progress.times_skipped is None or self.progress.unmerged is not None,
            fused=not self.learns or getattr(self.holder, "_step_supports_amp_scaling", False),
            sums=None if sums is None else sums.captured,
        )

    # ---- after an error -------------------------------------------------------------------------

    def _before(self) -> Before:
        """What is put back."""
        self._groups = len(self.holder.param_groups)
        changed = (self.progress, self.method, self.step)
        drawn, counter = self.generator or self.method.generator, self.progress.times_skipped
        return Before(changed, drawn, self.device, None if self.step.counts else counter)

    def _put_back(self, before: Before) -> None:
        before.put_back()
        if self.progress.count is None:  # again: the method has no group yet
            del self.holder.param_groups[self._groups :]

    # ---- what the processes compare -------------------------------------------------------------

    def remembered(self) -> dict[str, Any]:
        """What has to be the same on all processes after an error on one."""
        return {
            **self.progress.state_dict(),
            "method": self.method.state_dict(),
            "step": self.step.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def trained(self) -> list[bool]:
        """Which parameters require a gradient."""
        return [param.requires_grad for param in self.everything]

    # ---- made once, and again for copies --------------------------------------------------------

    def _make_step(self) -> Step:
        settings, processes = self.settings, self.processes
        source = Source(settings.grad_dtype, Batching() if settings.batched else None)
        if processes is not None:
            source = replace(source, derive=processes.derive, leaves_known=processes.leaves_known)
        plan = Plan(
            one_backward=self.method.needs == "losses" and not settings.rules.per_task,
            streamed=settings.memory == "stream",
            online=isinstance(self.method, OnlinePCGrad),
            gram_on=settings.gram_on,
            weights_every=settings.weights_every,
            factoring=self.factoring,
            averaged=isinstance(self.method, Momentum),
            fresh=None if settings.fresh is None else Fresh(settings.fresh, settings.fresh_order),
        )
        return make_step(plan, source, GRADS if processes is None else processes)

    def __getstate__(self) -> dict[str, Any]:
        # Process groups and modules cannot be copied: a copy is for itself. Gradients stay here.
        state = vars(self).copy()
        state["processes"] = state["_finder"] = None
        state["settings"] = replace(self.settings, process_group=None, module=None, generator=None)
        state["progress"] = self.progress.without_gradients()
        state["step"] = self.step.state_dict()
        if self.generator is not None:
            state["generator"] = (self.generator.device.type, self.generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._finder = Finder(self.settings.granularity, self.settings.shared)
        self.step = self._make_step()
        if state["step"]:
            self.step.load_state_dict(state["step"])
        if self.generator is not None:
            device, saved = state["generator"]
            self.generator = torch.Generator(device)
            self.generator.set_state(saved)
            self.method.generator = self.generator


def _as_features(features: Tensor | Sequence[Tensor] | None, step: Step) -> list[Tensor]:
    """The features of a step that takes any, each once.

    Raises:
        ValueError: If they are something else, missing, or of no use.
    """
    if not step.takes_features:
        if features is not None:
            raise ValueError(
                'Parameter `features` should be given with `gram_on="features"`. Found it without.'
            )
        return []
    tensors = [features] if isinstance(features, Tensor) else list(features or ())
    if not tensors or not all(isinstance(f, Tensor) and f.requires_grad for f in tensors):
        raise ValueError(
            'Parameter `features` should be a tensor that requires a gradient, or several, with `gram_on="features"`. '
            f"Found {'None' if features is None else 'something else'}."
        )
    return list({id(tensor): tensor for tensor in tensors}.values())
