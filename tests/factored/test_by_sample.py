"""Losses of single samples: the factors of all their gradients from one backward, against rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from factor_steps import by_factors, by_rows
from multitask import Fixed, assert_same, grads, method
from torch import Tensor, nn
from torch.nn import functional

from mtl_ops import ops
from mtl_ops.gradients.differentiate import differentiate
from mtl_ops.gradients.factored import by_sample
from mtl_ops.gradients.factored.by_sample import BySample
from mtl_ops.gradients.factored.owners import find_owners, probe
from mtl_ops.gradients.layout import find_layout
from mtl_ops.gradients.tasks import read_losses
from mtl_ops.merging.rules import Rules

SAMPLES = 6
Call = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Case:
    """A model on a batch: ``(B, ...)`` outputs, the last dimension squared and summed."""

    model: nn.Module
    data: Tensor
    call: Call

    def losses(self) -> Tensor:
        """``(B,)``."""
        out = self.call(self.model, self.data).flatten(1)
        target = torch.linspace(0, 1, out[0].numel(), dtype=out.dtype)
        return (out - target).square().mean(1)


def _plain(model: nn.Module, data: Tensor) -> Tensor:
    out = model(data)
    return out[0] if isinstance(out, tuple) else out


def _time_first(model: nn.Module, data: Tensor) -> Tensor:
    return _plain(model, data.transpose(0, 1)).transpose(0, 1)


def _ragged(model: nn.Module, data: Tensor) -> Tensor:
    """The samples have 1, 2, 3, ... rows, one after the other."""
    whose = torch.arange(SAMPLES).repeat_interleave(torch.arange(1, SAMPLES + 1))
    rows = model(data.repeat(4, 1)[: len(whose)])
    return rows.new_zeros(SAMPLES, rows.shape[1]).index_add(0, whose, rows)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4, padding_idx=0)
        self.place = nn.Parameter(torch.randn(1, 5, 4))
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh((self.table(ids) + self.place) * self.gain)
        return hidden @ self.table.weight.mT


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _ids(*shape: int) -> Tensor:
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(1))


MODELS: dict[str, Callable[[], Case]] = {
    "MLP": lambda: Case(
        nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), _noise(SAMPLES, 8), _plain
    ),
    "MLP on positions": lambda: Case(
        nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4)), _noise(SAMPLES, 7, 8), _plain
    ),
    "CNN": lambda: Case(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.Flatten(),
            nn.Linear(72, 2),
        ),
        _noise(SAMPLES, 3, 8, 8),
        _plain,
    ),
    "transformer": lambda: Case(
        nn.Sequential(
            nn.Embedding(9, 8),
            *[nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(2)],
        ),
        _ids(SAMPLES, 5),
        _plain,
    ),
    "transformer, time first": lambda: Case(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0), _noise(SAMPLES, 5, 8), _time_first
    ),
    "GRU": lambda: Case(nn.GRU(8, 8, batch_first=True), _noise(SAMPLES, 5, 8), _plain),
    "RNN, time first": lambda: Case(nn.RNN(8, 8), _noise(SAMPLES, 5, 8), _time_first),
    "bag": lambda: Case(
        nn.Sequential(nn.EmbeddingBag(9, 4, mode="mean"), nn.Linear(4, 3)), _ids(SAMPLES, 5), _plain
    ),
    "tied": lambda: Case(Tied(), _ids(SAMPLES, 5), _plain),
    "ragged": lambda: Case(
        nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4)), _noise(SAMPLES, 8), _ragged
    ),
}


def make(name: str, dtype: torch.dtype = torch.float64) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        case = MODELS[name]()
    case.model.to(dtype)
    if case.data.is_floating_point():
        case.data = case.data.to(dtype)
    return case


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_equals_rows(name: str, dtype: torch.dtype) -> None:
    case, source = make(name, dtype), BySample()
    params = list(case.model.parameters())
    limit = 1e-12 if dtype == torch.float64 else 2e-6
    for _ in range(2):  # the second time with owners that are known
        tasks = read_losses(case.losses())
        rows = differentiate(tasks, params, retain_graph=True)
        factors = source.factors(tasks, params, retain_graph=False)
        assert factors is not None
        layout = find_layout(factors.reached, SAMPLES)
        assert layout == find_layout(rows, SAMPLES)
        gram = ops.gram(rows, SAMPLES)
        assert (factors.gram(layout) - gram).norm() < limit * gram.norm()
        weights = torch.linspace(-1, 2, SAMPLES, dtype=torch.float64).unsqueeze(0)
        ours, theirs = ([torch.zeros_like(param) for param in params] for _ in range(2))
        clip = factors.merge_(ours, weights, layout, gram, 0.1, accumulate=True)
        other = ops.merge_(theirs, rows, weights, gram, (), 0.1, accumulate=True)
        torch.testing.assert_close(clip, other)
        flat = [torch.cat([t.flatten() for t in out]) for out in (ours, theirs)]
        assert (flat[0] - flat[1]).norm() < limit * flat[1].norm()


def step(case: Case, source: BySample | None, rules: Rules, **rest: Any) -> tuple[Any, Any]:
    """One step by samples, or by rows; the gradients and the report."""
    change = rest.pop("change", lambda losses: losses)
    chosen = rest.pop("chosen", None) or Fixed(*range(1, SAMPLES + 1))
    weights = rest.pop("weights", [1.0] * SAMPLES)
    take: Any = by_rows if source is None else by_factors
    options = {} if source is None else {"factoring": source}
    tasks, params = read_losses(change(case.losses())), list(case.model.parameters())
    report = take(chosen, tasks, params, weights, rules, **options, **rest)
    return grads(case.model), report


@pytest.mark.parametrize(
    ("rules", "rest"),
    [
        (Rules(), {}),
        (Rules(max_norm=0.01), {}),
        (Rules(max_task_norm=0.05), {"times_skipped": torch.zeros(SAMPLES, dtype=torch.int64)}),
        (Rules(), {"sets": [0, 1, 2, 3]}),
        (Rules(), {"weights": [0.0, 2.0, 1.0, 1.0, 0.5, 0.0]}),
        (Rules(), {"chosen": method("upgrad")}),
        (Rules(), {"chosen": method("mgda")}),
    ],
    ids=str,
)
def test_a_step_is_that_of_rows(rules: Rules, rest: dict[str, Any]) -> None:
    ours = step(make("MLP"), BySample(), rules, **rest)
    theirs = step(make("MLP"), None, rules, **rest)
    assert_same(ours[0], theirs[0])
    for name in ("weights", "gram", "norms", "losses", "clip_scale"):
        assert_same([getattr(ours[1], name)], [getattr(theirs[1], name)])


@pytest.mark.parametrize("known", [False, True])
def test_a_sample_that_is_not_finite_is_nothing_to_the_others(known: bool) -> None:
    def broken(losses: Tensor) -> Tensor:
        return losses * torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0, 1.0])

    rules, source, case, other = Rules(nonfinite="skip_task"), BySample(), make("CNN"), make("CNN")
    if known:
        step(case, source, rules, change=lambda losses: losses * torch.ones(SAMPLES))
        case.model.zero_grad()
    ours = step(case, source, rules, change=broken)
    without = [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]  # by rows, 0 times NaN would be in all
    theirs = step(other, None, rules, weights=without)
    assert ours[1].skipped.tolist() == [False, True, False, False, False, False]
    assert_same(ours[0], theirs[0])
    assert ours[0][0] is not None
    assert ours[0][0].norm() > 0
    assert bool(source._orders) == known  # what is not finite tells nothing


def test_more_samples_than_there_are_kernels_for() -> None:
    torch.default_generator.manual_seed(0)
    found = []
    for source in (BySample(), None):
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        with torch.no_grad():
            for k, param in enumerate(net.parameters()):
                param.copy_(torch.linspace(-1, 1 + k, param.numel()).reshape(param.shape))
        data = torch.linspace(-1, 1, 400, dtype=torch.float64).sin().reshape(100, 4)
        tasks, params = read_losses(net(data).square().sum(1)), list(net.parameters())
        chosen = method("mean")
        options: dict[str, Any] = {} if source is None else {"factoring": source}
        take: Any = by_rows if source is None else by_factors
        take(chosen, tasks, params, [1.0] * 100, Rules(max_norm=0.1), **options)
        found.append(grads(net))
    assert_same(*found)


def test_is_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in the first step of a kind of graph, and always where the rows are in no order."""
    calls: list[int] = []
    grad = by_sample._grad
    monkeypatch.setattr(by_sample, "_grad", lambda *a: calls.append(1) or grad(*a))
    for name, expected in (
        ("GRU", [2, 1, 1]),
        ("transformer, time first", [2, 1, 1]),
        ("ragged", [2, 2, 2]),
    ):
        case, source = make(name), BySample()
        counts = []
        for _ in range(3):
            calls.clear()
            step(case, source, Rules())
            counts.append(len(calls))
        assert counts == expected


