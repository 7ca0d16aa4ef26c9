"""Several processes with parts of a batch against one process with all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, assert_same, losses_of, on_processes, options_of, train
from torch import nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.distributed._buckets import make_buckets

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


# ---- what the processes do; each runs on every rank ----------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"method": "pcgrad", "order": "cyclic"},
    {"method": "sum", "max_norm": 0.05},
    {"method": "mgda", "max_task_norm": 0.5, "max_norm": 0.05},
    {"normalise": "loss+", "keep_scale": True},
    {"method": "norm_balancing"},
    {"method": "softadapt"},
    {"method": "equal"},
    {"method": "equal", "max_norm": 0.05},
    {"method": "trimmed_mean", "max_norm": 0.05},
    {"method": "graddrop", "max_norm": 0.05},
    {"granularity": "tensor"},
    {"gram_on": "features", "max_norm": 0.05},
    {"weights_every": 2},
    {"clip_value": 0.01},
    {"grad_dtype": torch.float32},
    {"batched": True},
    {"gram_on": "trunk", "max_norm": 0.05},
    {"gram_on": "trunk", "grad_dtype": torch.float64},
    {"gram_on": "features", "batched": True},
    {"memory": "stream", "max_norm": 0.05},
    {"memory": "stream", "granularity": "tensor", "nonfinite": "propagate"},
    {"memory": "stream", "method": "graddrop"},
    {"method": "moco"},
    {"method": "moco", "granularity": "tensor"},
    {"method": "excess_mtl"},
    {"method": "db_mtl"},
]


def exact(rank: int, world: int) -> None:
    for options in OPTIONS:
        if options.get("method") == "trimmed_mean":
            continue  # of fewer than three tasks in the neck
        alone, joint = Net(), Net()
        tasks = {"tasks": ["a", "b", "c"]}
        drawn = [{"generator": torch.Generator().manual_seed(1)} for _ in range(2)]
        one, many = (
            measured_on(net, options) | tasks | more
            for net, more in zip((alone, joint), drawn, strict=True)
        )
        train(alone, DATA, {**one, "distributed": None})
        optimizer = train(joint, DATA.chunk(world)[rank], many)
        assert_same(alone, joint)
        assert optimizer.report.losses is not None


def measured_on(net: Net, options: dict[str, Any]) -> dict[str, Any]:
    """With parameters where the trunk is named."""
    given = options_of(options)
    if given.get("gram_on") == "trunk":
        given["gram_on"] = list(net.trunk.parameters())
    return given


TURNS: list[dict[str, Any]] = [
    {"order": "random", "closing_joint": True},
    {"order": "loss"},
    {"weights_every": 2},
    {"gram_on": "trunk"},
    {"method": "moco"},
]


def turns(rank: int, world: int) -> None:
    """Groups of tasks that take turns, with what has a memory or measures elsewhere."""
    for options in TURNS:
        alone, joint = Net(), Net()
        for net, data, more in (
            (alone, DATA, {"distributed": None}),
            (joint, DATA.chunk(world)[rank], {}),
        ):
            order = {"order": options.get("order", "fixed"), "groups": [["a", "b"], ["c"]]}
            given = {**options, **order, **more, "tasks": ["a", "b", "c"]}
            if given.get("gram_on") == "trunk":
                given["gram_on"] = list(net.trunk.parameters())
            optimizer = MultiTaskOptimizer(
                torch.optim.SGD(net.parameters(), lr=0.01),
                generator=torch.Generator().manual_seed(1),
                **{"method": "upgrad", **given},
            )
            for _ in range(3):
                optimizer.step(lambda net=net, data=data: losses_of(net(data)[1]))
        assert_same(alone, joint)
        with pytest.raises(AssertionError):
            assert_same(joint, Net())


MICRO_BATCHES: list[dict[str, Any]] = [
    {"weights_every": 2},
    {"gram_on": "features"},
    {"gram_on": "trunk"},
    {"method": "moco"},
]


def micro_batches_of_options(rank: int, world: int) -> None:
    """Micro-batches with what measures elsewhere, or now and then, or remembers gradients."""
    for options in MICRO_BATCHES:
        alone, joint = Net(), Net()
        for net, data, more in (
            (alone, DATA, {"distributed": None}),
            (joint, DATA.chunk(world)[rank], {}),
        ):
            optimizer = MultiTaskOptimizer(
                torch.optim.SGD(net.parameters(), lr=0.01),
                **{"method": "upgrad", **measured_on(net, options), **more},
            )
            for _ in range(3):
                optimizer.zero_grad()
                for call in (optimizer.accumulate, optimizer.backward):
                    features, outputs = net(data)
                    given = {"features": features} if options.get("gram_on") == "features" else {}
                    call({name: loss / 2 for name, loss in losses_of(outputs).items()}, **given)
                optimizer.step()
        assert_same(alone, joint)
        with pytest.raises(AssertionError):
            assert_same(joint, Net())


def uneven(rank: int, world: int) -> None:
    parts = DATA.split([5, 19]) if world == 2 else DATA.split([1, 2, 3, 18])
    alone, joint = Net(), Net()
    train(alone, DATA, {"distributed": None})
    train(joint, parts[rank], {}, samples=len(parts[rank]))
    assert_same(alone, joint)


def absent(rank: int, world: int) -> None:
    """Task b is on rank 0 only, task c on the others only, and one rank may have none."""
    missing = ("c",) if rank == 0 else ("b",) if rank == 1 else ("a", "b", "c")
    parts = DATA.chunk(2)
    for options in ({}, {"weights_every": 2}, {"gram_on": "features"}):
        alone, joint = Net(), Net()
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(alone.parameters(), lr=0.01), "upgrad", distributed=None, **options
        )
        for _ in range(3):
            optimizer.zero_grad()
            features, _ = alone(DATA)
            outputs = alone(DATA)[1] if not options.get("gram_on") else None
            neck = alone.neck(features.double())
            outputs = [alone.heads[0](features), alone.heads[1](neck), alone.heads[2](neck)]
            cut = [outputs[0], outputs[1][:12], outputs[2][12:]]
            kwargs = {"features": features} if options.get("gram_on") else {}
            optimizer.backward(losses_of(cut), **kwargs)
            optimizer.step()
        train(joint, parts[min(rank, 1)], {**options, "tasks": ["a", "b", "c"]}, absent=missing)
        assert_same(alone, joint)


def interleaved(rank: int, world: int) -> None:
    """Shared parameters of two dtypes in turn: those of one dtype have numbers with gaps between them."""
    nets = []
    for data, options in ((DATA, {"distributed": None}), (DATA.chunk(world)[rank], {})):
        net = nn.ParameterList([torch.zeros(9), torch.zeros(4).double(), torch.zeros(30)])
        optimizer = MultiTaskOptimizer(torch.optim.SGD(net, lr=0.1), "graddrop", **options)
        for _ in range(3):
            optimizer.zero_grad()
            outputs = [data[:, :1] + torch.arange(len(p)).sin() - p for p in net]
            losses = [
                torch.stack([(output - t).double().square().mean() for output in outputs]).sum()
                for t in range(3)
            ]
            optimizer.backward(losses)
            optimizer.step()
        nets.append(net)
    assert_same(*nets)


def wire(rank: int, world: int) -> None:
    """T·N + N numbers, up to padding and what is agreed on; not 2·T·N."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "sum")
    sent = {"large": 0, "small": 0}

    def count(call: Callable[..., Any], tensor: int, share: float) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            size = args[tensor].numel()
            sent["large" if size > 1000 else "small"] += int(size * share)
            return call(*args, **kwargs)

        return counted

    ring = (world - 1) / world
    wire = optimizer._merger.processes.wire
    for name, tensor, share in (
        ("start_reduce_scatter", 1, ring),
        ("all_gather", 0, ring),
        ("all_reduce", 0, 2 * ring),
    ):
        setattr(wire, name, count(getattr(wire, name), tensor, share))
    numbers = sum(param.numel() for param in net.parameters())
    for _ in range(2):  # at first after the last backward, and then between them
        sent.update(large=0, small=0)
        outputs = net(torch.randn(4, 64))
        optimizer.backward([outputs[:, t].square().mean() for t in range(6)])
        assert sent["large"] <= 1.01 * ring * (6 + 1) * numbers
        assert sent["large"] >= 0.99 * ring * (6 + 1) * numbers
        assert sent["small"] < 1000


