"""A network with a trunk, a layer that only some tasks go through, and heads; and methods to try on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import Method

NAMES = ("a", "b", "c")


class Net(nn.Module):
    """Three tasks: ``a`` leaves the trunk at once, ``b`` and ``c`` go through the neck as well.

    The targets are far apart, so that the gradients conflict.
    """

    def __init__(
        self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu", seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` records a stack for each accelerator, which takes milliseconds
            torch.default_generator.manual_seed(seed)
            self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
            self.neck = nn.Linear(6, 6)
            self.heads = nn.ModuleDict({name: nn.Linear(6, 1) for name in NAMES})
        self.to(device, dtype)

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        """Outputs by name."""
        features = self.trunk(data)
        narrow = self.neck(features)
        places = {"a": features, "b": narrow, "c": narrow}
        return {name: head(places[name]) for name, head in self.heads.items()}

    def losses(self, data: Tensor) -> dict[str, Tensor]:
        """Losses by name."""
        targets = {"a": 1.0, "b": -1.0, "c": 0.3}
        return {
            name: (output - targets[name]).square().mean() * 3.0**place
            for place, (name, output) in enumerate(self(data).items())
        }


def through(net: Net, data: Tensor, factor: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    """The features, and the losses computed from them."""
    features = net.trunk(data)
    narrow = net.neck(features)
    places = {"a": features, "b": narrow, "c": narrow}
    outputs = {name: head(places[name]) for name, head in net.heads.items()}
    targets = {"a": 1.0, "b": -1.0, "c": 0.3}
    return features, {
        name: factor * (output - targets[name]).square().mean() for name, output in outputs.items()
    }


def batch(step: int = 0, size: int = 8, like: nn.Module | None = None) -> Tensor:
    """The same input for the same step, of the dtype and on the device of a network."""
    data = torch.randn(size, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return data if like is None else data.to(next(like.parameters()))


def wrap(
    model: nn.Module | Iterable[Tensor],
    method: str | Method = "sum",
    inner: type[torch.optim.Optimizer] = torch.optim.SGD,
    *,
    lr: float = 0.05,
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> MultiTaskOptimizer:
    """A ``MultiTaskOptimizer`` of a network's parameters."""
    params = model.parameters() if isinstance(model, nn.Module) else model
    return MultiTaskOptimizer(inner(params, lr=lr, **inner_options or {}), method, **options)


def train(net: Net, optimizer: MultiTaskOptimizer, steps: Iterable[int]) -> None:
    """Some steps, each with its own batch."""
    for step in steps:
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch(step, like=net)))
        optimizer.step()


def grads(model: nn.Module | Iterable[Tensor]) -> list[Tensor | None]:
    """Copies of what is in ``.grad``."""
    params = model.parameters() if isinstance(model, nn.Module) else model
    return [None if param.grad is None else param.grad.clone() for param in params]


def assert_same(first: Iterable[Any], second: Iterable[Any], **tolerance: float) -> None:
    """Lists of tensors are close: of float64, to rounding; ``rtol=0, atol=0`` for equal bits."""
    for place, (one, two) in enumerate(zip(first, second, strict=True)):
        assert (one is None) == (two is None), f"at {place}: {one} and {two}"
        if one is not None:
            torch.testing.assert_close(
                one, two, equal_nan=True, msg=lambda text, p=place: f"at {p}: {text}", **tolerance
            )


def assert_equal(first: Iterable[Any], second: Iterable[Any]) -> None:
    """Lists of tensors have the same bits."""
    assert_same(first, second, rtol=0.0, atol=0.0)


class Fixed(Method):
    """Weights that are known and differ from task to task, so that a mix-up shows."""

    name = "fixed"
    uses_losses = False

    def __init__(self, *weights: float) -> None:
        self.values = weights or (0.5, 2.0, 0.25)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """The weights, whatever the gradients."""
        assert gram is not None
        return gram.new_tensor(self.values).expand(gram.shape[:-1])


class Drawn(Method):
    """Random weights, and a count of calls: a method with a generator and a memory."""

    name = "drawn"
    uses_losses = False
    state_names = ("calls",)

    def __init__(self) -> None:
        self.calls: int | None = None

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """Uniform numbers times the number of calls."""
        assert gram is not None
        self.calls = (self.calls or 0) + 1
        drawn = torch.rand(
            gram.shape[:-1], generator=self.generator, dtype=gram.dtype, device=gram.device
        )
        return drawn * self.calls


#: Arguments of the methods that need some, for three tasks.
NEEDED: dict[str, dict[str, Any]] = {
    "constant": {"weights": [0.5, 1.0, 2.0]},
    "cosmos": {"preference": [0.2, 0.3, 0.5], "lam": 0.5},
    "cr_mogm": {"method": "mean"},
    "krum": {"n_byzantine": 0},
    "pbi": {"weights": [0.2, 0.3, 0.5]},
}


def every_method() -> list[str]:
    """The names of all methods that work by themselves, without a second batch."""
    return [name for name in mtl_ops.methods.available() if name not in SECOND_BATCH]


#: Methods whose every step needs something that only the user can give.
SECOND_BATCH = frozenset({"auto_lambda", "forum", "modo", "moml", "sdmgrad"})


def method(name: str) -> Method:
    """The method of a name, for three tasks."""
    return mtl_ops.methods.get(name, **NEEDED.get(name, {}))
