"""What methods that ask another for its weights have in common."""

from __future__ import annotations

import torch

from ._base import Method

__all__ = ["OverAnother"]


class OverAnother(Method):
    """What the step asks of it is the other method's to say.

    Attributes:
        method: The other method.
    """

    method: Method

    @property
    def uses_losses(self) -> bool:  # type: ignore[override]
        """As the other method."""
        return self.method.uses_losses

    @property
    def uses_rounding(self) -> bool:  # type: ignore[override]
        """As the other method."""
        return self.method.uses_rounding

    @property
    def generator(self) -> torch.Generator | None:
        """The other method's."""
        return self.method.generator

    @generator.setter
    def generator(self, generator: torch.Generator | None) -> None:
        self.method.generator = generator
