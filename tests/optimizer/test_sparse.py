"""Sparse gradients: what dense ones give, at the indices that any task has."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer, backward

WORDS = [torch.tensor([1, 4, 4]), torch.tensor([4, 2]), torch.tensor([[0, 2], [2, 1]])]
LARGE = 100_000


class Tagger(nn.Module):
    """A table of words, a layer that two tasks share, and a table of its own for the third."""

    def __init__(self, sparse: bool, rows: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(rows, 3, sparse=sparse)
        self.layer = nn.Linear(3, 2)
        self.own = nn.Embedding(rows, 2, sparse=sparse)

    def features(self) -> list[Tensor]:
        return [self.table(words) for words in WORDS]

    def losses(self, features: list[Tensor] | None = None) -> list[Tensor]:
        a, b, c = self.features() if features is None else features
        third = (c.sum(-1) * self.own(WORDS[2]).sum(-1)).tanh().sum()
        return [self.layer(a).square().sum(), (self.layer(b) - 1).square().mean(), third]


def run(sparse: bool, method: str, steps: int = 3, **options: Any) -> list[Tensor]:
    """The gradients of some steps, and what SGD makes of the parameters."""
    net = Tagger(sparse)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.05), method, **options)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        given: dict[str, Any] = {}
        features = net.features() if options.get("gram_on") == "features" else None
        if features is not None:
            given["features"] = features
        optimizer.backward(net.losses(features), **given)
        for table in (net.table, net.own):
            assert table.weight.grad is not None
            assert table.weight.grad.is_sparse is sparse
        seen += [param.grad.to_dense() for param in net.parameters() if param.grad is not None]
        optimizer.step()
    return [*seen, *(param.detach() for param in net.parameters())]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_norm": 0.1, "max_task_norm": 0.2},
        {"clip_value": 0.05},
        {"granularity": "tensor"},
        {"nonfinite": "raise"},
        {"task_weights": [1.0, 0.0, 2.0]},
        {"weights_every": 2},
        {"weights_every": 2, "max_norm": 0.1},
        {"gram_on": "features"},
        {"gram_on": "features", "max_norm": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["upgrad", "sum"])
def test_as_dense(method: str, options: dict[str, Any]) -> None:
    torch.testing.assert_close(run(True, method, **options), run(False, method, **options))


@pytest.mark.parametrize("method", ["mgda", "median", "trimmed_mean", "sign_agreement", "equal"])
def test_other_kinds_of_method(method: str) -> None:
    torch.testing.assert_close(run(True, method), run(False, method))


def test_two_gradients_are_added() -> None:
    found = []
    for sparse in (True, False):
        net = Tagger(sparse)
        for _ in range(2):
            backward(net.losses(), net.parameters(), "sum")
        found.append([param.grad.to_dense() for param in net.parameters()])  # type: ignore[union-attr]
        assert net.table.weight.grad.is_sparse is sparse  # type: ignore[union-attr]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("there", ["dense", "sparse", "expanded"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_gradient_that_is_there(sparse: bool, there: str) -> None:
    net, plain = Tagger(sparse), Tagger(sparse=False)
    ones = torch.ones(7, 3)
    made = {"dense": ones.clone(), "sparse": ones.to_sparse(1), "expanded": torch.ones(1, 3)}
    net.table.weight.grad = made[there].expand(7, 3) if there == "expanded" else made[there]
    before = net.table.weight.grad.to_dense().clone()
    backward(net.losses(), net.parameters(), "sum")
    sum(plain.losses()).backward()  # type: ignore[union-attr]
    expected = before + plain.table.weight.grad  # type: ignore[operator]
    torch.testing.assert_close(net.table.weight.grad.to_dense(), expected)
    assert net.table.weight.grad.is_sparse is (sparse and there == "sparse")


@pytest.mark.parametrize("batches", [2, 3])
def test_micro_batches(batches: int) -> None:
    found = []
    for sparse in (True, False):
        net = Tagger(sparse)
        optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "upgrad")
        for k in range(batches - 1):
            optimizer.accumulate([(k + 1) * loss for loss in net.losses()])
        optimizer.backward(net.losses())
        assert net.table.weight.grad.is_sparse is sparse  # type: ignore[union-attr]
        found.append([param.grad.to_dense() for param in net.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(*found)


def test_sparse_adam() -> None:
    found = []
    for wrapped in (True, False):
        net = Tagger(sparse=True)
        tables = [net.table.weight, net.own.weight]
        inner = torch.optim.SparseAdam(tables, lr=0.1)
        optimizer = MultiTaskOptimizer(inner, "sum") if wrapped else inner
        for _ in range(3):
            optimizer.zero_grad()
            if isinstance(optimizer, MultiTaskOptimizer):
                optimizer.backward(net.losses())
            else:
                sum(net.losses()).backward()  # type: ignore[union-attr]
            optimizer.step()
        found.append([table.detach() for table in tables])
    torch.testing.assert_close(*found)


def test_no_tensor_of_the_size_of_the_table() -> None:
    net = Tagger(sparse=True, rows=LARGE)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "upgrad")
    losses = net.losses()
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.backward(losses)
        optimizer.step()
    largest = max(event.self_cpu_memory_usage for event in profile.events() or [])
    assert 0 < largest < LARGE
    assert net.table.weight.grad._nnz() == 4  # type: ignore[union-attr]


def test_a_dense_gradient_among_them() -> None:
    table = nn.Embedding(6, 3, sparse=True)
    words = torch.tensor([1, 4])
    backward([table(words).sum(), table.weight.square().sum()], table.parameters(), "sum")
    expected = 2 * table.weight.detach()
    expected[words] += 1
    torch.testing.assert_close(table.weight.grad, expected)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("upgrad", {"memory": "stream"}),
        ("upgrad", {"grad_dtype": torch.bfloat16}),
        ("moco", {}),
    ],
    ids=str,
)
def test_where_they_are_filled_in_it_is_said(method: str, options: dict[str, Any]) -> None:
    net = Tagger(sparse=True)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), method, **options)
    with pytest.warns(UserWarning, match=r"dense tensor of shape \(7, \d\)"):
        optimizer.backward(net.losses())
    assert not net.table.weight.grad.is_sparse  # type: ignore[union-attr]


def test_an_error_leaves_what_was_there() -> None:
    net = Tagger(sparse=True)
    sum(net.losses()).backward()  # type: ignore[union-attr]
    before = [param.grad.to_dense().clone() for param in net.parameters()]  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="not finite"):
        backward(
            [loss * torch.inf for loss in net.losses()],
            net.parameters(),
            "upgrad",
            nonfinite="raise",
        )
    after = [param.grad.to_dense() for param in net.parameters()]  # type: ignore[union-attr]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_no_warning_otherwise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(True, "upgrad", steps=1)
