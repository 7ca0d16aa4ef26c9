"""What every test can ask for: a device, and a dtype of gradients."""

from __future__ import annotations

import pytest
import torch

import mtl_ops

NATIVE_CUDA = torch.cuda.is_available() and mtl_ops.build_info().backends.get("cuda") == "native"

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(
                not NATIVE_CUDA, reason="needs a CUDA device and a build with CUDA kernels"
            ),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that has kernels."""
    return torch.device(request.param)


@pytest.fixture(
    params=[torch.float32, torch.float64, torch.bfloat16, torch.float16],
    ids=["float32", "float64", "bfloat16", "float16"],
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype that gradients may have."""
    chosen: torch.dtype = request.param
    return chosen
