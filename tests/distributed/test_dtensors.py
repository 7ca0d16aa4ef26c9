"""DTensors in general, and which of them are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, assert_same, losses_of, mesh_of, on_processes, shard, train
from torch import nn

from mtl_ops import MultiTaskOptimizer, backward, cross_gram

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


#: A coordinate method, whose norm is known only after the merge.
CLIPPED = {"method": "sign_agreement", "max_norm": 0.05}


def dtensors(rank: int, world: int) -> None:
    """Without FSDP, as of tensor parallelism: all processes compute the same losses."""
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

    mesh = mesh_of(world)

    def spread(name: str, module: nn.Module, mesh: Any) -> None:
        for key, param in list(module.named_parameters(recurse=False)):
            where = [Replicate() if "neck" in name or key == "bias" else Shard(0)]
            module.register_parameter(key, nn.Parameter(distribute_tensor(param, mesh, where)))

    for options in ({"max_task_norm": 0.5, "max_norm": 0.05}, CLIPPED):
        alone = Net()
        joint = distribute_module(Net(), mesh, spread)
        train(alone, DATA, {**options, "distributed": None})
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(joint.parameters(), lr=0.01), **{"method": "upgrad", **options}
        )
        data = distribute_tensor(DATA, mesh, [Replicate()])
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.backward(losses_of(joint(data)[1]))
            optimizer.step()
        assert_same(alone, joint)
    with pytest.raises(ValueError, match="`samples` should be the same on all processes"):
        optimizer.backward(losses_of(joint(data)[1]), samples=1 + rank)


def refused(rank: int, world: int) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    def make(params: Any, **options: Any) -> MultiTaskOptimizer:
        return MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), **options)

    net, mesh = shard(Net()), mesh_of(world)
    params = list(net.parameters())
    with pytest.raises(ValueError, match=r"either only DTensors or none\. Found a plain tensor"):
        make([*params, nn.Parameter(torch.ones(3))], module=net)
    with pytest.raises(ValueError, match=r"placements \(Shard\(0\),\)"):
        make([nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)]))])
    with pytest.raises(ValueError, match="`distributed` should be 'auto' or 'exact' for DTensors"):
        make(params, module=net, distributed="mean_gram")
    with pytest.raises(ValueError, match="`weights_every` should be left out for DTensors"):
        make(params, module=net, weights_every=2)
    with pytest.raises(ValueError, match=r"make it afterwards\. Found plain tensors"):
        make(Net().parameters(), module=net)
    with pytest.raises(ValueError, match="`module` should be the module that `fully_shard`"):
        make(params).backward(losses_of(net(DATA)[1]))
    with pytest.raises(ValueError, match="`module` should be the module that `fully_shard`"):
        backward(losses_of(net(DATA)[1]), params)
    assert all(param.grad is None for param in params)
    backward(losses_of(net(DATA)[1]), params, module=net)
    found = [param.grad for param in params]
    optimizer = make(params, module=net)
    optimizer.zero_grad()
    optimizer.backward(losses_of(net(DATA)[1]))
    for one, two in zip(found, [param.grad for param in params], strict=True):
        torch.testing.assert_close(one.to_local(), two.to_local())
    optimizer.zero_grad()
    with pytest.raises(TypeError, match=r"Found a DTensor of shape \(7, 5\)"):
        cross_gram([params[0].to_local().sum()], [params[0].to_local().sum()], params)
    losses = losses_of(net(DATA)[1])
    if rank == 1:
        losses["a"] = losses["b"] * 2
    with pytest.raises(ValueError, match=r"the same modules .* Found loss 'a' to reach . tensors"):
        make(params, module=net).backward(losses)
    groups = [dist.new_group([one]) for one in range(world)]
    with pytest.raises(ValueError, match="`process_group` should be the processes that hold"):
        make(params, module=net, process_group=groups[rank])
    net.set_gradient_divide_factor(1.0)
    with pytest.raises(ValueError, match=r"mean. Found `set_gradient_divide_factor\(1.0\)`"):
        make(params, module=net)


def test_on_processes() -> None:
    on_processes(2, [dtensors, refused])
