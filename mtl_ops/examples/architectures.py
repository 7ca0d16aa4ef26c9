"""The reference architectures on images, by name: what ``mtl-ops train --architecture`` chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from ..data import Split, Task
from ..models import (
    CGC,
    MTAN,
    PLE,
    CrossStitch,
    DSelectK,
    LearningToBranch,
    MMoE,
    MultiTaskModel,
    SharedBackbone,
    cnn,
    resnet18,
)

__all__ = ["ARCHITECTURES", "image_model"]

WIDTHS = (16, 32, 64)


def image_model(architecture: str, tasks: Mapping[str, Task], split: Split) -> MultiTaskModel:
    """A small convolutional network for one image with several targets, shared in a certain way.

    Args:
        architecture: One of :data:`ARCHITECTURES`.
        tasks: Those that get a head.
        split: For the sizes of images and targets.

    Raises:
        ValueError: If there is no such architecture.

    Example:
        >>> from mtl_ops.data import DIGITS_TASKS, digits
        >>> type(image_model("mmoe", DIGITS_TASKS, digits())).__name__
        'MMoE'
    """
    if architecture not in _MAKERS:
        raise ValueError(
            f"Parameter `architecture` should be one of {', '.join(_MAKERS)}. "
            f"Found `architecture = {architecture!r}`."
        )
    channels, side = split.train["input"].shape[1], split.train["input"].shape[-1]
    heads: dict[str, nn.Module] = {}
    for name, task in tasks.items():
        image = task.kind == "regression"
        outputs = split.train[name].shape[1] if image else task.outputs
        heads[name] = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * WIDTHS[-1], outputs)
        )
    criteria = {name: task.loss for name, task in tasks.items()}
    return _MAKERS[architecture](_Sizes(channels, side), heads, criteria)


class _Sizes:
    """Of the image, and what the network's parts take."""

    def __init__(self, channels: int, side: int) -> None:
        self.channels, self.side = channels, side
        self.inputs = channels * side**2

    def stages(self) -> nn.Sequential:
        return cnn(self.channels, WIDTHS)

    def lower(self) -> nn.Sequential:
        return cnn(self.channels, WIDTHS[:2])

    def upper(self) -> nn.Module:
        return cnn(self.channels, WIDTHS)[2]

    @property
    def between(self) -> int:
        """Numbers that the lower part makes."""
        return WIDTHS[1] * (self.side // 2) ** 2


def _shared(share: str) -> Callable[..., MultiTaskModel]:
    return lambda sizes, heads, criteria: SharedBackbone(
        sizes.stages(),
        heads,
        criteria,
        share=share,
    )


_MAKERS: dict[str, Callable[..., MultiTaskModel]] = {
    "shared": _shared("all"),
    "shared-bottom-only": _shared("bottom"),
    "shared-middle": _shared("middle"),
    "resnet18": lambda sizes, heads, criteria: SharedBackbone(
        resnet18(sizes.channels, WIDTHS[-1] // 8), heads, criteria
    ),
    "cross-stitch": lambda sizes, heads, criteria: CrossStitch(sizes.stages(), heads, criteria),
    "mtan": lambda sizes, heads, criteria: MTAN(sizes.stages(), WIDTHS, heads, criteria),
    "mmoe": lambda sizes, heads, criteria: MMoE(sizes.stages, 3, sizes.inputs, heads, criteria),
    "cgc": lambda sizes, heads, criteria: CGC(sizes.stages, sizes.inputs, heads, criteria),
    "ple": lambda sizes, heads, criteria: PLE(
        [sizes.lower, sizes.upper], [sizes.inputs, sizes.between], heads, criteria
    ),
    "dselect-k": lambda sizes, heads, criteria: DSelectK(
        sizes.stages, 4, sizes.inputs, heads, criteria
    ),
    "learning-to-branch": lambda sizes, heads, criteria: LearningToBranch(
        sizes.stages(), heads, criteria
    ),
}
#: Names of all.
ARCHITECTURES = tuple(_MAKERS)
