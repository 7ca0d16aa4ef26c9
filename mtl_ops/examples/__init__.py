"""The problems that ``mtl-ops train --example NAME`` can train, one a file."""

from .base import Example, Size
from .registry import architectures, make, names, packaged

__all__ = ["Example", "Size", "architectures", "make", "names", "packaged"]
