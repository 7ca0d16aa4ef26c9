"""Examples by name."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from .base import EMBEDDED, Example
from .census import Census
from .digits import Digits, MultiDigits
from .graph import Molecules
from .modalities import ImageText, ImageTextSpeech
from .molecules import QuantumMolecules
from .physics import Physics
from .pictures import Attributes, Domains
from .segmentation_depth import SegmentationDepth
from .tabular import SolarFlare, Yeast

__all__ = ["architectures", "make", "names", "packaged"]

_EXAMPLES: dict[str, type[Example]] = {
    each.name: each
    for each in (
        Digits,
        MultiDigits,
        ImageTextSpeech,
        ImageText,
        SegmentationDepth,
        Molecules,
        Physics,
        Attributes,
        Domains,
        Census,
        QuantumMolecules,
        Yeast,
        SolarFlare,
    )
}


def names() -> list[str]:
    """Names of all examples, the default first.

    Example:
        >>> names()[0]
        'digits'
    """
    return list(_EXAMPLES)


def architectures() -> list[str]:
    """Names of the architectures that any example can be trained with, besides its own.

    Example:
        >>> architectures()[0]
        'shared'
    """
    every = (name for each in _EXAMPLES.values() for name in each.architectures)
    return list(dict.fromkeys(every))


@lru_cache(maxsize=8)
def make(name: str, folder: str | None = None) -> Example:
    """Make an example.

    Args:
        name: One of :func:`names`.
        folder: Data to use instead of the embedded ones; or "auto", "embedded", or the name of data in
            a package, see :attr:`Example.packaged`.

    Raises:
        ValueError: If there is no such example, or it takes no folder.
        DataError: If the folder does not hold what it should.

    Example:
        >>> list(make("digits").tasks)
        ['digit', 'parity', 'at-least-five', 'reconstruction']
    """
    if name not in _EXAMPLES:
        close = difflib.get_close_matches(name, _EXAMPLES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise ValueError(f"'{name}' is not one of {', '.join(_EXAMPLES)}{hint}")
    kind = _EXAMPLES[name]
    source = kind.source(folder)
    if source in kind.packaged or source in (None, EMBEDDED):
        example = kind(None)
        example.package = source if source in kind.packaged else None
        return example
    if not kind.formats:
        own = "has data of its own" if kind.packaged else "makes its own data"
        raise ValueError(f"Example '{name}' {own} and reads no folder.")
    return kind(Path(source))


def packaged() -> list[str]:
    """Names of data in packages that any example takes instead of a folder.

    Example:
        >>> packaged()[0]
        'mnist5k'
    """
    return list(dict.fromkeys(name for each in _EXAMPLES.values() for name in each.packaged))
