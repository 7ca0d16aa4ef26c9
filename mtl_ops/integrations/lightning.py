"""PyTorch Lightning, with its automatic optimisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..optim.optimizer import MultiTaskOptimizer

__all__ = ["MultiTaskCallback"]


class MultiTaskCallback(Callback):
    """Lets ``training_step`` return the losses by name, and merges their gradients.

    ``configure_optimizers`` returns a :class:`mtl_ops.MultiTaskOptimizer`; everything else is as in
    Lightning's automatic optimisation. What Lightning logs as the loss is the sum. With
    ``accumulate_grad_batches`` the gradients of each task are added up and merged once.

    Raises:
        TypeError: At the start of training, if the optimizer is another one.
        ValueError: At the start of training, if the module optimizes by hand, or the trainer scales
            losses and the optimizer does not have its scaler as ``grad_scaler``.
    """

    def __init__(self) -> None:
        self._losses: Mapping[str, Tensor | None] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the optimizer, and puts the merging in the place of the module's ``backward``."""
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        if not isinstance(optimizer, MultiTaskOptimizer):
            raise TypeError(
                "Method `configure_optimizers` should return one MultiTaskOptimizer. "
                f"Found {[type(other).__name__ for other in trainer.optimizers]}."
            )
        if not pl_module.automatic_optimization:
            raise ValueError(
                "Attribute `automatic_optimization` should be True with a MultiTaskCallback. Found False."
            )
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and optimizer.settings.grad_scaler is not scaler:
            raise ValueError(
                "Parameter `grad_scaler` of the optimizer should be the trainer's "
                "(`self.trainer.precision_plugin.scaler`). Found another."
            )
        step = pl_module.training_step

        def backward(loss: Tensor, *args: Any, **options: Any) -> None:
            self._backward(trainer, optimizer)

        # of this module alone: its class stays as it is
        vars(pl_module).update(training_step=self._summed(step), backward=backward)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the module its own methods back."""
        for name in ("training_step", "backward"):
            vars(pl_module).pop(name, None)
        self._losses = {}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """As :meth:`on_fit_end`."""
        self.on_fit_end(trainer, pl_module)

    def _summed(self, step: Callable[..., Any]) -> Callable[..., dict[str, Tensor] | None]:
        def training_step(*args: Any, **options: Any) -> dict[str, Tensor] | None:
            losses = step(*args, **options)
            if losses is None:  # Lightning leaves the batch out
                return None
            if not isinstance(losses, Mapping):
                raise TypeError(
                    "Method `training_step` should return a dict of losses. "
                    f"Found {type(losses).__name__}."
                )
            self._losses = losses
            present = [loss for loss in losses.values() if loss is not None]
            return {"loss": torch.stack([loss.reshape(()) for loss in present]).sum()}

        return training_step

    def _backward(self, trainer: Trainer, optimizer: MultiTaskOptimizer) -> None:
        parts = trainer.accumulate_grad_batches
        losses = {
            name: None if loss is None else loss / parts if parts > 1 else loss
            for name, loss in self._losses.items()
        }
        self._losses = {}
        if trainer.fit_loop._should_accumulate():
            optimizer.accumulate(losses)
        else:
            optimizer.backward(losses)