# ---- what is refused ------------------------------------------------------------------------------

SEE = "should be of samples that do not see each other"


def _centred(model: nn.Module, data: Tensor) -> Tensor:
    out = torch.tanh(model(data))
    return out - out.mean(0)


def _contrasted(model: nn.Module, data: Tensor) -> Tensor:
    out = torch.tanh(model(data))
    return (out @ out.mT).log_softmax(1)


def _normalised(model: nn.Module, data: Tensor) -> Tensor:
    return functional.batch_norm(torch.tanh(model(data)), None, None, training=True)


@pytest.mark.parametrize(
    ("call", "found"),
    [(_centred, "some that do"), (_contrasted, "some that do"), (_normalised, "batch norm")],
)
def test_samples_that_see_each_other(call: Call, found: str) -> None:
    case = Case(nn.Linear(8, 8).double(), _noise(SAMPLES, 8).double(), call)
    with pytest.raises(ValueError, match=f"{SEE}. Found {found}"):
        step(case, BySample(), Rules())
    assert all(gradient is None for gradient in grads(case.model))


def test_losses_that_are_not_one_tensor() -> None:
    net = nn.Linear(3, 1)
    losses = [net(torch.randn(2, 3)).mean() for _ in range(2)]
    for given, found in (
        (losses, "Found several tensors"),
        (torch.stack(losses), "which were stacked"),
    ):
        with pytest.raises(ValueError, match=f"Parameter `losses` should be .*{found}"):
            BySample().factors(read_losses(given), list(net.parameters()), False)


