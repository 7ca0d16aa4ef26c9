"""Studies by name."""

from __future__ import annotations

from .census import CensusStudy
from .physics import PhysicsStudy
from .qm9 import Qm9Study
from .study import Study
from .toy import ToyStudy

__all__ = ["make", "names"]

_STUDIES: dict[str, type[Study]] = {
    each.name: each for each in (CensusStudy, PhysicsStudy, Qm9Study, ToyStudy)
}


def names() -> list[str]:
    """Names of all studies.

    Example:
        >>> "census" in names()
        True
    """
    return list(_STUDIES)


def make(name: str) -> Study:
    """The study.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in _STUDIES:
        raise ValueError(f"'{name}' is not one of {', '.join(_STUDIES)}.")
    return _STUDIES[name]()
