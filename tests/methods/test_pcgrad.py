"""PCGrad; the solver is tested in ``tests/solvers/test_surgery.py``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from matrices import cases, make
from merged import assert_same
from multitask import Net, batch, wrap
from torch import Tensor

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import PCGrad


def orders_of(tasks: int) -> Tensor:
    """The permutations that TorchJD draws."""
    return torch.stack([torch.randperm(tasks) for _ in range(tasks)])


def test_agrees_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer, method, count = aggregation.PCGradWeighting(), PCGrad(), 0
    for case in cases(sizes=(1, 2, 3, 5, 8), seeds=2):
        if not (case.jacobian.norm(dim=1) > 0).all():
            continue  # it divides zero by zero where rounding makes the product negative
        torch.manual_seed(case.seed)
        orders = orders_of(case.tasks)
        torch.manual_seed(case.seed)
        wanted = peer(case.gram[0])
        assert_same(
            case, method.weights(case.gram[0], orders=orders), wanted, rtol=0, of_terms=1e-12
        )
        count += 1
    assert count >= 200


class TestOrders:
    def test_given(self) -> None:
        case = make("conflict", 4, 0)
        orders = orders_of(4)
        wanted = ops.solve_pcgrad(case.gram, orders=orders.unsqueeze(0))[0]
        assert torch.equal(PCGrad().weights(case.gram[0], orders=orders), wanted)
        assert torch.equal(PCGrad().weights(case.gram[0], orders=orders.to(torch.int32)), wanted)
        merged = mtl_ops.merge(case.jacobian, "pcgrad", orders=orders)
        torch.testing.assert_close(merged, case.jacobian.T @ wanted)

    def test_given_for_all_segments_or_for_each(self) -> None:
        grams = torch.cat([make("conflict", 4, seed).gram for seed in range(3)])
        orders = torch.stack([orders_of(4) for _ in range(3)])
        each = PCGrad().weights(grams, orders=orders)
        assert torch.equal(each, ops.solve_pcgrad(grams, orders=orders))
        shared = PCGrad().weights(grams, orders=orders[0])
        assert torch.equal(
            shared, ops.solve_pcgrad(grams, orders=orders[:1].expand(3, 4, 4).contiguous())
        )

    def test_random_ones_come_from_the_generator(self) -> None:
        gram = make("conflict", 6, 0).gram[0]
        method = PCGrad()
        method.generator = torch.Generator().manual_seed(3)
        first, second = method.weights(gram), method.weights(gram)
        assert not torch.equal(first, second)
        method.generator.manual_seed(3)
        assert torch.equal(method.weights(gram), first)

    def test_random_ones_are_permutations_of_their_own_for_each_task(self) -> None:
        """All orders of three others are about equally frequent, whatever those of another task."""
        from mtl_ops.methods._orders import orders_for

        gram = torch.zeros(3000, 4, 4, dtype=torch.float64)
        orders = orders_for("random", {}, gram, torch.Generator().manual_seed(0))
        assert orders.shape == (3000, 4, 4)
        assert (orders.sort(dim=-1).values == torch.arange(4)).all()
        keys = (orders * torch.tensor([64, 16, 4, 1])).sum(dim=-1)
        for task in range(4):
            _, counts = keys[:, task].unique(return_counts=True)
            assert len(counts) == 24
            assert int(counts.min()) > 60
            assert int(counts.max()) < 200
        assert (keys[:, 0] == keys[:, 1]).double().mean() < 0.1

    def test_shared(self) -> None:
        gram = make("conflict", 6, 0).gram[0]
        found = set()
        method = PCGrad(order="shared")
        method.generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            found.add(tuple(method.weights(gram).tolist()))
        known = {
            tuple(method.weights(gram, orders=torch.tensor([order] * 6)).tolist())
            for order in itertools.permutations(range(6))
        }
        assert len(found) > 10
        assert found <= known

    def test_cyclic(self) -> None:
        gram = make("conflict", 5, 0).gram[0]
        wanted = PCGrad().weights(gram, orders=torch.arange(5).expand(5, 5))
        method = PCGrad(order="cyclic")
        assert torch.equal(method.weights(gram), wanted)
        assert torch.equal(method.weights(gram), wanted)

    @pytest.mark.parametrize(
        ("orders", "error", "text"),
        [
            (torch.eye(3), TypeError, r"should be a tensor of integers\. Found torch\.float32"),
            ([[0, 1]], TypeError, r"should be a tensor of integers\. Found list"),
            (torch.arange(3), ValueError, r"\(3, K\) or \(1, 3, K\).*Found shape \(3,\)"),
            (torch.zeros(2, 3, dtype=torch.int64), ValueError, r"Found shape \(2, 3\)"),
            (torch.zeros(2, 3, 3, dtype=torch.int64), ValueError, r"Found shape \(2, 3, 3\)"),
        ],
    )
    def test_bad_ones(self, orders: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            PCGrad().weights(torch.eye(3), orders=orders)

    def test_nothing_else_is_given(self) -> None:
        with pytest.raises(TypeError, match=r"Found `order`"):
            mtl_ops.merge(torch.eye(2), "pcgrad", order=torch.eye(2))


def test_reduction() -> None:
    gram, orders = make("conflict", 4, 0).gram[0], orders_of(4)
    mean = PCGrad(reduction="mean").weights(gram, orders=orders)
    torch.testing.assert_close(mean, PCGrad().weights(gram, orders=orders) / 4)


def test_in_training_the_optimizer_s_generator_decides() -> None:
    weights = []
    for _ in range(2):
        net = Net()
        optimizer = wrap(net, "pcgrad", generator=torch.Generator().manual_seed(5))
        for step in range(3):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step, like=net)))
            optimizer.step()
        weights.append(optimizer.report.weights.clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"reduction": "max"}, "`reduction` should be one of 'sum', 'mean'. Found"),
        ({"order": "random "}, "`order` should be one of 'random', 'shared', 'cyclic'. Found"),
    ],
)
def test_bad_parameters(params: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mtl_ops.methods.get("pcgrad", **params)
