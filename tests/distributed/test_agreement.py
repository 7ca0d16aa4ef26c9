"""What has to be the same on all processes, and what each is told if it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, assert_same, losses_of, on_processes, train

from mtl_ops import MultiTaskOptimizer

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


def random_numbers(rank: int, world: int) -> None:
    """All draw the same, whatever their own generators do."""
    alone, joint = Net(), Net()
    torch.manual_seed(100 + rank)
    same = torch.Generator().manual_seed(100)
    train(alone, DATA, {"method": "pcgrad", "distributed": None, "generator": same})
    optimizer = train(joint, DATA.chunk(world)[rank], {"method": "pcgrad"})
    assert_same(alone, joint)
    assert torch.equal(optimizer.state_dict()["tasks"]["generator"], same.get_state())
    other = torch.Generator().manual_seed(rank)
    with pytest.raises(ValueError, match=r"`generator` should be the same on all .* on rank 1"):
        train(joint, DATA, {"generator": other})


def different_arguments(rank: int, world: int) -> None:
    net = Net()

    def make(method: str = "sum", **options: Any) -> MultiTaskOptimizer:
        return MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), method, **options)

    with pytest.raises(ValueError, match=r"`method` should be the same .* 'mean' on rank 1"):
        make("mean" if rank == 1 else "sum")
    with pytest.raises(ValueError, match=r"`max_norm` should be the same .* None on rank 1"):
        make(max_norm=None if rank == 1 else 1.0)
    with pytest.raises(ValueError, match=r"`weights_every` should be the same .* 2 on rank 1"):
        make("upgrad", weights_every=2 if rank == 1 else 1)
    with pytest.raises(ValueError, match=r"`groups` should be the same .* None on rank 1"):
        make(groups=None if rank == 1 else [[0], [1, 2]])
    for option, value in {"order": "random", "closing_joint": True}.items():
        with pytest.raises(ValueError, match=rf"`{option}` should be the same .* on rank 1"):
            make(groups=[[0], [1, 2]], **({option: value} if rank == 1 else {}))
    params = list(net.trunk.parameters())
    differing: list[tuple[str, Any, Any]] = [
        ("distributed", "exact", "mean_gram"),
        ("distributed", "auto", "exact"),
        ("shared", None, params),
        ("shared", params, params[:1]),
        ("grad_dtype", None, torch.bfloat16),
        ("batched", False, True),
        ("task_weights", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]),
        ("gram_on", None, "features"),
    ]
    for option, first, second in differing:
        found = rf"`{option}` should be the same on all processes\. Found .* on rank 0 and .* on rank 1\."
        with pytest.raises(ValueError, match=found):
            make(**{option: second if rank == 1 else first})
    with pytest.raises(ValueError, match=r"`max_norm` should .*`nonfinite` should .* on rank 1"):
        make(**({"max_norm": 1.0, "nonfinite": "raise"} if rank == 1 else {}))
    losses = losses_of(net(DATA)[1])
    given = torch.eye(3).double() * (1 + rank)  # as of the process's own batch
    with pytest.raises(ValueError, match=r"`cross_gram` should be the same .* on rank 1"):
        make("modo").backward(losses, cross_gram=given)
    with pytest.raises(ValueError, match=r"`cross_gram` should be the same .* none on rank 1"):
        make("modo").backward(losses, **({} if rank == 1 else {"cross_gram": given}))


def faults(rank: int, world: int) -> None:
    net = Net()
    if rank == 1:
        with torch.no_grad():
            net.neck.bias[0] += 1
    with pytest.raises(ValueError, match=r"same parameters. Found different ones on ranks"):
        MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    optimizer = MultiTaskOptimizer(torch.optim.SGD(Net().parameters(), lr=0.1))
    loss = net(DATA)[1][0].mean()
    with pytest.raises(ValueError, match=r"same tasks on all processes. Found .* on rank"):
        optimizer.backward({"a": loss} if rank == 0 else {"b": loss})
    with pytest.raises(TypeError, match="`module` should be a DistributedDataParallel, or"):
        MultiTaskOptimizer(torch.optim.SGD(net.heads.parameters(), lr=0.1), module=net)


def test_on_processes() -> None:
    on_processes(3, [random_numbers, different_arguments, faults])
