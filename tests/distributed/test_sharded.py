"""Parameters that are spread over processes (FSDP2, DTensors) against one process that has them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import (
    DATA,
    Net,
    assert_same,
    losses_of,
    mesh_of,
    on_processes,
    options_of,
    shard,
    train,
)
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


OPTIONS: list[dict[str, Any]] = [
    {"max_task_norm": 0.5, "max_norm": 0.05},
    {"method": "pcgrad", "order": "cyclic"},
    {"method": "equal"},
    {"method": "equal", "max_norm": 0.05},
    {"method": "sign_agreement", "max_norm": 0.05},
    {"method": "graddrop"},
    {"granularity": "tensor", "clip_value": 0.01},
]


def exact(rank: int, world: int) -> None:
    """In float64, so that nothing but the last bits may differ."""
    data = DATA.double()
    for options in OPTIONS:
        alone, joint = Net().double(), shard(Net().double())
        one = train(alone, data, {**options_of(options), "distributed": None})
        two = train(joint, data.chunk(world)[rank], {**options_of(options), "module": joint})
        assert_same(alone, joint, 1e-12)
        for name in ("weights", "gram", "norms", "cosines", "losses", "clip_scale"):
            first, second = getattr(one.report, name), getattr(two.report, name)
            assert (first is None) == (second is None)
            if first is not None:
                torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


def uneven(rank: int, world: int) -> None:
    """Batches of different sizes, and parameters that stay whole between backwards."""
    parts = DATA.split([5, 19]) if world == 2 else DATA.split([1, 2, 3, 18])
    for reshard in (True, False):
        alone, joint = Net(), shard(Net(), reshard_after_forward=reshard)
        joint.set_reshard_after_backward(reshard)
        train(alone, DATA, {"distributed": None})
        train(joint, parts[rank], {"module": joint}, samples=len(parts[rank]))
        assert_same(alone, joint)


def absent(rank: int, world: int) -> None:
    """One error everywhere, or 0 times an output, and no samples, in the place of a task."""
    alone, joint = Net(), shard(Net())
    part = DATA.chunk(world)[rank]
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(joint.parameters(), lr=0.01), module=joint, tasks=["a", "b", "c"]
    )
    losses = losses_of(joint(part)[1])
    cut = {name: loss for name, loss in losses.items() if name != "b" or rank == 0}
    with pytest.raises(ValueError, match=r"sharded gradients .* Found no loss 'b' on rank 1"):
        optimizer.backward(cut)
    cut["b"] = losses["b"] if rank == 0 else 0.0 * losses["b"]
    optimizer.backward(cut, samples={"b": float(rank == 0)})
    optimizer.step()
    one = MultiTaskOptimizer(torch.optim.SGD(alone.parameters(), lr=0.01), distributed=None)
    outputs = alone(DATA)[1]
    one.backward(losses_of([outputs[0], outputs[1][: len(part)], outputs[2]]))
    one.step()
    assert_same(alone, joint)
    optimizer.zero_grad()
    missing = {name: loss for name, loss in losses_of(joint(part)[1]).items() if name != "b"}
    optimizer.backward(missing)  # absent everywhere
    assert optimizer.report.losses is not None
    assert optimizer.report.losses.isnan().tolist() == [False, True, False]


def gradients(rank: int, world: int) -> None:
    """What is in ``.grad`` stays, whoever owns it; micro-batches add up."""
    alone, joint = Net(), shard(Net())
    part = DATA.chunk(world)[rank]
    expected = []
    for net, data, options in (
        (alone, DATA, {"distributed": None}),
        (joint, part, {"module": joint}),
    ):
        owned = [p for name, p in net.named_parameters() if not name.startswith("heads.2")]
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(owned, lr=0.01), "mgda", max_norm=0.05, **options
        )
        data = data.clone().requires_grad_()
        data.grad = torch.ones_like(data)
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        optimizer.accumulate({name: 0.5 * loss for name, loss in losses_of(net(data)[1]).items()})
        optimizer.backward({name: 0.5 * loss for name, loss in losses_of(net(data)[1]).items()})
        assert torch.equal(data.grad, torch.ones_like(data))
        grads = [param.grad for param in net.parameters()]
        expected.append([g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads])
    for one, two in zip(*expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    assert (expected[1][-1] == 1).all()  # of a head that the optimizer does not own


def checkpoint(rank: int, world: int) -> None:
    """A state dict in the middle: the run goes on as the one that was not stopped."""

    def make(net: Net) -> MultiTaskOptimizer:
        inner = torch.optim.Adam(net.parameters(), lr=0.01)
        return MultiTaskOptimizer(inner, "gradnorm", tasks=["a", "b", "c"], module=net)

    def step(net: Net, optimizer: MultiTaskOptimizer) -> None:
        optimizer.zero_grad()
        optimizer.backward(losses_of(net(DATA.chunk(world)[rank])[1]))
        optimizer.step()

    net = shard(Net())
    optimizer = make(net)
    step(net, optimizer)
    saved = {name: value.clone() for name, value in net.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    step(net, optimizer)
    resumed = shard(Net())
    resumed.load_state_dict(saved)
    other = make(resumed)
    other.load_state_dict(state)
    step(resumed, other)
    for one, two in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one.to_local(), two.to_local())


def stored(rank: int, world: int) -> None:
    """Gradients of single tasks are rounded where they are, and cannot come from one backward."""
    part, nets = DATA.chunk(world)[rank], []
    for dtype in (None, torch.bfloat16):
        nets.append(shard(Net()))
        train(nets[-1], part, {"module": nets[-1], "grad_dtype": dtype})
    exact, rounded = ([p.full_tensor() for p in net.parameters()] for net in nets)
    torch.testing.assert_close(exact, rounded, rtol=1e-2, atol=1e-2)
    assert not any(map(torch.equal, exact, rounded))
    with pytest.raises(ValueError, match="Parameter `batched` should be False for DTensors"):
        train(nets[0], part, {"module": nets[0], "batched": True})


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again, with a weight that two heads share and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Linear(5, 1) for _ in range(3)])
        self.heads[1].weight = self.heads[0].weight
        self.blocks[1].bias.requires_grad_(False)

    def forward(self, data: Tensor) -> tuple[Tensor, list[Tensor]]:
        for block in self.blocks:
            data = data + torch.utils.checkpoint.checkpoint(block, data, use_reentrant=False).tanh()
        return data, [head(data) for head in self.heads]


def recomputed(rank: int, world: int) -> None:
    """Activation checkpoints, tied and frozen weights, offloading, and a reduction in another dtype."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    alone = Checkpointed().double()
    train(alone, DATA.double(), {"distributed": None})
    mixed = MixedPrecisionPolicy(torch.float32, torch.float64, cast_forward_inputs=True)
    for tolerance, options in (
        (1e-12, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}),
        (1e-5, {"mp_policy": mixed}),
    ):
        joint = Checkpointed().double()
        for block in joint.blocks:
            fully_shard(block, **options)
        fully_shard(joint, **options)
        train(joint, DATA.double().chunk(world)[rank], {"module": joint})
        assert_same(alone, joint, tolerance)


