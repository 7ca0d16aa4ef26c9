"""Every operator: schema, fake kernel, dispatch, ``torch.compile``; the values are tested elsewhere."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from samples import SAMPLES
from torch import Tensor

import mtl_ops
from mtl_ops import ops, reference

NAMES = sorted(
    name.removeprefix("mtl_ops::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("mtl_ops::")
)


def test_every_operator_has_samples() -> None:
    assert set(SAMPLES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_a_definition_with_its_arguments(name: str) -> None:
    schema = getattr(torch.ops.mtl_ops, name).default._schema
    definition = getattr(reference, name)
    args = SAMPLES[name](torch.float32)
    assert len(args) == len(schema.arguments)
    definition(*clone(args))  # takes them by position


def tensors(values: Any) -> list[Tensor]:
    """Those of an argument."""
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors(value)]
    return [values] if isinstance(values, Tensor) else []


def dtypes_of(name: str) -> list[torch.dtype]:
    """Those of gradients; what works on T x T numbers has one dtype."""
    one, two = ([t.dtype for t in tensors(SAMPLES[name](d))] for d in (torch.float32, torch.half))
    every = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    return every if one != two else [torch.float32]


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in NAMES for d in dtypes_of(n)])
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    torch.library.opcheck(getattr(torch.ops.mtl_ops, name).default, SAMPLES[name](dtype))


@pytest.mark.parametrize("name", NAMES)
def test_has_a_kernel_on_the_cpu(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mtl_ops::{name}", "CPU")


def test_the_cpu_is_native() -> None:
    assert mtl_ops.build_info().backends["cpu"] == "native"


def step(rows: list[Tensor | None], out: list[Tensor]) -> tuple[Tensor, Tensor]:
    gram = ops.gram(rows, 3)
    scale = ops.task_scales(gram, [1.0, 2.0, 1.0], max_task_norm=1.0, skip_nonfinite=True)
    weights = ops.solve_upgrad(gram, scale)
    return weights, ops.merge_(out, rows, weights, gram, max_norm=0.5)


def test_a_step_compiles_without_graph_break() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients: list[Tensor | None] = [
        torch.randn(size, generator=generator) for _ in range(3) for size in (7, 20, 1)
    ]
    gradients[4] = None
    eager = [torch.empty(7), torch.empty(20), torch.empty(1)]
    compiled = [torch.empty_like(tensor) for tensor in eager]
    expected = step(gradients, eager)
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(gradients, compiled)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(compiled, eager)


class TestWithoutKernels:
    """A device type without kernels, played by the CPU."""

    @pytest.fixture(autouse=True)
    def no_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rooms = (ops.coordinates, ops.gram_merge, ops.losses, ops.solve)
        for value in [value for room in rooms for value in vars(room).values()]:
            if isinstance(value, ops.operator.Operator):
                monkeypatch.setattr(value, "devices", frozenset())
        monkeypatch.setattr(ops.operator, "_warned", set())

    def test_runs_on_the_reference_and_warns_once(self) -> None:
        gradients = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = mtl_ops.merge(gradients, "upgrad")
            mtl_ops.merge(gradients, "mgda")
        assert len(caught) == 1
        assert "no kernels for device type 'cpu'" in str(caught[0].message)
        assert (gradients @ found > 0).all()


def test_more_tasks_than_the_kernels_take_run_on_the_reference() -> None:
    tasks = ops.MAX_TASKS["cpu"] + 1
    matrix = torch.randn(tasks, 10, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="T should be between 1 and 1024"):
        torch.ops.mtl_ops.gram(list(matrix), tasks, [], None)
    torch.testing.assert_close(
        ops.gram(list(matrix), tasks)[0], (matrix.double() @ matrix.double().T)
    )


def clone(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        arg.clone()
        if isinstance(arg, Tensor)
        else [x.clone() if isinstance(x, Tensor) else x for x in arg]
        if isinstance(arg, list)
        else arg
        for arg in args
    )
