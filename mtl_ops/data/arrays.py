"""Arrays from npy files that nobody vouches for: the head is read and checked before the rest."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from .folders import DataError, check_regular

__all__ = ["read_npy"]

Array = npt.NDArray[Any]

#: Bytes of a file: an image of 11 million pixels with three float64 has as many.
LIMIT = 2**28
#: Bytes of a head that are looked at; numpy takes no longer ones itself.
HEAD = 2**14


def read_npy(path: Path) -> Array:
    """An array of real numbers, all of them finite also in float32.

    Raises:
        DataError: If the file is missing, truncated, of another format, or holds anything else.
    """
    size = check_regular(path, LIMIT)
    try:
        with path.open("rb") as file:
            shape, fortran, dtype, start = _head(file.read(HEAD))
            _check(path, shape, dtype, size - start)
            file.seek(start)
            flat = np.fromfile(file, dtype=dtype, count=math.prod(shape))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"File {path} cannot be read: {error.strerror or error}.") from None
    except Exception:
        # The head is Python text, and what its parser raises has no common type.
        raise DataError(f"File {path} is truncated, or no npy file of numbers.") from None
    values = flat.reshape(shape, order="F" if fortran else "C")
    # float16 to float64; beyond float32's range a value would become infinite.
    with np.errstate(invalid="ignore"):
        largest = np.abs(values.astype(np.float64, copy=False)).max()
    if not largest <= np.finfo(np.float32).max:
        raise DataError(f"File {path} holds values that are not finite.")
    return values


def _head(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, dtype, and where the values start."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    with warnings.catch_warnings():
        # A head that Python 2 wrote is none the worse for it.
        warnings.simplefilter("ignore")
        # Version 3.0 is for structured arrays, which are none of numbers.
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], rest: int) -> None:
    """Whether the rest of the file is what its head says."""
    # By kind: a timedelta is a subclass of integers, and a longdouble fits into no tensor.
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(f"File {path} should hold numbers and holds {dtype}.")
    # Of Python's integers, which do not overflow.
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 1:
        raise DataError(f"File {path} should hold numbers and has shape {shape}.")
    if need != rest:
        raise DataError(
            f"File {path} is truncated, or longer than it says: {need} bytes for shape {shape}, and "
            f"it holds {rest}."
        )