def broken(rank: int, world: int) -> None:
    """A NaN on one rank leaves the task out on all of them."""
    net = shard(Net())
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), module=net)
    losses = losses_of(net(DATA)[1])
    if rank == 1:
        losses["b"] = losses["b"] * torch.nan
    optimizer.backward(losses)
    optimizer.step()
    assert optimizer.report.skipped is not None
    assert optimizer.report.skipped.tolist() == [False, True, False]
    assert all(param.to_local().isfinite().all() for param in net.parameters())


def hybrid(rank: int, world: int) -> None:
    """HSDP: of the processes that hold the same part, one measures it."""
    alone = Net()
    train(alone, DATA, {"distributed": None, "max_norm": 0.05})
    joint = shard(Net(), mesh_of(2, world // 2))
    train(joint, DATA.chunk(world)[rank], {"module": joint, "max_norm": 0.05})
    assert_same(alone, joint)


def wire(rank: int, world: int) -> None:
    """T reduce-scatters, which are FSDP's, and no parameter or gradient gathered."""
    net = shard(Net(), reshard_after_forward=False)
    net.set_reshard_after_backward(False)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), module=net)
    losses = losses_of(net(DATA)[1])
    sent = {"scatter": 0, "gather": 0, "reduce": 0}

    def count(call: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            sent[kind] += max(tensor.numel() for tensor in tensors)
            return call(*args, **kwargs)

        return counted

    for name, kind in (
        ("reduce_scatter_single", "scatter"),
        ("reduce_scatter_tensor", "scatter"),
        ("all_gather_single", "gather"),
        ("all_gather_into_tensor", "gather"),
        ("all_reduce", "reduce"),
    ):
        if hasattr(dist, name):
            setattr(dist, name, count(getattr(dist, name), kind))
    optimizer.backward(losses)
    padded = 0
    reached = {"trunk": 3, "neck": 2, "heads.0": 1, "heads.1": 1, "heads.2": 1}
    for name, param in net.named_parameters():
        rows = -(-len(param) // world) * world
        times = next(n for prefix, n in reached.items() if name.startswith(prefix))
        padded += times * rows * (param.numel() // len(param))
    assert sent["scatter"] == padded
    assert sent["reduce"] == 2 * 3 * 3  # G of what is shared, and of what is not
    facts = 2 * world * 5 * 3  # the names at first, and what every process says of each task
    assert sent["gather"] <= facts + 1000


@pytest.mark.parametrize("world", [2, 4])
def test_on_processes(world: int) -> None:
    bodies = [exact, uneven, absent]
    if world == 4:
        bodies += [gradients, stored, recomputed, checkpoint, broken, hybrid]
    on_processes(world, [*bodies, wire])  # `wire` wraps collectives
