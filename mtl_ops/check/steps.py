"""Whole steps: the gradient is the definition's, nobody waits for the device, and a CUDA graph replays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .. import reference
from ..optim.optimizer import MultiTaskOptimizer
from .finding import Comparison, Finding, Verdict, judge

__all__ = ["METHODS", "check_steps"]

#: One for each kernel that a step may run.
METHODS = (
    "sum",
    "mean",
    "pcgrad",
    "gradvac",
    "adaptive_sharing",
    "mgda",
    "cagrad",
    "upgrad",
    "dualproj",
    "imtl_g",
    "config",
    "aligned_mtl",
    "nash_mtl",
    "fairgrad",
    "graddrop",
    "median",
    "sign_agreement",
)
#: Those of them that weigh whole gradients, so that the report says with what.
WEIGHING = METHODS[:14]

TASKS = 3


class Training:
    """A small network with three losses in conflict, on a device, and an optimizer of it."""

    def __init__(self, method: str, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            net = nn.Sequential(nn.Linear(6, 33), nn.Tanh(), nn.Linear(33, TASKS))
        self.net = net.to(device)
        self.data = torch.empty(8, 6, device=device)
        self.targets = torch.tensor([2.0, -2.0, 0.3], device=device)
        inner = torch.optim.AdamW(self.net.parameters(), lr=1e-2, capturable=device == "cuda")
        self.optimizer = MultiTaskOptimizer(inner, method, max_norm=1.0)

    def feed(self, number: int) -> None:
        """Puts a batch where the step reads it."""
        generator = torch.Generator().manual_seed(number)
        self.data.copy_(torch.randn(self.data.shape, generator=generator))

    def losses(self) -> Tensor:
        """``(T,)``."""
        outputs: Tensor = self.net(self.data)
        return (outputs - self.targets).square().mean(dim=0)

    def step(self) -> None:
        """A step on the batch that is there."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.backward(self.losses())
        self.optimizer.step()


def check_steps(device: str) -> Iterator[Finding]:
    """The steps; of a CPU's, the last two are left out."""
    yield judge("the gradient of a step", device, functools.partial(_gradients, device))
    for what, compare in (
        ("a step waits for nobody", _waits),
        ("a step replays in a CUDA graph", _replays),
    ):
        if device == "cpu":
            yield Finding(what, device, Verdict.LEFT_OUT, "not on a CPU")
        else:
            yield judge(what, device, functools.partial(compare, device))


def _gradients(device: str) -> Iterator[Comparison]:
    for method in WEIGHING:
        training = Training(method, device)
        training.feed(0)
        params = list(training.net.parameters())
        rows: list[Tensor | None] = []
        for loss in training.losses():
            rows += torch.autograd.grad(loss, params, retain_graph=True)
        training.optimizer.backward(training.losses())
        wanted = [torch.zeros_like(param, dtype=torch.float64) for param in params]
        reference.merge_(wanted, rows, _weights(training), None, (), None, None, False)
        found = torch.cat([_gradient(param).double().flatten() for param in params])
        right = torch.cat([part.flatten() for part in wanted])
        yield Comparison(method, float((found - right).norm() / (1e-5 * right.norm())))


def _weights(training: Training) -> Tensor:
    report = training.optimizer.report
    if report.weights is None or report.clip_scale is None:
        raise RuntimeError("The report should hold weights after `backward`. Found none.")
    return report.weights * report.clip_scale


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        raise RuntimeError("A parameter should have a gradient after `backward`. Found None.")
    return param.grad


def _waits(device: str) -> Iterator[Comparison]:
    before = torch.cuda.get_sync_debug_mode()
    for method in METHODS:
        training = Training(method, device)
        for number in range(2):  # the first makes states
            training.feed(number)
            training.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            training.step()
        except RuntimeError as error:
            raise RuntimeError(f"with {method}: {error}") from error
        finally:
            torch.cuda.set_sync_debug_mode(before)
        yield Comparison(method, 0.0)


def _replays(device: str) -> Iterator[Comparison]:
    """Three steps and four replays, against seven steps."""
    for method in METHODS:
        graphed, plain = (Training(method, device) for _ in range(2))
        replay = _captured(graphed)
        for number in range(7):
            plain.feed(number)
            plain.step()
        for number in range(3, 7):
            graphed.feed(number)
            replay()
        torch.cuda.synchronize()
        found, wanted = (
            torch.cat([param.detach().flatten() for param in training.net.parameters()])
            for training in (graphed, plain)
        )
        off = (found - wanted).abs() / (1e-6 + 1e-4 * wanted.abs())
        yield Comparison(method, float(off.max()))


def _captured(training: Training) -> Callable[[], None]:
    """Three steps on a stream of their own, as torch wants it, and one in a graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for number in range(3):
            training.feed(number)
            training.step()
    torch.cuda.current_stream().wait_stream(stream)
    training.optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training.step()
    return graph.replay
