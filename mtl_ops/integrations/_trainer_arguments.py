"""Which arguments of a ``transformers.Trainer`` go with a merge of gradients."""

from __future__ import annotations

import inspect
from typing import Any

from ..optim.optimizer import MultiTaskOptimizer

__all__ = ["bare", "check_arguments", "check_clip", "check_own", "take_options"]

#: Options of the optimizer that are not the user's to give, and why.
_REFUSED = {
    "grad_scaler": "the trainer has its own",
    "module": "the trainer wraps the model",
    "groups": "its loop takes one step a batch",
    "order": "its loop takes one step a batch",
    "closing_joint": "its loop takes one step a batch",
}

APART = (
    "Parameter `distributed` should not be None with a Trainer, whose processes train one model. "
    "Found `distributed = None`."
)

_OPTIONS = frozenset(inspect.signature(MultiTaskOptimizer).parameters) - {"optimizer"}


def take_options(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of the optimizer out of those of the trainer.

    Raises:
        ValueError: If one cannot go with a trainer.
    """
    options = {name: given.pop(name) for name in sorted(_OPTIONS & set(given))}
    for name, why in _REFUSED.items():
        if name in options:
            raise ValueError(
                f"Parameter `{name}` should be left out with a Trainer: {why}. "
                f"Found `{name} = {options[name]!r}`."
            )
    if isinstance(options.get("gram_on"), str):
        raise ValueError(
            "Parameter `gram_on` should be None or parameters with a Trainer, which hands no features on. "
            f"Found `gram_on = {options['gram_on']!r}`."
        )
    if options.get("distributed", "auto") is None:
        raise ValueError(APART)
    return options


def check_arguments(trainer: Any) -> None:
    """Checks what the trainer was asked for.

    Raises:
        ValueError: If it cannot go with a merge of gradients.
    """
    args, accelerator = trainer.args, trainer.accelerator
    optim = str(getattr(args.optim, "value", args.optim))
    parallel = getattr(accelerator, "parallelism_config", None)
    problems = [
        (
            trainer.is_deepspeed_enabled,
            "Argument `deepspeed` should be left out: its engine runs the backward itself. Found a configuration.",
        ),
        (
            trainer.is_fsdp_enabled
            or bool(args.fsdp)
            or getattr(trainer, "is_distributed_loading_by_transformers", False),
            "Argument `fsdp` should be left out: what Accelerate shards and saves are gradients and states of one "
            "loss. Found it; `fully_shard` works in a loop of your own.",
        ),
        (
            args.n_gpu > 1,
            "A Trainer should have one process for each GPU (start it with `torchrun`): DataParallel returns no dict "
            f"of losses. Found {args.n_gpu} GPUs in one process.",
        ),
        (
            parallel is not None and parallel.total_size > 1,
            "Argument `parallelism_config` should be left out: a batch that is split among processes has no loss of "
            "its own. Found one.",
        ),
        (
            args.label_smoothing_factor != 0,
            "Argument `label_smoothing_factor` should be 0: it makes one loss of its own. "
            f"Found `label_smoothing_factor = {args.label_smoothing_factor}`.",
        ),
        (
            "lomo" in optim or optim.endswith("layerwise"),
            "Argument `optim` should be an optimizer that steps after the backward: those that step within it never "
            f"see a merged gradient. Found `optim = {optim!r}`.",
        ),
    ]
    for found, sentence in problems:
        if found:
            raise ValueError(sentence)


def check_clip(args: Any, max_norm: float | None) -> None:
    """Raises a ``ValueError`` if the gradient would be clipped twice."""
    if args.max_grad_norm > 0 and max_norm is not None:
        raise ValueError(
            "Parameter `max_norm` should be left out where the trainer clips the merged gradient (or give "
            f"`max_grad_norm=0.0`). Found `max_norm = {max_norm}` and `max_grad_norm = {args.max_grad_norm}`."
        )


def check_own(trainer: Any, optimizer: MultiTaskOptimizer) -> None:
    """Checks an optimizer that the user has made.

    Raises:
        ValueError: If it does not know what the trainer does.
    """
    settings, accelerator = optimizer.settings, trainer.accelerator
    check_clip(trainer.args, settings.max_norm)
    if settings.distributed is None and accelerator.num_processes > 1:
        raise ValueError(APART)
    if settings.grad_scaler is not getattr(accelerator, "scaler", None):
        raise ValueError(
            "Parameter `optimizers` should hold an optimizer of torch.optim where the trainer scales losses "
            "(the options of MultiTaskOptimizer are arguments of the trainer). Found a MultiTaskOptimizer with "
            "another scaler, or none."
        )
    if settings.groups is not None or isinstance(settings.gram_on, str):
        raise ValueError(
            'Parameter `optimizers` should hold no MultiTaskOptimizer with `groups` or `gram_on="features"`, for '
            "which the loop of a Trainer has no place. Found one."
        )


def bare(optimizer: Any) -> Any:
    """What Accelerate has wrapped."""
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    return optimizer
