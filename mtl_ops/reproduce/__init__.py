"""Published numbers against ours: ``mtl-ops reproduce``, and the pages that are made of its results."""

from .collecting import collect, load_results
from .registry import make, names
from .study import Study

__all__ = ["Study", "collect", "load_results", "make", "names"]
