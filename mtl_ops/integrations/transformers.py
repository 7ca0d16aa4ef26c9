"""Hugging Face Transformers: a ``Trainer`` for models that return a dict of losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import find_batch_size, gather_object
from torch import Tensor, nn
from transformers import Trainer

from ..gradients.tasks import read_losses
from ..optim.optimizer import MultiTaskOptimizer
from ._means import Means
from ._trainer_arguments import bare, check_arguments, check_clip, check_own, take_options
from .tensorboard import log_report

__all__ = ["MultiTaskMixin", "MultiTaskTrainer"]


class MultiTaskMixin:
    """Merges the gradients of a model's losses in any ``Trainer``: ``class Mine(MultiTaskMixin, Seq2SeqTrainer)``.

    A mixin, since other trainers than ``Trainer`` itself have their own evaluation, and nothing here
    replaces a method of theirs: each calls ``super()``. :class:`MultiTaskTrainer` is it with ``Trainer``.

    The model returns a dict of losses where it would return its loss: as ``loss`` of its outputs, as the first
    of a tuple, or from the trainer's ``compute_loss_func``. A task that is absent from a batch is ``None``, or
    not in the dict. Whatever the trainer does to *the* loss, such as dividing it by the number of micro-batches, is
    done to each. What it logs as ``loss`` is their sum.

    The arguments of the trainer mean what they always do. Gradients of each task are summed over
    ``gradient_accumulation_steps`` micro-batches and merged once; ``max_grad_norm`` clips the merged gradient, after
    the merge and once, and ``grad_norm`` in the logs is its norm before that; ``bf16``, ``fp16``, ``optim``,
    schedulers and callbacks are as ever. A checkpoint holds what the method remembers. At every logging step come
    ``loss/<task>``, the mean since the last one, and ``weight/``, ``norm/`` and ``cosine/`` of the last step;
    evaluation adds ``eval_loss_<task>``. Nothing waits for the device in between.

    Several processes (``torchrun``) merge as one would with the joint batch; the averaging of
    ``DistributedDataParallel`` is switched off.

    Args:
        *args: As of the trainer.
        **options: As of the trainer, and those of :class:`mtl_ops.MultiTaskOptimizer`: ``method``, ``tasks``,
            ``task_weights``, ``shared`` and so on. Not ``grad_scaler`` and ``module``, which the trainer knows, nor
            ``groups`` and ``gram_on="features"``, for which its loop has no place, nor ``max_norm`` beside a positive
            ``max_grad_norm``. ``optimizers`` may hold a :class:`mtl_ops.MultiTaskOptimizer` instead.

    Raises:
        TypeError: In training, if the losses are no dict.
        ValueError: If the trainer is asked for what cannot be done: DeepSpeed, FSDP, ``DataParallel``,
            context or tensor parallelism, label smoothing, or optimizers that step during the backward.
    """

    # of the trainer
    optimizer: Any
    accelerator: Any
    args: Any
    model: Any
    compute_loss_func: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        self._options = take_options(options)
        self._unused = copy.deepcopy(self._options.get("method"))
        self._made: MultiTaskOptimizer | None = None
        self._losses: Mapping[str, Tensor | None] = {}
        self._total: Tensor | None = None
        self._summed = False  # whether gradients of micro-batches wait to be merged
        self._trained, self._evaluated = Means(), Means()
        super().__init__(*args, **options)
        check_arguments(self)
        check_clip(self.args, self._options.get("max_norm"))
        if self.compute_loss_func is not None:
            self.compute_loss_func = self._as_one(self.compute_loss_func)

    @property
    def merging(self) -> MultiTaskOptimizer:
        """The optimizer that merges, whatever is around it.

        Raises:
            AttributeError: Before training.
        """
        optimizer = bare(self.optimizer)
        if not isinstance(optimizer, MultiTaskOptimizer):
            raise AttributeError("A MultiTaskTrainer should be trained before it has `merging`.")
        return optimizer

    # ---- the optimizer --------------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """The trainer's optimizer, in a :class:`mtl_ops.MultiTaskOptimizer`."""
        made = super().create_optimizer(*args, **options)  # type: ignore[misc]
        inner = bare(made)
        if isinstance(inner, MultiTaskOptimizer):
            if self._options and inner is not self._made:
                raise ValueError(
                    "Parameter `optimizers` should hold an optimizer of torch.optim, or there should be no options "
                    f"beside it. Found a MultiTaskOptimizer and `{next(iter(self._options))}`."
                )
            check_own(self, inner)
            inner.zero_grad()  # sums that an attempt with too large a batch has left
            self._summed = False
        else:
            self._start_alike()
            scaler = getattr(self.accelerator, "scaler", None)
            options = self._options
            if (
                self._made is not None and "method" in options
            ):  # for a model that is made anew, whose losses the method has not seen
                options = {**options, "method": copy.deepcopy(self._unused)}
            self._made = MultiTaskOptimizer(inner, grad_scaler=scaler, **options)
            self.optimizer = self._made
        return self.optimizer  # type: ignore[no-any-return]

    def _start_alike(self) -> None:
        """Gives all processes the parameters of the first, as ``DistributedDataParallel`` is about to."""
        if self.accelerator.num_processes > 1:
            for tensor in self.model.state_dict().values():
                if isinstance(tensor, Tensor):
                    torch.distributed.broadcast(tensor, 0)

    # ---- the losses -----------------------------------------------------------------------------

    def compute_loss(self, model: nn.Module, *args: Any, **options: Any) -> Any:
        """The sum of the losses; the losses themselves are kept for :meth:`training_step`."""
        if self.compute_loss_func is None:
            return super().compute_loss(self._summing(model), *args, **options)  # type: ignore[misc]
        return super().compute_loss(model, *args, **options)  # type: ignore[misc]

    def _summing(self, model: nn.Module) -> Callable[..., Any]:
        """The model, with one loss."""

        def call(*args: Any, **inputs: Any) -> Any:
            outputs = model(*args, **inputs)
            if isinstance(outputs, dict):
                if "loss" not in outputs:
                    return outputs  # the trainer says so
                total = self._keep(outputs["loss"])
                return type(outputs)(**{**outputs, "loss": total})
            return (self._keep(outputs[0]), *outputs[1:])

        return call

    def _as_one(self, function: Callable[..., Any]) -> Callable[..., Tensor]:
        """A ``compute_loss_func`` with one loss."""

        def call(*args: Any, **options: Any) -> Tensor:
            return self._keep(function(*args, **options))

        return call

    def _keep(self, losses: Any) -> Tensor:
        """The sum of the losses, for the trainer, without a graph to them.

        It has one of its own, from which :meth:`training_step` learns what the trainer did to it.
        """
        if not isinstance(losses, Mapping):
            raise TypeError(
                "The model should return a dict of losses as its loss. "
                f"Found {type(losses).__name__}."
            )
        read_losses(losses, differentiable=False, some=False)  # says what is wrong with them
        self._losses = losses
        present = [loss.detach() for loss in losses.values() if loss is not None]
        zero = torch.zeros((), device=self.args.device)
        total = torch.stack([zero, *(loss.to(zero).reshape(()) for loss in present)]).sum()
        if not torch.is_grad_enabled():
            return total
        self._total = total.requires_grad_()
        return self._total.clone()  # the trainer multiplies it in place

    # ---- a step ---------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, *args: Any, **options: Any) -> Tensor:
        """As the trainer's, with the losses merged where it differentiates their sum."""
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model.require_backward_grad_sync = False  # the processes sum each task's gradient
        self._total = None
        loss: Tensor = super().training_step(model, *args, **options)  # type: ignore[misc]
        total, self._total = self._total, None
        losses, self._losses = self._losses, {}
        if total is None or total.grad is None:
            raise TypeError(
                "Method `compute_loss` should return what that of MultiTaskTrainer returns. Found another loss: "
                "let the model or `compute_loss_func` return a dict of losses instead."
            )
        factor = total.grad  # by which the trainer has multiplied the loss
        scaler = self.merging.settings.grad_scaler
        if scaler is not None:
            factor = factor / scaler.scale(torch.ones_like(factor))
        self._merge(
            {
                name: None if loss is None else loss * factor.to(loss)
                for name, loss in losses.items()
            }
        )
        return loss

    def _merge(self, losses: Mapping[str, Tensor | None]) -> None:
        optimizer = self.merging
        last = self.accelerator.sync_gradients
        some = any(loss is not None for loss in losses.values())
        if self.accelerator.num_processes == 1 and not some and not (last and self._summed):
            return  # a micro-batch without a label
        if not last:
            optimizer.accumulate(losses)
            self._summed = True
            return
        for param in optimizer.learnable:
            param.grad = None  # the trainer clears gradients of the model alone
        optimizer.backward(losses)
        self._summed = False
        report = optimizer.report
        if report.losses is not None:
            self._trained.add(report.names or (), report.losses)

    # ---- logging and evaluation -----------------------------------------------------------------

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """With the losses of the tasks, and what the last step measured, at the trainer's logging steps."""
        if "loss" in logs and self._trained:
            scalars: dict[str, float] = {}
            log_report(lambda found, _: scalars.update(found), self.merging.report, 0)
            scalars.update({f"loss/{name}": mean for name, mean in self._trained.take().items()})
            logs.update({tag: value for tag, value in scalars.items() if not math.isnan(value)})
        super().log(logs, *args, **options)  # type: ignore[misc]

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **options: Any) -> Any:
        """As the trainer's; the losses of the tasks are kept."""
        self._losses = {}
        result = super().prediction_step(model, inputs, *args, **options)  # type: ignore[misc]
        present = {name: loss for name, loss in self._losses.items() if loss is not None}
        self._losses = {}
        if present:
            losses = torch.stack([loss.detach().reshape(()).double() for loss in present.values()])
            self._evaluated.add(tuple(present), losses, find_batch_size(inputs) or 1)
        return result

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """As the trainer's, with the mean loss of each task over the samples of the batches that have it."""
        self._evaluated.clear()
        options["metric_key_prefix"] = metric_key_prefix
        output = super().evaluation_loop(*args, **options)  # type: ignore[misc]
        self._evaluated.merge(gather_object([self._evaluated.sums()]))
        for name, mean in self._evaluated.take().items():
            output.metrics[f"{metric_key_prefix}_loss_{name}"] = mean
        return output


class MultiTaskTrainer(MultiTaskMixin, Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` for a model that returns a dict of losses; see :class:`MultiTaskMixin`.

    Example:
        >>> import tempfile, torch, transformers
        >>> from mtl_ops.integrations.transformers import MultiTaskTrainer
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.trunk, self.heads = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         a, b = self.heads(self.trunk(x).tanh()).unbind(1)
        ...         return {"loss": {"one": (a - 1).square().mean(), "zero": b.square().mean()}}
        >>> data = [{"x": torch.randn(3)} for _ in range(8)]
        >>> args = transformers.TrainingArguments(
        ...     tempfile.mkdtemp(), max_steps=2, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True
        ... )
        >>> trainer = MultiTaskTrainer(Net(), args, train_dataset=data, method="upgrad")
        >>> _ = trainer.train()
        {...}
        >>> trainer.merging.report.names
        ('one', 'zero')
    """
