"""Several processes with parts of a batch: starting them, and a network for them."""

from __future__ import annotations

import datetime
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer

DATA = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A trunk, a neck for two of three tasks, and three heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.neck = nn.Linear(7, 7).double()
        self.heads = nn.ModuleList(
            [nn.Linear(7, 1), nn.Linear(7, 2).double(), nn.Linear(7, 1).double()]
        )

    def forward(self, data: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(data)
        neck = self.neck(features.double())
        return features, [self.heads[0](features), self.heads[1](neck), self.heads[2](neck)]


def losses_of(outputs: list[Tensor]) -> dict[str, Tensor]:
    return {
        name: (k + 1) * (output - k).square().mean()
        for k, (name, output) in enumerate(zip("abc", outputs, strict=True))
    }


def train(
    net: nn.Module,
    data: Tensor,
    options: dict[str, Any],
    *,
    absent: tuple[str, ...] = (),
    steps: int = 3,
    **call: Any,
) -> MultiTaskOptimizer:
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.01), **{"method": "upgrad", **options}
    )
    for _ in range(steps):
        optimizer.zero_grad()
        features, outputs = net(data)
        losses = {k: v for k, v in losses_of(outputs).items() if k not in absent}
        if options.get("gram_on") == "features":
            call["features"] = features
        optimizer.backward(losses, **call)
        optimizer.step()
    return optimizer


def assert_same(first: nn.Module, second: nn.Module, tolerance: float = 1e-6) -> None:
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        two = two.full_tensor() if hasattr(two, "full_tensor") else two
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def shard(net: Net, mesh: Any = None, **options: Any) -> Net:
    """As a user would: what belongs together in one module, and the rest in the root."""
    from torch.distributed.fsdp import fully_shard

    for module in (net.trunk, net.neck, net.heads[1], net.heads[2], net):
        fully_shard(module, mesh=mesh, **options)
    return net


def mesh_of(*sizes: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", sizes, mesh_dim_names=("outer", "inner")[-len(sizes) :])


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    """With a method where there is a name of one that needs arguments."""
    given = dict(options)
    if given.pop("order", None):
        given["method"] = mtl_ops.methods.get("pcgrad", order="cyclic")
    if given.get("method") == "trimmed_mean":
        given["method"] = mtl_ops.methods.get("trimmed_mean", trim=1)
    return given


# ---- starting processes --------------------------------------------------------------------------

#: Imports take most of a test's time: they are done once, in a process that all others are forked from.
CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mtl_ops", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp"]
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def join_group(rank: int, world: int, port: int, seconds: float = 120) -> None:
    """What ``torchrun`` and ``init_process_group`` do."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group(
        "gloo", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=seconds)
    )


def join_again(seconds: float) -> None:
    """A new group of the same processes, as after a failure, without starting them again."""
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = dist.distributed_c10d._get_default_store()
    store = whole.underlying_store if isinstance(whole, dist.PrefixStore) else whole
    dist.destroy_process_group()
    _join(store, f"again {store.add(f'joined again/{rank}', 1)}", rank, world, seconds)


def _join(store: Any, prefix: str, rank: int, world: int, seconds: float) -> None:
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(prefix, store),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=seconds),
    )


def _run(
    rank: int, world: int, port: int, errors: Any, bodies: Sequence[Callable[..., None]], args: Any
) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # others read them, too
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    _join(store, "first", rank, world, 120)
    for body in bodies:
        try:
            body(rank, world, *args)
        except BaseException:
            errors.put(f"{body.__name__} on rank {rank}: {traceback.format_exc()}")
            raise
    dist.barrier()
    dist.destroy_process_group()


def on_processes(world: int, bodies: Sequence[Callable[..., None]], *args: Any) -> None:
    """All bodies in one set of processes: starting them takes longer than what they do."""
    for last in (False, False, True):
        errors = _errors_of(world, bodies, args)
        # On a machine that is very busy gloo sometimes gives up a connection that its peer then waits for.
        if last or "connectFullMesh" not in errors:
            break
    if errors:
        raise AssertionError(errors)


def _errors_of(world: int, bodies: Sequence[Callable[..., None]], args: Sequence[Any]) -> str:
    errors = CONTEXT.SimpleQueue()
    # here, so that nobody else can take the port before it is used
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    everything = (world, store.port, errors, bodies, args)
    try:
        mp.start_processes(_run, everything, nprocs=world, start_method="forkserver")
    except Exception as error:
        texts = [str(error)]
        while not errors.empty():
            texts.append(errors.get())
        return "\n".join(texts)
    return ""
