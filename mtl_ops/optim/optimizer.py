"""A drop-in wrapper of any ``torch.optim`` optimizer that merges the gradients of several tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..distributed import Distributed, Samples
from ..gradients.parameters import Granularity
from ..gradients.source import Gradients
from ..gradients.tasks import Losses
from ..merging.report import Report
from ..merging.rules import Nonfinite, Normalise, Rules, TaskWeights, check_task_weights
from ..methods import Method
from ..step.averaged import FreshOrder, FreshTasks
from .capturing import Captured, check_capture
from .closures import Remembered
from .inner_step import InnerStep
from .learned_group import state_with_group
from .merger import Merger, Request
from .parts import load_parts, parts_of, save_parts
from .settings import Settings, make_settings
from .turns import Groups, Order, Turns
from .wrapper import OptimizerWrapper

__all__ = ["MultiTaskOptimizer"]

_TURNS = (
    "An optimizer with `groups` should be called as `step(closure)`, with a closure that returns the losses: "
    "each group's turn evaluates them anew."
)


class MultiTaskOptimizer(OptimizerWrapper):
    """Merges the gradients of several losses before each step of an inner optimizer.

    :meth:`backward` differentiates every loss, merges the gradients with the method, clips, and
    adds the result to ``.grad``; :meth:`step` is the inner optimizer's. To schedulers, to
    ``GradScaler``, to hooks and checkpoints this *is* the inner optimizer: ``param_groups``,
    ``state`` and ``defaults`` are its own.

    A parameter that two or more losses reach is shared and gets the merged gradient of just those
    tasks; a parameter that one loss reaches gets that loss's own gradient, with the task's weight
    and clip factor. Parameters that a loss reaches but the optimizer does not own are left alone.

    Predictions, or losses, may be joined in one tensor before each loss takes its own: by ``torch.cat`` or
    ``torch.stack``, or written into a tensor (``out[:, 0] = head(x)``). A loss reaches what the part of the tensor
    that it uses is computed from, as far as it takes that part by numbers, slices, ``split``, ``chunk``, ``unbind``
    or an index on the CPU, with views, casts, sums over dimensions and functions of single elements in between.
    Where it takes it in another way (a mask, a matrix product, ``gather``), all that is joined counts as shared:
    a warning says so once, and ``shared=backbone.parameters()`` says which parameters are.

    The graph of a model that is compiled together with its heads does not tell which loss reaches
    which parameter: all then count as shared, so name in ``shared`` those that are. Make the optimizer before
    the compiled model first runs: it switches off ``torch._functorch.config.donated_buffer``, so that models that
    are compiled later can be differentiated once a task.

    A whole step can be captured in a CUDA graph after some eager ones (``docs/guides/cuda-graphs.md``). What a graph
    cannot hold (such as ``weights_every``, ``groups``, or ``task_weights`` that are a function) is refused during the
    capture.

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
            backward, and sees only their sum: it leaves out a task whose loss is not finite (on a GPU with
            the factor 0, which does not help if its derivative is not finite either). With
            ``"skip_task"`` on a GPU and an inner optimizer that is not fused, nobody waits to learn that
            no task is left: the step is then taken, with NaN.
        normalise: What the gradient of each task is divided by before the method weighs it: ``"none"``;
            ``"l2"``, its length in the set of parameters that is weighed; ``"loss"``, the task's loss, which
            gives the gradient of its logarithm; ``"loss+"``, both. Weights of tasks are factors of what is
            normalised, and the report's weights those of the gradients as they were. What one task alone
            reaches, such as its head, is not normalised. A zero gradient stays as it is; a loss that is not
            positive makes the merged gradient NaN, and the step is left out (but for ``"propagate"``). For
            methods that weigh gradients by their inner products.
        keep_scale: With ``normalise``: multiplies all normalised gradients by one number, so that their mean
            length is that of the gradients as they were, and the learning rate keeps its meaning.
        granularity: Parameters that are measured and merged together: the whole ``"model"``, each
            parameter ``"group"``, or each ``"tensor"``.
        shared: The parameters to merge with the method, instead of those that two or more losses
            reach. All others get the sum of their tasks' gradients.
        gram_on: Where G is measured. ``None``: on all shared parameters, exactly, with one backward
            for each task. ``"features"``: on the gradients of the tensors that :meth:`backward`
            gets as ``features``; a step then costs about one backward, or, if a parameter is also
            reached past the features, one of the weighted losses after those of each down to them. Parameters: on their
            gradients alone, and then one backward of the weighted losses.
        weights_every: The weights are solved anew every that many steps; a step between, with the
            weights of the last time, costs about one backward.
        fresh: With method ``momentum``: how many tasks are differentiated in a step, the averages of all being
            merged; or a function of the number of steps taken that returns which (names, or numbers of tasks without
            names), at least one of them there. ``None`` for all. With ``fresh=1`` a step takes one backward
            whatever T is, and two reads of T gradients.
        fresh_order: Which those are: ``"round_robin"``, so many in turn, those that are absent left out; or
            ``"random"``, in every step others, by the generator's seed and the step.
        grad_scaler: The scaler of mixed precision training. Hand the losses to :meth:`backward` as
            they are, and call ``scaler.step(optimizer)`` and ``scaler.update()`` as ever: thresholds
            are on the true gradients, and the scaler learns of an Inf in any task, also where the
            step goes on without that task.
        grad_dtype: What the gradients of the tasks are stored in until they are merged, also those of
            :meth:`accumulate`: ``torch.bfloat16`` halves the memory of float32 gradients, and keeps 8
            bits of each element. ``None`` for each parameter's own dtype.
        groups: Groups of tasks that take turns: each step of the wrapper is one step of the inner
            optimizer for each group, on losses that are evaluated anew, with the gradients of that
            group alone merged. One group is joint optimization, one for each task alternating, and
            anything between hybrid. Call ``step(closure)`` then, with a closure that evaluates and
            returns the losses, and neither ``backward`` nor ``zero_grad``.
        order: In which order they take their turns: ``"fixed"``, as listed (say, low-level tasks
            first); ``"random"``, in every step another; ``"loss"``, those of the largest mean loss
            first, which waits for the device; or a function of the number of steps taken and the last
            losses ``(T,)``, on the CPU and NaN before a task's first turn, that returns the groups'
            numbers in order.
        closing_joint: After the turns, one more for all tasks together.
        memory: ``"stream"`` holds the gradients of T - 1 tasks and a piece, instead of those of T and the
            merged one, for one backward more: what the last task's backward computes is measured piece by
            piece while it runs, and freed; when it comes again, it is merged with what the others have of
            the piece, which is then freed, too. Hooks see the last task twice. No backward more is taken
            where a piece can be merged as soon as it was measured: with the granularity ``"tensor"``, or
            ``"group"`` (a piece is then a whole group), or a method of single coordinates; without
            ``max_norm`` and ``max_task_norm``; with a ``nonfinite`` of ``"propagate"`` or ``"raise"``; and
            a method that is :attr:`~mtl_ops.methods.Method.segmentwise`. A loss on its own is merged as
            without. Of several processes each sends the gradients of a task as soon as they are there, and frees
            them; no backward is added.
        batched: Computes the gradients of all tasks in one backward, batched by ``vmap``: for many small
            operations, whose launches cost more than they do. Each loss goes by itself down to where
            sharing begins, and the batch from there; where that is in several places, one above another
            (an early head, a penalty on the trunk in a loss), from the lowest. Where
            vmap cannot go (compiled models, some RNNs) it warns once and goes one by one. Hooks of
            parameters see the gradients of all tasks at once, those of the tensors where sharing begins
            zeros before; if one of these changes its gradient the tasks go one by one. Tensors with
            ``retain_grad()`` are left with a batch in ``.grad`` that is of no use. Not for DTensors.
        gradients: ``"dense"``: the gradient of each task is computed. ``"factored"``: of a weight that is in products
            (linear layers, convolutions, embeddings) it is a product itself, of what the forward saved and of the
            gradient of the product's output, and is measured and merged as such, which takes less time where layers
            are wider than the batch has rows, and holds no T gradients. Exact, but for rounding. What else a model
            does with a parameter, and layers where factors are dearer, are as dense. The first step of a kind of
            model is verified by one backward more: where hooks of intermediate tensors change gradients, it warns and
            goes without. Hooks of parameters are not called. :meth:`accumulate` sums dense gradients. ``"auto"``: as
            ``"factored"`` where that saves a good part of the step, as ``"dense"`` elsewhere. ``"by_sample"``: the
            losses are one tensor ``(B,)``, each of a sample whose rows feed no other loss, B the same in every step,
            and all gradients come from one backward of their sum; samples that see each other, as in batch
            normalisation, are refused. Where there are few rows, ``"factored"`` and ``"auto"`` go through the model
            in one batched backward for all tasks. With several processes ``"auto"`` is as ``"dense"``, and
            ``"factored"`` and ``"by_sample"`` are refused.
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
        ValueError: If an argument is out of range, options do not go together (``docs/options.md``), or
            processes do not agree.

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
        normalise: Normalise = "none",
        keep_scale: bool = False,
        granularity: Granularity = "model",
        shared: Iterable[Tensor] | None = None,
        gram_on: Literal["features"] | Iterable[Tensor] | None = None,
        weights_every: int = 1,
        fresh: FreshTasks | None = None,
        fresh_order: FreshOrder = "round_robin",
        grad_scaler: torch.amp.GradScaler | None = None,
        grad_dtype: torch.dtype | None = None,
        memory: Literal["stream"] | None = None,
        batched: bool = False,
        gradients: Gradients = "dense",
        groups: Groups | None = None,
        order: Order = "fixed",
        closing_joint: bool = False,
        distributed: Distributed | None = "auto",
        process_group: torch.distributed.ProcessGroup | None = None,
        module: torch.nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(optimizer)
        params = [param for group in optimizer.param_groups for param in group["params"]]
        settings = make_settings(
            method,
            params,
            tasks=tasks,
            task_weights=task_weights,
            max_task_norm=max_task_norm,
            clip_value=clip_value,
            max_norm=max_norm,
            nonfinite=nonfinite,
            normalise=normalise,
            keep_scale=keep_scale,
            granularity=granularity,
            shared=shared,
            gram_on=gram_on,
            weights_every=weights_every,
            fresh=fresh,
            fresh_order=fresh_order,
            grad_scaler=grad_scaler,
            grad_dtype=grad_dtype,
            memory=memory,
            batched=batched,
            gradients=gradients,
            groups=groups,
            order=order,
            closing_joint=closing_joint,
            distributed=distributed,
            process_group=process_group,
            module=module,
            generator=generator,
        )
        self._turns = None
        if settings.groups is not None:
            self._turns = Turns(settings.groups, settings.order, settings.closing_joint)
            if settings.tasks is not None:
                self._turns.check(settings.tasks, len(settings.tasks))
        self._merger = Merger(settings, optimizer, learns=True)

    # ---- what was chosen ------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """All options."""
        return self._merger.settings

    @property
    def method(self) -> Method:
        """What weighs the tasks."""
        return self._merger.method

    @property
    def rules(self) -> Rules:
        """Clipping, and what to do about gradients that are not finite."""
        return self.settings.rules

    @property
    def task_weights(self) -> TaskWeights | None:
        """Factors of the tasks' gradients; they may be set anew."""
        return self.settings.task_weights

    @task_weights.setter
    def task_weights(self, weights: TaskWeights | None) -> None:
        check_task_weights(weights)
        self._merger.settings = replace(self.settings, task_weights=weights)

    @property
    def generator(self) -> torch.Generator | None:
        """Where random methods draw from; ``None`` for the device's default generator."""
        return self._merger.generator

    @property
    def learnable(self) -> list[Parameter]:
        """What the method learns itself."""
        return list(self._merger.progress.learnable)

    @property
    def report(self) -> Report:
        """What the last :meth:`backward` measured and decided."""
        return self._merger.progress.report

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
                not finite.

        After any error, and after Ctrl+C, ``.grad``, what the method remembers, counters and random
        generators are as before. There are two exceptions: sums of :meth:`accumulate` that were added to are
        forgotten, and a memory of gradients (as of ``moco``) may be one step ahead, since a copy would take
        as much memory again.
        """
        if self._turns is not None:
            raise RuntimeError(_TURNS)
        with self._merger.together():
            self._merger.backward(losses, Request(features, samples, retain_graph, given))

    def accumulate(
        self,
        losses: Losses,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        samples: Samples = 1.0,
    ) -> None:
        """Adds up the gradients of each task over micro-batches; the next :meth:`backward` merges.

        Nothing is merged and no ``.grad`` changes, so ``k - 1`` calls of this and one of
        :meth:`backward`, each with the losses divided by k, equal one large batch (whose losses are
        means). The sums take the memory of T gradients. :meth:`zero_grad` forgets them. A micro-batch after the
        first may have no loss at all, that of :meth:`backward` too.

        With ``gram_on`` and ``weights_every`` weights are measured on the first micro-batch, if they are due, and
        the others take theirs from it: each of these costs about one backward, and the sums take the memory of one
        gradient. A micro-batch with other tasks than those before is measured by itself.

        Args:
            losses: As of :meth:`backward`.
            features: As of :meth:`backward`.
            samples: As of :meth:`backward`.

        Raises:
            TypeError: As :meth:`backward`.
            ValueError: As :meth:`backward`, or with ``memory``, which does not hold the gradients of all tasks, or
                ``gradients="by_sample"``, whose samples are others each time.
            RuntimeError: If the graph of a loss was freed. All sums are forgotten then.
        """
        if self._turns is not None:
            raise RuntimeError(_TURNS)
        with self._merger.together():
            self._merger.accumulate(losses, Request(features, samples))

    def observe(self, losses: Losses, *, samples: Samples = 1.0) -> None:
        """Shows the method the losses of the same batch after the step, for ``famo``.

        Args:
            losses: As of :meth:`backward`; they need no gradient.
            samples: As of :meth:`backward`.

        Raises:
            TypeError: If the losses are not tensors, or the method has no use for them.
            ValueError: As :meth:`backward`.
        """
        self._merger.observe(losses, samples)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As ``torch.optim.Optimizer.zero_grad``; forgets accumulated gradients, too."""
        self._merger.forget()
        super().zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner optimizer's step, unless the gradients are lost (see ``nonfinite``).

        With ``groups`` it is one step of the inner optimizer for each group, each on the gradients of
        that group alone; a group whose tasks are all absent has no turn. If it is called three times with
        gradients before :meth:`backward` ever was, it warns once that nothing is merged.

        Args:
            closure: Evaluates the losses, calls :meth:`backward` and returns the total loss, for
                optimizers that evaluate within their step, such as ``LBFGS`` or SAM. It is theirs to
                call. If the gradients of the first evaluation are lost, or it fails, the step ends there
                and the parameters are where they were (with ``nonfinite="propagate"`` no copy is kept to put them
                back from, if the inner optimizer has moved them before); a NaN in a later one is the inner
                optimizer's to deal with. With ``groups`` it returns the losses, in any form that
                :meth:`backward` takes, and calls nothing.

        Returns:
            What the inner optimizer returns; the closure's result if the step is called off; with ``groups``
            the losses of the first evaluation.

        Raises:
            RuntimeError: With ``groups``, if there is no closure.
        """
        merger = self._merger
        progress, settings = merger.progress, merger.settings
        inner = InnerStep(self, progress, settings.rules, settings.grad_scaler)
        if self._turns is None:
            with merger.together():
                return inner.take(closure)
        if closure is None:
            raise RuntimeError(_TURNS)
        check_capture(settings, Captured)

        def turn(evaluate: Callable[[], Losses], steps: int) -> Tensor | None:
            progress.steps = steps
            return self._turn(inner, evaluate)

        steps = progress.steps
        seed = torch.initial_seed() if self.generator is None else self.generator.initial_seed()
        with merger.together():
            alone = merger.processes is None
            first = self._turns.take(closure, merger.read_own, turn, steps, seed, alone)
        progress.steps = steps + 1  # however many turns it has
        return first

    def _turn(self, inner: InnerStep, evaluate: Callable[[], Losses]) -> Tensor | None:
        """One update with the losses of a group; returns those of the joint batch, ``(T,)``."""
        merger = self._merger

        def closure() -> Tensor:
            self.zero_grad()
            merger.backward(evaluate(), Request())
            losses = merger.progress.report.losses
            assert losses is not None
            return losses.nansum()

        inner.take(Remembered(closure, closure(), merger.params.tensors))
        return merger.progress.report.losses

    # ---- checkpoints and copies -----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, and under ``"tasks"`` what the merging remembers.

        Tensors, numbers and strings only, for ``torch.load(weights_only=True)``.
        """
        state = super().state_dict()
        state["tasks"] = save_parts(self._merger, parts_of(self._merger, self._turns))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        The state of a bare inner optimizer is accepted, too; the merging then starts afresh.

        Raises:
            ValueError: If the state is of another method or of other tasks.
        """
        state = dict(state_dict)
        tasks, merger = state.pop("tasks", None), self._merger
        parts = parts_of(merger, self._turns)

        def load_inner() -> None:
            full = state_with_group(self.optimizer, merger.progress.learnable, state)
            super(MultiTaskOptimizer, self).load_state_dict(full)

        load_parts(merger, parts, tasks, load_inner)

    def __repr__(self) -> str:
        how = self._merger.step.how
        shown = [repr(self.method), repr(self.optimizer), *([how] if how else [])]
        return f"MultiTaskOptimizer({', '.join(shown)})"
