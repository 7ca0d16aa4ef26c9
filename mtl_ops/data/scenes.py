"""Generated scenes whose segmentation and depth are known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from .task import Batch

__all__ = ["SCENE_CLASSES", "scenes"]

#: What a pixel may show.
SCENE_CLASSES = ("wall", "floor", "sphere", "box", "cylinder")
#: Row of the horizon, with rows from -1 (top) to 1.
HORIZON = -0.2
#: Depth of the wall at the back, and of the floor at the lower edge.
FAR, NEAR = 4.0, 1.0
#: Objects in a scene, and how far their surface bulges towards the camera.
OBJECTS, BULGE = 4, 0.3


def scenes(count: int, seed: int = 0, side: int = 32, noise: float = 0.03) -> Batch:
    """Draw spheres, boxes and cylinders that stand on a floor before a wall.

    Each scene has four objects of random kind, place, size and colour. A floor pixel in row y
    lies at depth ``z = 1.2 / (y + 0.2)``, the wall at 4; an object at depth z stands where the floor
    has that depth, and is scaled by 1/z; of what overlaps the nearest is seen. Surfaces are shaded
    by one lamp (``0.35 + 0.65 · max(n·l, 0)``) and darken with depth, ``exp(-0.15 z)``; then comes
    noise. Colours say nothing about the class: shape and shading do.

    Args:
        count: Number of scenes.
        seed: Decides all of them.
        side: Pixels in a row and in a column.
        noise: Standard deviation of what is added to each colour.

    Returns:
        ``input`` ``(count, 3, side, side)`` float32, ``segmentation`` ``(count, side, side)`` int64,
        classes of ``SCENE_CLASSES``, and ``depth`` ``(count, 1, side, side)`` float32.

    Raises:
        ValueError: If ``count`` or ``side`` is not positive.

    Example:
        >>> batch = scenes(2, seed=0)
        >>> batch["input"].shape, batch["segmentation"].shape, batch["depth"].shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 32, 32]), torch.Size([2, 1, 32, 32]))
    """
    for name, value in (("count", count), ("side", side)):
        if value < 1:
            raise ValueError(f"Parameter `{name}` should be positive. Found `{name} = {value}`.")
    generator = torch.Generator().manual_seed(seed)
    columns = torch.linspace(-1, 1, side).expand(side, side)
    rows = columns.T
    ground = (NEAR * (1 - HORIZON)) / (rows - HORIZON).clamp(min=1e-3)
    depth = ground.clamp(max=FAR).expand(count, side, side).clone()
    classes = (ground < FAR).long().expand(count, side, side).clone()
    shade = torch.ones(count, side, side)
    tints = _uniform(generator, 0.3, 1.0, count, len(SCENE_CLASSES), 3)
    color = tints.gather(1, classes.view(count, -1, 1).expand(-1, -1, 3)).view(count, side, side, 3)
    for _ in range(OBJECTS):
        kind = torch.randint(2, len(SCENE_CLASSES), (count, 1, 1), generator=generator)
        far = _uniform(generator, 1.2, 3.5, count, 1, 1)
        radius = _uniform(generator, 0.4, 0.8, count, 1, 1) / far
        place = _uniform(generator, -0.9, 0.9, count, 1, 1)
        foot = HORIZON + NEAR * (1 - HORIZON) / far
        across, up = (columns - place) / radius, (rows - foot + radius) / radius
        inside, bulge, light = _surface(kind, across, up)
        front = far - BULGE * bulge
        seen = inside & (front < depth)
        tint = _uniform(generator, 0.3, 1.0, count, 1, 1, 3)
        depth = torch.where(seen, front, depth)
        classes = torch.where(seen, kind, classes)
        shade = torch.where(seen, light, shade)
        color = torch.where(seen.unsqueeze(-1), tint, color)
    lit = color * (shade * torch.exp(-0.15 * depth)).unsqueeze(-1)
    image = lit.movedim(-1, 1).contiguous()
    image += noise * torch.randn(image.shape, generator=generator)
    return {"input": image, "segmentation": classes, "depth": depth.unsqueeze(1)}


def _surface(kind: Tensor, across: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where an object is, how far it bulges there (0 to 1), and how much light it gets."""
    ball = across.square() + up.square()
    round_ = (1 - ball).clamp(min=0).sqrt()
    pipe = (1 - (across / 0.6).square()).clamp(min=0).sqrt()
    sphere, box = kind == 2, kind == 3
    inside = torch.where(
        sphere, ball < 1, (up.abs() < 1) & (across.abs() < torch.where(box, 0.8, 0.6))
    )
    bulge = torch.where(sphere, round_, torch.where(box, 0.0, pipe))
    # The lamp is up to the left, before the scene: (-1, -1, 1.4) / 2.
    cosine = torch.where(
        sphere,
        0.7 * round_ - 0.5 * across - 0.5 * up,
        torch.where(box, 0.7, 0.7 * pipe - 0.5 * across / 0.6),
    )
    return inside, bulge, 0.35 + 0.65 * cosine.clamp(0, 1)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
