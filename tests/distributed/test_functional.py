"""``mtl_ops.backward`` of several processes: as one process with the joint batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, assert_same, losses_of, on_processes

import mtl_ops

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


def together(rank: int, world: int) -> None:
    ways: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({}, True),
        ({"weights_every": 2}, True),
        ({"memory": "stream"}, True),
        ({"gram_on": "features"}, False),
    ]
    for options, remembers in ways:
        nets = []
        for data, more in ((DATA, {"distributed": None}), (DATA.chunk(world)[rank], {})):
            net, state = Net(), {} if remembers else None
            inner = torch.optim.SGD(net.parameters(), lr=0.01)
            for _ in range(3):
                inner.zero_grad()
                features, outputs = net(data)
                asked = options.get("gram_on") == "features"
                mtl_ops.backward(
                    losses_of(outputs),
                    net.parameters(),
                    "upgrad",
                    state=state,
                    features=features if asked else None,
                    **options,
                    **more,
                )
                inner.step()
            nets.append(net)
        assert_same(*nets)


def differing(rank: int, world: int) -> None:
    net = Net()
    losses = losses_of(net(DATA)[1])
    with pytest.raises(ValueError, match=r"`max_norm` should be the same .* on rank 1"):
        mtl_ops.backward(losses, net.parameters(), max_norm=1.0 + rank)
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("job", [together, differing], ids=lambda job: job.__name__)
def test_two_processes(job: Any) -> None:
    on_processes(2, [job])
