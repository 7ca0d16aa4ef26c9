"""Files that are either whole or not there, whenever the process is killed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "load_json", "save_checkpoint", "save_json"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside ``path`` and rename it, so that no reader sees half a file."""
    temporary = _temporary(path)
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: str) -> dict[str, Any] | None:
    """Read a checkpoint without running code from it; ``None`` if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def save_json(path: Path, values: Any) -> None:
    """Write strict JSON (a figure that is not finite becomes ``null``) and rename it into place."""
    temporary = _temporary(path)
    temporary.write_text(json.dumps(_strict(values), indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def load_json(path: Path) -> Any:
    """Read what :func:`save_json` wrote; ``None`` if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def _temporary(path: Path) -> Path:
    """A name in the same folder, because a rename is atomic only within one file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")


def _strict(value: Any) -> Any:
    """JSON has no word for infinity or NaN, and keys are strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