def overlap(rank: int, world: int) -> None:
    """From the second step on a task's gradients are on their way while the next backward runs; same bits."""
    early, late = Net(), Net()
    events: list[str] = []
    optimizers = [
        MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.01)) for net in (early, late)
    ]
    for optimizer in optimizers:
        wire = optimizer._merger.processes.wire
        wire.start_reduce_scatter = recorded(wire.start_reduce_scatter, events)
    for step in range(4):
        for net, optimizer in zip((early, late), optimizers, strict=True):
            events.clear()
            optimizer.zero_grad()
            outputs = net(DATA.chunk(world)[rank])[1]
            if step == 2:  # reaches less than was expected, and in the next step more
                outputs[1] = net.heads[1](net.neck.bias.expand(1, -1))
            losses = losses_of(outputs)
            for name, loss in losses.items():
                loss.register_hook(lambda grad, name=name: events.append(name))
            if net is late:
                optimizer._merger.processes._flags.clear()
            optimizer.backward(losses)
            optimizer.step()
            between = events[events.index("b") : events.index("c")].count("sent")
            assert (between > 0) == (net is early and step > 0)
        assert all(map(torch.equal, early.parameters(), late.parameters()))


def recorded(call: Callable[..., Any], events: list[str]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        events.append("sent")
        return call(*args, **kwargs)

    return record


def mean_gram(rank: int, world: int) -> None:
    alone, joint = Net(), Net()
    optimizer = train(joint, DATA.chunk(world)[rank], {"distributed": "mean_gram"}, steps=1)
    rows = []
    for part in DATA.chunk(world):
        losses = losses_of(alone(part)[1]).values()
        shared = list(alone.trunk.parameters())
        rows.append(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]
                )
                for loss in losses
            ]
        )
    assert optimizer.report.gram is not None
    grams = [torch.stack(row).double() @ torch.stack(row).double().T for row in rows]
    neck = list(alone.neck.parameters())
    for number, part in enumerate(DATA.chunk(world)):
        losses = list(losses_of(alone(part)[1]).values())[1:]
        more = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, neck, retain_graph=True)])
                for loss in losses
            ]
        )
        grams[number][1:, 1:] += more @ more.T
    gram = torch.stack(grams).mean(dim=0)
    torch.testing.assert_close(optimizer.report.gram[0], gram, rtol=1e-5, atol=1e-9)
    w = mtl_ops.methods.get("upgrad").weights(gram)
    joint_rows = torch.stack([torch.stack(row) for row in rows]).mean(dim=0).double()
    found = torch.cat([p.grad.flatten() for p in joint.trunk.parameters()])
    torch.testing.assert_close(found.double(), w @ joint_rows, rtol=1e-5, atol=1e-8)