def test_parameters_that_are_used_otherwise() -> None:
    case = Case(nn.Sequential(nn.Linear(8, 4), nn.PReLU()).double(), _noise(6, 8).double(), _plain)
    with pytest.raises(ValueError, match=r'`gradients` should be "dense" .* shape \(1,\) in View'):
        step(case, BySample(), Rules())


def test_hooks_that_change_gradients() -> None:
    def hooked(model: nn.Module, data: Tensor) -> Tensor:
        out = model(data)
        out.register_hook(lambda gradient: 2 * gradient)
        return torch.tanh(out)

    case = Case(nn.Linear(8, 4).double(), _noise(SAMPLES, 8).double(), hooked)
    with pytest.raises(ValueError, match="or a hook that changes gradients"):
        step(case, BySample(), Rules())


def test_a_graph_that_was_freed() -> None:
    case, source = make("MLP"), BySample()
    params = list(case.model.parameters())
    source.factors(read_losses(case.losses()), params, False)
    losses = case.losses()
    source.factors(read_losses(losses), params, True)
    source.factors(read_losses(losses), params, False)
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        source.factors(read_losses(losses), params, False)


# ---- whose rows -----------------------------------------------------------------------------------


def test_owners_in_any_order() -> None:
    factors = probe(5, torch.zeros((), dtype=torch.float64))
    rows = torch.randn(20, 3, dtype=torch.float64)
    for order, whose in (
        ("blocks", torch.arange(20) // 4),
        ("turns", torch.arange(20) % 5),
        (None, (torch.arange(20) * 7 + 3) // 3 % 5),
    ):
        found = find_owners(rows, rows * factors[whose].unsqueeze(1), factors)
        assert found[0] == order
        assert torch.equal(found[1], whose)
    with pytest.raises(ValueError, match=SEE):
        find_owners(rows, rows * rows.abs(), factors)
