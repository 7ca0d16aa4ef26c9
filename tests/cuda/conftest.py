"""Where the CUDA kernels run: on a GPU if there is one, and always on the emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import emulated_cuda
import pytest
import torch
from torch import Tensor

import mtl_ops

NO_GPU = (
    "there is no GPU"
    if not torch.cuda.is_available()
    else "this build has no CUDA kernels"
    if mtl_ops.build_info().backends["cuda"] != "native"
    else None
)

ON_A_GPU = [pytest.mark.cuda, pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))]


@dataclass(frozen=True)
class Kernels:
    """The operators, and the device their tensors lie on."""

    name: str
    ops: Any
    device: torch.device

    def again(self, run: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
        """What ``run`` gives when it runs several times, the emulator's threads in several orders."""
        if self.name != "emulated":
            return [run() for _ in range(3)]
        results = []
        for order in (0, 1, 2, 3):
            with emulated_cuda.emulated(order=order):
                results.append(run())
        return results


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=ON_A_GPU)])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The CUDA kernels, on the emulator and on a GPU."""
    if request.param == "cuda":
        return Kernels("cuda", torch.ops.mtl_ops, torch.device("cuda"))
    return Kernels("emulated", request.getfixturevalue("emulator"), torch.device("cpu"))


@pytest.fixture(scope="session")
def emulator() -> Any:
    """The emulated operators, compiled once."""
    reason = emulated_cuda.reason_not_to()
    if reason is not None:
        pytest.skip(reason)
    return emulated_cuda.load()