def ddp(rank: int, world: int) -> None:
    alone, joint = Net(), Net()
    train(alone, DATA, {"distributed": None})
    wrapped = nn.parallel.DistributedDataParallel(joint)
    train(wrapped, DATA.chunk(world)[rank], {"module": wrapped})
    assert_same(alone, joint)


def micro_batches(rank: int, world: int) -> None:
    """Tasks that the last batch lacks, and a method that looks at the losses of all, and at those afterwards."""
    alone, joint = Net(), Net()
    for net, data, options in ((alone, DATA, {"distributed": None}), (joint, None, {})):
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.01),
            "famo",
            tasks=["a", "b", "c"],
            max_task_norm=5.0,  # so that it has the gradient of each task
            **options,
        )
        part = DATA.chunk(world)[rank] if data is None else data
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.accumulate(losses_of(net(part)[1]))
            losses = losses_of(net(part)[1])
            optimizer.backward({"a": losses["a"]})
            optimizer.step()
            with torch.no_grad():
                optimizer.observe(losses_of(net(part)[1]))
    assert_same(alone, joint)


def stored(rank: int, world: int) -> None:
    """Gradients of single tasks are rounded; also where a task is in some processes only."""
    missing = ("c",) if rank == 0 else ()
    for mode in ("exact", "mean_gram"):
        exact, rounded = Net(), Net()
        for net, dtype in ((exact, None), (rounded, torch.bfloat16)):
            options = {"distributed": mode, "grad_dtype": dtype, "tasks": ["a", "b", "c"]}
            train(net, DATA.chunk(world)[rank], options, absent=missing)
        assert_same(exact, rounded, 1e-2)
        with pytest.raises(AssertionError):
            assert_same(exact, rounded, 1e-6)


def broken(rank: int, world: int) -> None:
    """A NaN on one rank leaves the task out on all of them."""
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "upgrad")
    losses = losses_of(net(DATA)[1])
    if rank == 1:
        losses["b"] = losses["b"] * torch.nan
    optimizer.backward(losses)
    optimizer.step()
    assert optimizer.report.skipped is not None
    assert optimizer.report.skipped.tolist() == [False, True, False]
    assert all(param.isfinite().all() for param in net.parameters())
    sums = torch.stack([param.double().sum() for param in net.parameters()])
    other = sums.clone()
    dist.broadcast(other, 0)
    assert torch.equal(sums, other)


# ---- running them --------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 4])
def test_on_processes(world: int) -> None:
    bodies = [exact, turns, micro_batches_of_options, uneven, absent, interleaved]
    if world == 4:
        bodies += [mean_gram, stored, ddp, broken, micro_batches]
    on_processes(world, [*bodies, overlap, wire])


def test_pieces_that_are_not_joined_hold_one_parameter() -> None:
    params = [torch.empty(5), torch.empty(3).double(), torch.empty(7)]
    reach = [(0, 1)] * 3
    bucket = make_buckets(params, reach, world=2)[0]
    pieces = [bucket.pieces(rank, [0, 0, 0], reach, joined=False) for rank in range(2)]
    found = [[(one.start, one.stop, one.param, one.skipped) for one in here] for here in pieces]
    assert found == [[(0, 5, 0, 0), (5, 6, 2, 0)], [(0, 6, 2, 1)]]
    assert [len(bucket.pieces(rank, [0, 0, 0], reach)) for rank in range(2)] == [1, 1]


class TestAlone:
    def test_auto_without_a_process_group_is_plain(self) -> None:
        assert (
            MultiTaskOptimizer(torch.optim.SGD(Net().parameters(), 0.1))._merger.processes is None
        )

    def test_exact_without_a_process_group(self) -> None:
        with pytest.raises(ValueError, match="without an initialised process group"):
            MultiTaskOptimizer(torch.optim.SGD(Net().parameters(), 0.1), distributed="exact")

    def test_unknown_mode(self) -> None:
        with pytest.raises(ValueError, match="one of auto, exact, mean_gram"):
            MultiTaskOptimizer(torch.optim.SGD(Net().parameters(), 0.1), distributed="all")
