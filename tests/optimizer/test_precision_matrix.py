"""Mixed precision, a compiled trunk, micro-batches and stored dtypes together equal the plain step, to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._functorch.config as config
from multitask import NAMES, Net, assert_same, batch, grads, wrap
from torch import Tensor

from mtl_ops.gradients.graph import node_names


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """As in a new process: nothing is compiled, and the settings are torch's own."""
    before = config.donated_buffer
    torch._dynamo.reset()
    config.donated_buffer = True
    yield
    torch._dynamo.reset()
    config.donated_buffer = before


def fill(
    net: Net, autocast: torch.dtype | None, scaled: bool, compiled: bool, parts: int, **options: Any
) -> list[Tensor | None]:
    """The unscaled gradients of one batch."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if scaled else None
    shared = [*net.trunk.parameters(), *net.neck.parameters()]
    options |= {"grad_scaler": scaler, "max_task_norm": 2.0, "shared": shared}
    optimizer = wrap(net, "upgrad", **options)
    if compiled:
        net.forward = torch.compile(net.forward, backend="aot_eager")  # type: ignore[method-assign]
    data = batch(size=8, like=net).chunk(parts)
    for place, part in enumerate(data):
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            losses = {name: loss / parts for name, loss in net.losses(part).items()}
        assert ("CompiledFunctionBackward" in node_names(list(losses.values()))) == compiled
        last = place == parts - 1
        (optimizer.backward if last else optimizer.accumulate)(losses)
    if scaler is not None:
        scaler.unscale_(optimizer)
    return grads(net)


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaler"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stored", [None, torch.bfloat16], ids=str)
def test_equals_the_plain_step(
    stored: torch.dtype | None,
    autocast: torch.dtype | None,
    scaled: bool,
    compiled: bool,
    parts: int,
) -> None:
    net, plain = Net(torch.float32), Net(torch.float32)
    found = fill(net, autocast, scaled, compiled, parts, grad_dtype=stored)
    expected = fill(plain, None, False, False, 1)
    assert all(gradient is None or gradient.dtype == torch.float32 for gradient in found)
    largest = max(gradient.abs().max().item() for gradient in expected if gradient is not None)
    exact = autocast is None and stored is None
    assert_same(found, expected, rtol=0.0, atol=largest * (1e-5 if exact else 0.05))


def test_an_inf_lowers_the_scale_and_leaves_the_others() -> None:
    net, like = Net(torch.float32), Net(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = wrap(net, "upgrad", grad_scaler=scaler, grad_dtype=torch.bfloat16, tasks=NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.losses(batch(like=net))
    losses["b"] = losses["b"] * torch.inf
    optimizer.backward(losses)
    assert optimizer.report.skipped.tolist() == [False, True, False]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**7
    assert all(param.isfinite().all() for param in net.parameters())
    moved = any(
        not torch.equal(a, b) for a, b in zip(net.parameters(), like.parameters(), strict=True)
    )
    assert moved


@pytest.mark.parametrize("dynamic", [False, True])
def test_operators_compile_without_a_graph_break(dynamic: bool) -> None:
    from mtl_ops import ops

    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    def step(rows: list[Tensor], out: Tensor) -> tuple[Tensor, Tensor]:
        gram = ops.gram(rows, 3)
        scale = ops.task_scales(gram, [1.0, 0.5, 2.0], 1.0, True)
        weights = ops.solve_upgrad(gram, scale)
        clip = ops.merge_([out], rows, weights, gram, max_norm=0.5)
        return weights, clip

    rows = list(torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).unbind())
    out, like = torch.empty(40), torch.empty(40)
    found = step(rows, out)
    gram = ops.gram(rows, 3)
    weights = ops.solve_upgrad(gram, ops.task_scales(gram, [1.0, 0.5, 2.0], 1.0, True))
    clip = ops.merge_([like], rows, weights, gram, max_norm=0.5)
    assert_same([*found, out], [weights, clip, like], rtol=0.0, atol=0.0)
