"""What was compiled, and what runs where: `mtl_ops.build_info()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

try:
    import mtl_ops._C as _C  # `from mtl_ops import _C` would blame a circular import
except ImportError as error:
    raise ImportError(
        "mtl_ops is not built for this Python and torch: run `pip install --no-build-isolation .` in its source tree "
        f"({error})."
    ) from error

__version__: str = _C.version


@dataclass(frozen=True)
class BuildInfo:
    """What was compiled, and what runs where.

    `cuda` is the version of nvcc, or None if the CUDA kernels were left out, for the reason
    `cuda_left_out`. `simd` is the instruction set in use (`"x86-64-v4"`, `"x86-64-v3"` or
    `"generic"`). `backends` says for each type of device whether this build's kernels (`"native"`)
    or plain PyTorch in float64 (`"reference"`) merge its gradients.
    """

    version: str
    compiler: str
    cxx_standard: int
    torch: str
    cuda: str | None
    cuda_archs: tuple[str, ...]
    cuda_left_out: str
    simd: str
    threads: int
    backends: Mapping[str, str]

    def __str__(self) -> str:
        cuda = f"{self.cuda} for {', '.join(self.cuda_archs)}"
        cuda = cuda if self.cuda else f"not compiled ({self.cuda_left_out})"
        backends = ", ".join(f"{device}: {backend}" for device, backend in self.backends.items())
        lines = {
            "compiler": f"{self.compiler}, C++{self.cxx_standard}",
            "torch": f"built with {self.torch}, running on {torch.__version__}",
            "CUDA": cuda,
            "SIMD": f"{self.simd}, {self.threads} threads",
            "backends": backends,
        }
        return "\n".join([f"mtl_ops {self.version}", *(f"  {k:<9} {v}" for k, v in lines.items())])


def build_info() -> BuildInfo:
    """Returns what was compiled, and which backend is live for each type of device.

    Example:
        >>> import mtl_ops
        >>> mtl_ops.build_info().backends["cpu"]
        'native'
    """
    return BuildInfo(
        version=_C.version,
        compiler=_C.compiler,
        cxx_standard=_C.cxx_standard // 100 % 100,
        torch=_C.torch_version,
        cuda=_C.cuda_version or None,
        cuda_archs=tuple(_C.cuda_archs.replace(";", " ").split()),
        cuda_left_out=_C.cuda_left_out,
        simd=_C.simd_level(),
        threads=torch.get_num_threads(),
        backends={device: _backend(device) for device in ("cpu", "cuda", "mps", "xpu")},
    )


def _backend(device: str) -> str:
    """Asks the dispatcher: a device is native if every operator has a kernel of its own there."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("mtl_ops::")]
    key = device.upper()
    native = names and all(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for name in names
    )
    return "native" if native else "reference"
