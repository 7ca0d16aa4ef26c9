"""What goes wrong on a GPU ends in one sentence."""

from __future__ import annotations

import emulated_cuda
import pytest
import torch
from torch import Tensor


def two(device: torch.device | str = "cpu") -> list[Tensor]:
    return [torch.ones(3, device=device), torch.ones(3, device=device)]


def test_an_architecture_that_the_build_lacks_names_the_remedy(emulator) -> None:
    with (
        emulated_cuda.failing(2, capability=75),
        pytest.raises(
            RuntimeError, match=r'compute capability 7\.5\. .*TORCH_CUDA_ARCH_LIST="7\.5"'
        ),
    ):
        emulator.gram(two(), 2, [], None)


def test_a_launch_that_fails_is_noticed(emulator) -> None:
    with (
        emulated_cuda.failing(1),
        pytest.raises(RuntimeError, match="a CUDA call of mtl_ops failed"),
    ):
        emulator.gram(two(), 2, [], None)


def test_too_little_shared_memory(emulator) -> None:
    gram = torch.eye(64, dtype=torch.float64).unsqueeze(0)
    with (
        emulated_cuda.emulated(shared_memory=64 * 1024 - 1),
        pytest.raises(RuntimeError, match=r"needs \d+ bytes of shared memory a block\. Found"),
    ):
        emulator.solve_aligned_mtl(gram, None, None, 0, None, 2.0**-50)


def test_arguments_of_the_wrong_kind(kernels) -> None:
    rows = two(kernels.device)
    weights = torch.ones(1, 2, device=kernels.device)
    with pytest.raises(RuntimeError, match="weights should be a contiguous float64 tensor"):
        kernels.ops.merge_([rows[0]], rows, weights, None, [], None, None, False)
    with pytest.raises(RuntimeError, match="max_norm needs the Gram matrix"):
        kernels.ops.merge_([rows[0]], rows, weights.double(), None, [], 1.0, None, False)
    with pytest.raises(RuntimeError, match=r"gram should have shape \(1, 2, 2\)"):
        gram = torch.ones(1, 3, 3, dtype=torch.float64, device=kernels.device)
        kernels.ops.merge_([rows[0]], rows, weights.double(), gram, [], 1.0, None, False)
    with pytest.raises(RuntimeError, match="gram should be a contiguous float64 tensor"):
        kernels.ops.solve_mean(weights, None)
    with pytest.raises(RuntimeError, match="scale should be contiguous, float64, of 2 elements"):
        kernels.ops.solve_mean(torch.ones(1, 2, 2, device=kernels.device).double(), weights[:, :1])
    with pytest.raises(RuntimeError, match="T should be between 1 and 64"):
        kernels.ops.gram([rows[0]] * 65, 65, [], None)
    with pytest.raises(RuntimeError, match=r"leak should hold T = 2 numbers\. Found 1"):
        arguments = (None, [], None, False, [0.0], 0, 0, None, [])
        kernels.ops.merge_graddrop_([rows[0]], rows, *arguments)
    numbers = (None, [], None, False, [0.0, 0.0], 0, 0)
    with pytest.raises(RuntimeError, match="first should be empty or hold one number for each"):
        kernels.ops.merge_graddrop_([rows[0]], rows, *numbers, None, [0, 1])
    with pytest.raises(RuntimeError, match=r"first should not be negative\. Found -1"):
        kernels.ops.merge_graddrop_([rows[0]], rows, *numbers, None, [-1])
    with pytest.raises(RuntimeError, match=f"of at least {rows[0].numel() + 2} elements"):
        uniforms = torch.ones(rows[0].numel() + 1, device=kernels.device)
        kernels.ops.merge_graddrop_([rows[0]], rows, *numbers, uniforms, [2])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_tensors_on_two_devices() -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="all gradients should be on one device"):
        torch.ops.mtl_ops.gram([there, here], 2, [], None)
    weights = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="on the gradients' device"):
        torch.ops.mtl_ops.merge_([there], [there, there], weights, None, [], None, None, False)
