"""A drop-in wrapper of any ``torch.optim`` optimizer that merges the gradients of several tasks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from .accumulation import Accumulated
from .arguments import check_grad_scaler, check_names, check_owned
from .cheap import CheapSteps
from .distributed import Distributed, Samples, make_processes
from .engine import fill_grads
from .gradients import Losses, Tasks, differentiate, read_losses
from .graph import (
    allow_repeated_backward,
    hidden_by_compiler,
    leaves,
    refuse_reentrant_checkpoints,
)
from .memory import Memory
from .methods import Method, resolve
from .own_group import add_group, state_with_group
from .report import Report
from .rules import Nonfinite, Rules, TaskWeights, read_task_weights
from .wrapper import OptimizerWrapper, Remembered, tell_grad_scaler

__all__ = ["MultiTaskOptimizer"]

Granularity = Literal["model", "group", "tensor"]


class MultiTaskOptimizer(OptimizerWrapper):
    """Merges the gradients of several losses before each step of an inner optimizer.

    :meth:`backward` differentiates every loss, merges the gradients with the method, clips, and
    adds the result to ``.grad``; :meth:`step` is the inner optimizer's. To schedulers, to
    ``GradScaler``, to hooks and checkpoints this *is* the inner optimizer: ``param_groups``,
    ``state`` and ``defaults`` are its own.

    A parameter that two or more losses reach is shared and gets the merged gradient of just those
    tasks; a parameter that one loss reaches gets that loss's own gradient, with the task's weight
    and clip factor. Parameters that a loss reaches but the optimizer does not own are left alone.

    The graph of a model that is compiled together with its heads does not tell which loss reaches
    which parameter, nor does one tensor of losses, unless it was made by ``torch.stack``: all then
    count as shared, so name in ``shared`` those that are. Make the optimizer before the compiled model
    first runs: it switches off ``torch._functorch.config.donated_buffer``, so that models that are
    compiled later can be differentiated once a task.

    Args:
        optimizer: The inner optimizer; it owns the parameters of all tasks.
        method: What weighs the tasks: a name out of ``mtl_ops.methods.available()``, or a method.
        tasks: The tasks' names, in order; otherwise those of the first call of :meth:`backward`.
        task_weights: Factors of the tasks' gradients: a dict by name (1 where it says nothing), a
            sequence, or a function of the number of steps taken that returns one: with SGD, a
            schedule of each task's own learning rate. A task of weight 0 takes no part, as if it
            were absent.
        max_task_norm: Clips the norm of each task's gradient, over all parameters it reaches.
        clip_value: Clamps each element of each task's gradient to ``[-clip_value, clip_value]``.
        max_norm: Clips the norm of what :meth:`backward` adds to ``.grad``, over all parameters.
        nonfinite: What to do about a task whose gradient holds an Inf or a NaN. ``"skip_task"``:
            leave the task out of this step (if none is left, as ``"skip_step"``). ``"skip_step"``:
            the gradients become NaN, so that a ``GradScaler`` sees it, and :meth:`step` does
            nothing; on a GPU it has to wait for the flag unless the inner optimizer is fused.
            ``"raise"``: an error, which waits for the device in every step. ``"propagate"``: the
            merged gradient is NaN, and nobody looks. A method that needs only losses takes one
            backward, and sees only their sum: it leaves out a task whose loss is not finite.
        granularity: Parameters that are measured and merged together: the whole ``"model"``, each
            parameter ``"group"``, or each ``"tensor"``.
        shared: The parameters to merge with the method, instead of those that two or more losses
            reach. All others get the sum of their tasks' gradients.
        gram_on: Where G is measured. ``None``: on all shared parameters, exactly, with one backward
            for each task. ``"features"``: on the gradients of the tensors that :meth:`backward`
            gets as ``features``; a step then costs about one backward. Parameters: on their
            gradients alone, and then one backward of the weighted losses.
        weights_every: The weights are solved anew every that many steps; a step between, with the
            weights of the last time, costs about one backward.
        grad_scaler: The scaler of mixed precision training. Hand the losses to :meth:`backward` as
            they are, and call ``scaler.step(optimizer)`` and ``scaler.update()`` as ever: thresholds
            are on the true gradients, and the scaler learns of an Inf in any task, also where the
            step goes on without that task.
        distributed: How to merge over processes with different batches that hold the same parameters,
            or, of DTensors, parts of them. ``"exact"``: as one process would with the joint batch.
            ``"mean_gram"``: with weights from the mean of the processes' Gram matrices, an
            approximation that sends less. ``None``: each process for itself. ``"auto"``: exact where
            a process group is initialised.
        process_group: The processes; ``None`` for the default group.
        module: The ``DistributedDataParallel`` that wraps the model, if there is one: its own
            averaging of gradients is switched off. Or the module that ``fully_shard`` was applied to:
            each task then takes a backward, in which FSDP reduces its gradient, and what is local is
            merged. FSDP gathers the parameters for each of them again, unless they are kept
            (``module.set_reshard_after_backward(False)``).
        generator: Where random methods draw from, saved in :meth:`state_dict`; on the parameters'
            device. ``None`` for the device's default generator; of several processes, for one with
            the seed of rank 0, from which all draw the same.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> from mtl_ops import MultiTaskOptimizer
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = MultiTaskOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), "upgrad")
        >>> outputs = model(torch.ones(4, 3))
        >>> losses = {"left": outputs[:, 0].square().mean(), "right": outputs[:, 1].abs().mean()}
        >>> optimizer.zero_grad()
        >>> optimizer.backward(losses)
        >>> optimizer.step()
        >>> optimizer.report.weights.shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        method: str | Method = "upgrad",
        *,
        tasks: Sequence[str] | None = None,
        task_weights: TaskWeights | None = None,
        max_task_norm: float | None = None,
        clip_value: float | None = None,
        max_norm: float | None = None,
        nonfinite: Nonfinite = "skip_task",
        granularity: Granularity = "model",
        shared: Iterable[Tensor] | None = None,
        gram_on: Literal["features"] | Iterable[Tensor] | None = None,
        weights_every: int = 1,
        grad_scaler: torch.amp.GradScaler | None = None,
        distributed: Distributed | None = "auto",
        process_group: torch.distributed.ProcessGroup | None = None,
        module: torch.nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(optimizer)
        if granularity not in get_args(Granularity):
            raise ValueError(
                f"Parameter `granularity` should be one of {', '.join(get_args(Granularity))}. "
                f"Found `granularity = {granularity!r}`."
            )
        self.method = resolve(method)
        self.rules = Rules(max_task_norm, clip_value, max_norm, nonfinite)
        self.task_weights = task_weights
        self.granularity = granularity
        self._memory = Memory()
        everything = [p for group in optimizer.param_groups for p in group["params"]]
        owned = everything, "the optimizer"
        self._shared = None if shared is None else check_owned("shared", shared, *owned)
        self._cheap: CheapSteps | None = None
        if gram_on is not None or weights_every != 1:
            if granularity != "model" or shared is not None:
                raise ValueError(
                    "Parameters `gram_on` and `weights_every` should be used with "
                    '`granularity = "model"` and without `shared`. '
                    f"Found `granularity = {granularity!r}`."
                )
            if not (gram_on is None or isinstance(gram_on, str)):
                gram_on = check_owned("gram_on", gram_on, *owned)
            self._cheap = CheapSteps(self.method, self.rules, gram_on, weights_every)
        self._grad_scaler = check_grad_scaler(grad_scaler, self.rules)
        params = [param for param in everything if param.requires_grad]
        self._parallel = make_processes(distributed, process_group, module, params, self._cheap)
        if self._parallel is not None:
            given = generator or self.method.generator
            generator = self._parallel.same_generator(given, self._device())
        self.generator = generator
        if generator is not None:
            self.method.generator = generator
        if tasks is not None:
            names = check_names(tasks)
            self._bind(names, len(names))
            if not callable(task_weights):
                read_task_weights(task_weights, names, len(names), 0)
        allow_repeated_backward()

    @property
    def report(self) -> Report:
        """What the last :meth:`backward` measured and decided."""
        return self._memory.report

    # ---- what a user calls in every step --------------------------------------------------------

    def backward(
        self,
        losses: Losses,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        samples: Samples = 1.0,
        retain_graph: bool = False,
        **given: Any,
    ) -> None:
        """Adds the merged gradient of the losses to the parameters' ``.grad``.

        Hooks of a parameter see the gradient of each task; those that torch calls after it has
        accumulated a gradient are not called.

        Args:
            losses: A dict by name, a sequence, or a ``(T,)`` tensor. A name that is missing, or a
                loss that is ``None``, is a task that is absent from this batch.
            features: With ``gram_on="features"``: what the heads are computed from.
            samples: How many samples of this process's batch each loss is the mean of, for all
                tasks, by name, or in order, if processes have batches of different sizes.
            retain_graph: Keeps the graph for another backward.
            **given: What the method otherwise draws or remembers, handed on to it.

        Raises:
            TypeError: If the losses are not tensors.
            ValueError: If they are not scalars that require a gradient, lie on several devices,
                are not those of the first call, or if there is none.
            RuntimeError: If their graph was freed, or with ``nonfinite="raise"`` if a gradient is
                not finite. ``.grad`` is unchanged after any of these.
        """
        read, memory = self._read(losses, samples), self._memory
        count = len(read.losses)
        weights = read_task_weights(self.task_weights, read.names, count, memory.steps)
        params, sets, shared = self._parameters()
        common: dict[str, Any] = {
            "given": given,
            "times_skipped": self._counter(count),
            "retain_graph": retain_graph,
        }
        if memory.steps == 0:
            refuse_reentrant_checkpoints(read.losses)
        fresh = all(param.grad is None for param in params)
        if self._cheap is not None:
            report = self._cheap.backward(read, features, params, weights, memory.steps, **common)
        elif features is not None:
            raise ValueError(
                'Parameter `features` should be given with `gram_on="features"`. Found it without.'
            )
        else:
            accumulated, memory.accumulated = memory.accumulated, None
            report = fill_grads(
                self.method,
                read,
                params,
                weights,
                self.rules,
                sets=sets,
                shared=shared,
                accumulated=accumulated,
                **common,
            )
        memory.report = report
        memory.unstepped = [report] if fresh else [*memory.unstepped, report]
        if not memory.looked_at_graph and len(read.present) == count:
            memory.looked_at_graph = True
            self._warn_of_graph(read, params)

    def observe(self, losses: Losses) -> None:
        """Shows the method the losses of the same batch after the step, for ``famo``.

        Args:
            losses: As of :meth:`backward`; they need no gradient.

        Raises:
            TypeError: If the losses are not tensors, or the method has no use for them.
            ValueError: As :meth:`backward`.
        """
        read = read_losses(losses, self._memory.names, differentiable=False)
        self._check_count(read)
        self.method.observe(read.values)

    def accumulate(self, losses: Losses, *, samples: Samples = 1.0) -> None:
        """Adds up the gradients of each task over micro-batches; the next :meth:`backward` merges.

        Nothing is merged and no ``.grad`` changes, so ``k - 1`` calls of this and one of
        :meth:`backward`, each with the losses divided by k, equal one large batch (whose losses are
        means). The sums take the memory of T gradients. :meth:`zero_grad` forgets them.

        Args:
            losses: As of :meth:`backward`.
            samples: As of :meth:`backward`.

        Raises:
            TypeError: As :meth:`backward`.
            ValueError: As :meth:`backward`, or with ``gram_on`` or ``weights_every``, whose steps do
                not have the gradient of every task.
            RuntimeError: If the graph of a loss was freed.
        """
        if self._cheap is not None:
            raise ValueError(
                "Parameters `gram_on` and `weights_every` should be left out to accumulate gradients "
                f"of single tasks. Found `weights_every = {self._cheap.weights_every}`."
            )
        read = self._read(losses, samples)
        rows = differentiate(read, self._parameters()[0])
        if self._memory.accumulated is None:
            self._memory.accumulated = Accumulated()
        self._memory.accumulated.add(rows, read.losses)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As ``torch.optim.Optimizer.zero_grad``; forgets accumulated gradients, too."""
        self._memory.forget_gradients()
        super().zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner optimizer's step, unless the gradients are lost (see ``nonfinite``).

        Args:
            closure: Evaluates the losses, calls :meth:`backward` and returns the total loss, for
                optimizers that evaluate several times a step, such as ``LBFGS``.

        Returns:
            What the inner optimizer returns.
        """
        result = None
        if closure is not None:
            # Evaluated here first, because whether the step is lost is known only then.
            with torch.enable_grad():
                result = closure()
            closure = Remembered(closure, result)
        reports = self._memory.unstepped
        if reports:
            self._memory.steps += 1
        if self._grad_scaler is not None:
            broken = [report.lost(any_task=True) for report in reports]
            tell_grad_scaler(self._grad_scaler, self, _any(broken))
        lost = _any([self._lost(report) for report in reports])
        if lost is None:
            result = super().step(closure)
        elif lost.device.type != "cpu" and self._step_supports_amp_scaling:
            result = self.step_unless(lost, closure)
        elif not bool(lost):
            result = super().step(closure)
        self._memory.unstepped = []
        return result

    def _lost(self, report: Report) -> Tensor | None:
        """Whether there is no gradient to step with; ``None`` if there is, or nobody should ask."""
        measured = report._gram if report._joint is None else report._joint
        if measured is None or self.rules.nonfinite not in ("skip_task", "skip_step"):
            return None
        any_task = self.rules.nonfinite == "skip_step"
        if measured.device.type == "cpu":
            return None if math.isfinite(measured.sum().item()) else report.lost(any_task)
        if any_task or self._step_supports_amp_scaling:
            return report.lost(any_task)
        return None  # rather than wait for the device in every step

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, and under ``"tasks"`` what the merging remembers.

        Tensors, numbers and strings only, for ``torch.load(weights_only=True)``.
        """
        state = super().state_dict()
        state["tasks"] = {
            **self._memory.state_dict(),
            "method": self.method.name,
            "method_state": self.method.state_dict(),
            "cheap_steps": None if self._cheap is None else self._cheap.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        The state of a bare inner optimizer is accepted, too; the merging then starts afresh.

        Raises:
            ValueError: If the state is of another method or of other tasks.
        """
        state = dict(state_dict)
        tasks = state.pop("tasks", None)
        if tasks is None:
            self._load_inner(state)
            self.method.reset()
            if self._cheap is not None:
                self._cheap.reset()
            self._memory.steps, self._memory.times_skipped = 0, None
            return
        self._check_state(tasks)
        names = tasks["names"]
        if tasks["count"] is not None:  # first, so that there are as many groups as in the state
            self._bind(None if names is None else tuple(names), tasks["count"])
        self._load_inner(state)
        self._memory.load(tasks, self._device())
        self.method.load_state_dict(tasks["method_state"])
        if self._cheap is not None and tasks["cheap_steps"] is not None:
            self._cheap.load_state_dict(tasks["cheap_steps"])
        if self.generator is not None and tasks["generator"] is not None:
            self.generator.set_state(tasks["generator"].cpu())

    def _load_inner(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state_with_group(self.optimizer, self._memory.learnable, state))

    def _check_state(self, tasks: Mapping[str, Any]) -> None:
        if tasks["method"] != self.method.name:
            raise ValueError(
                f"Parameter `state_dict` should be of method {self.method.name!r}. "
                f"Found one of {tasks['method']!r}."
            )
        self._memory.check(tasks)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_memory"] = self._memory.without_gradients()
        state["_parallel"] = (
            None  # process groups cannot be copied; each process is for itself then
        )
        if self.generator is not None:
            state["generator"] = (self.generator.device.type, self.generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.generator, tuple):
            device, saved = self.generator
            self.generator = torch.Generator(device)
            self.generator.set_state(saved)
            self.method.generator = self.generator

    def __repr__(self) -> str:
        return f"MultiTaskOptimizer({self.method!r}, {self.optimizer!r})"

    # ---- what backward needs --------------------------------------------------------------------

    def _read(self, losses: Losses, samples: Samples) -> Tasks:
        if self._parallel is None:
            read = self._read_own(losses)
        else:
            read = self._parallel.read(
                lambda: self._read_own(losses), self._memory.count, samples, self._device()
            )
        if self._memory.count is None:
            self._bind(read.names, len(read.losses))
        if self._grad_scaler is not None:
            one = torch.ones((), device=self._device())
            read = replace(read, scale=self._grad_scaler.scale(one))
        return read

    def _read_own(self, losses: Losses) -> Tasks:
        """Those of this process."""
        read = read_losses(losses, self._memory.names, some=self._parallel is None)
        self._check_count(read)
        return read

    def _check_count(self, read: Tasks) -> None:
        count = self._memory.count
        if count is not None and len(read.losses) != count:
            raise ValueError(
                f"Parameter `losses` should hold {count} losses, as at first (None for a task "
                f"that is absent). Found {len(read.losses)}."
            )

    def _bind(self, names: tuple[str, ...] | None, count: int) -> None:
        """From now on these are the tasks."""
        memory = self._memory
        if memory.count is None:
            memory.learnable = self.method.learnable(count, self._device())
            add_group(self.optimizer, memory.learnable, self.method.name)
        memory.names, memory.count = names, count

    def _parameters(self) -> tuple[list[Tensor], list[int] | None, list[bool] | None]:
        """Those that require a gradient, the set each is merged in, and whether it is shared."""
        params: list[Tensor] = []
        groups: list[int] = []
        own = {id(param) for param in self._memory.learnable}
        for number, group in enumerate(self.optimizer.param_groups):
            for param in group["params"]:
                if param.requires_grad and id(param) not in own:
                    params.append(param)
                    groups.append(number)
        if not params:
            raise ValueError(
                "Parameter `optimizer` should hold a parameter that requires a gradient. Found none."
            )
        sets = None
        if self.granularity != "model":
            sets = groups if self.granularity == "group" else list(range(len(params)))
        shared = None
        if self._shared is not None:
            chosen = {id(param) for param in self._shared}
            shared = [id(param) in chosen for param in params]
        return params, sets, shared

    def _device(self) -> torch.device:
        some: Tensor = next(p for group in self.optimizer.param_groups for p in group["params"])
        return some.device

    def _counter(self, count: int) -> Tensor:
        memory = self._memory
        if memory.times_skipped is None:
            memory.times_skipped = torch.zeros(count, dtype=torch.int64, device=self._device())
        return memory.times_skipped

    def _warn_of_graph(self, read: Tasks, params: Sequence[Tensor]) -> None:
        if self._parallel is not None and not self._parallel.leaves_known:
            return
        reached = leaves(read.losses)
        unreached = [tuple(param.shape) for param in params if id(param) not in reached]
        if unreached:
            warnings.warn(
                f"No loss reaches {len(unreached)} of the optimizer's {len(params)} parameters, which get no "
                f"gradient; the first has shape {unreached[0]}.",
                stacklevel=3,
            )
        if self._shared is None and hidden_by_compiler(read.losses):
            warnings.warn(
                "The losses use different outputs of one compiled model, which hides what each of them reaches: all "
                "its parameters count as shared. Name those that are in `shared`, or compile the model without the "
                "heads.",
                stacklevel=3,
            )


def _any(flags: Sequence[Tensor | None]) -> Tensor | None:
    """Whether any of the 0-d flags is true; ``None`` if there is none."""
    known = [flag for flag in flags if flag is not None]
    return torch.stack(known).any() if known else None
