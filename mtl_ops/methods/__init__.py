"""Methods that merge the gradients of several tasks.

Every method is a class with keyword-only parameters and a name; :func:`available` lists the names
and :func:`get` makes one. :func:`register` adds your own.
"""

from ._base import CoordinateMethod, LossMethod, Method, NativeMethod
from ._registry import available, get, register, resolve, unregister
from .linear import Mean, Sum

__all__ = [
    "CoordinateMethod",
    "LossMethod",
    "Mean",
    "Method",
    "NativeMethod",
    "Sum",
    "available",
    "get",
    "register",
    "resolve",
    "unregister",
]
