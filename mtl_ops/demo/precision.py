"""Mixed precision: in which dtype forwards are taken, and the scaler that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["FULL", "PRECISIONS", "autocast", "make_scaler", "unfit"]

#: Nothing is cast.
FULL = "float32"
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = (FULL, *_HALF)


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """What forwards and losses of training steps are taken in."""
    if precision == FULL:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_HALF[precision])


def make_scaler(precision: str, device: str) -> torch.amp.GradScaler | None:
    """Of the losses, whose gradients would underflow in float16."""
    return torch.amp.GradScaler(torch.device(device).type) if precision == "float16" else None


def unfit(precision: str, device: str, *, turns: bool) -> str | None:
    """Why a training cannot have it, for the user; ``None`` if it can."""
    kind = torch.device(device).type
    if precision != FULL and kind == "mps":
        return f"{precision} is for cpu and cuda, and --device is {device}."
    if precision == "float16" and kind != "cuda":
        return f"float16 is for cuda, and --device is {device}; bfloat16 needs no GPU."
    if precision == "float16" and turns:
        return "float16 needs a scaler, which sees one step a batch, and --groups take turns; bfloat16 needs none."
    return None
