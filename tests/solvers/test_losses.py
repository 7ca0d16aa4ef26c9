"""Methods that look at losses alone: the kernels answer, and remember, what the definitions do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_ops import ops, reference

#: Makes the arguments after the losses, for T tasks, from numbers between 0.5 and 1.5.
Make = Callable[[int, Callable[..., Tensor]], tuple[Any, ...]]


def famo(improve: bool, after: bool, least: bool) -> Make:
    def make(tasks: int, drawn: Callable[..., Tensor]) -> tuple[Any, ...]:
        before = drawn(tasks)
        before[1::4] = torch.nan
        lowest = drawn(tasks) - 1.5 if least else None
        memory = drawn(tasks) - 1.0, drawn(3, tasks).floor() + drawn(3, tasks), before
        return (*memory, lowest, 0.1, 0.01, improve, after)

    return make


def dwa(calls: int, window: int) -> Make:
    def make(tasks: int, drawn: Callable[..., Tensor]) -> tuple[Any, ...]:
        means, counts = drawn(2, tasks), drawn(tasks).round()
        means[:, ::3], counts[1::3] = torch.nan, 0.0
        return means, drawn(tasks), counts, torch.tensor(calls), 2.0, window

    return make


def softadapt(variant: int, order: int, first: bool = False) -> Make:
    def make(tasks: int, drawn: Callable[..., Tensor]) -> tuple[Any, ...]:
        recent = drawn(order + 1, tasks)
        recent[1 if first else 0, 0] = torch.nan
        return recent, 0.1, variant, order

    return make


def relobralo(rho: float) -> Make:
    def make(tasks: int, drawn: Callable[..., Tensor]) -> tuple[Any, ...]:
        initial, previous = drawn(tasks), drawn(tasks)
        initial[1::4], previous[2::4] = torch.nan, 0.0
        return drawn(tasks), initial, previous, torch.tensor(0.5).double(), 0.9, rho, 2.0

    return make


def ldc_mtl(log: bool) -> Make:
    def make(tasks: int, drawn: Callable[..., Tensor]) -> tuple[Any, ...]:
        initial = drawn(tasks)
        initial[::3] = torch.nan
        return 60 * drawn(tasks) - 60, initial if log else None, 0.1

    return make


CALLS: dict[str, tuple[str, Make]] = {
    "famo at first": ("weigh_famo", famo(False, False, False)),
    "famo": ("weigh_famo", famo(True, False, True)),
    "famo observes": ("weigh_famo", famo(True, True, False)),
    "dwa": ("weigh_dwa", dwa(3, 4)),
    "dwa at the end": ("weigh_dwa", dwa(4, 4)),
    "dwa without end": ("weigh_dwa", dwa(4, 0)),
    "geometric": ("weigh_geometric", lambda *_: ()),
    "stch": ("weigh_stch", lambda *_: (None, None, 0.1, False)),
    "stch, given": ("weigh_stch", lambda T, drawn: (drawn(T), drawn(T), 0.5, False)),
    "stch, log": ("weigh_stch", lambda *_: (None, None, 0.1, True)),
    "stch, log, given": ("weigh_stch", lambda T, drawn: (drawn(T), drawn(T), 0.5, True)),
    "softadapt": ("weigh_softadapt", softadapt(0, 1)),
    "softadapt, not ready": ("weigh_softadapt", softadapt(0, 3, first=True)),
    "softadapt, normalised": ("weigh_softadapt", softadapt(1, 2)),
    "softadapt, by losses": ("weigh_softadapt", softadapt(2, 3)),
    "relobralo keeps": ("weigh_relobralo", relobralo(0.6)),
    "relobralo looks back": ("weigh_relobralo", relobralo(0.4)),
    "ldc_mtl": ("weigh_ldc_mtl", ldc_mtl(False)),
    "ldc_mtl, log": ("weigh_ldc_mtl", ldc_mtl(True)),
    "uncertainty": ("weigh_log_scales", lambda T, drawn: (drawn(T), 0.5, -1.0)),
    "imtl_l": ("weigh_log_scales", lambda T, drawn: (drawn(T), 1.0, 1.0)),
}


def call(name: str, tasks: int, kind: str) -> tuple[Any, ...]:
    """Arguments of a call whose losses are of some kind."""
    generator = torch.Generator().manual_seed(tasks)

    def drawn(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*shape, generator=generator, dtype=torch.float64)

    losses = drawn(tasks) * 10.0 ** (4 * drawn(tasks) - 4)
    if kind == "absent":
        losses[::2], losses[3::4] = torch.nan, torch.inf
    if kind == "none":
        losses[:] = torch.nan
    if kind == "not positive":
        losses[tasks // 2] = -3.0
    return losses, *CALLS[name][1](tasks, drawn)


def answers(function: Callable[..., Tensor], args: tuple[Any, ...]) -> list[Tensor]:
    """What a call returns, and what its tensors hold afterwards."""
    copies = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    return [function(*copies), *(arg for arg in copies if isinstance(arg, Tensor))]


@pytest.mark.parametrize("name", CALLS)
def test_is_its_definition(name: str) -> None:
    operator = CALLS[name][0]
    for kind in ("all", "absent", "none", "not positive"):
        for tasks in (1, 2, 5, 64, 200):
            args = call(name, tasks, kind)
            expected = answers(getattr(reference, operator), args)
            found = answers(getattr(torch.ops.mtl_ops, operator), args)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15, equal_nan=True)
            if kind == "all":
                assert not found[0].isnan().any()


@pytest.mark.parametrize("name", CALLS)
def test_more_tasks_than_the_kernel_takes(name: str) -> None:
    args = call(name, ops.MAX_TASKS["cpu"] + 1, "absent")
    operator = getattr(ops.losses, f"_{CALLS[name][0]}")
    expected = answers(getattr(reference, CALLS[name][0]), args)
    torch.testing.assert_close(answers(operator, args), expected, equal_nan=True)


class TestRefuses:
    """What no wrapper would hand over: one sentence, and nothing is changed."""

    @pytest.mark.parametrize(
        "losses", [torch.ones(2, 2), torch.ones(3), torch.ones(6).double()[::2]]
    )
    def test_losses(self, losses: Tensor) -> None:
        with pytest.raises(RuntimeError, match=r"losses should be a contiguous float64 tensor"):
            torch.ops.mtl_ops.weigh_geometric(losses)

    def test_no_tasks(self) -> None:
        with pytest.raises(RuntimeError, match=r"T should be between 1 and 1024\. Found T = 0"):
            torch.ops.mtl_ops.weigh_geometric(torch.zeros(0, dtype=torch.float64))

    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_memory_of_other_tasks(self, place: int) -> None:
        args = list(call("famo", 3, "all"))
        args[place] = args[place][..., :2].contiguous()
        before = [arg.clone() for arg in args[:4]]
        names = "losses", "logits", "adam", "before"
        with pytest.raises(RuntimeError, match=rf"{names[place]} should be .* device of losses"):
            torch.ops.mtl_ops.weigh_famo(*args)
        torch.testing.assert_close(args[:4], before, rtol=0, atol=0, equal_nan=True)

    def test_calls_that_are_no_integer(self) -> None:
        args = list(call("dwa", 3, "all"))
        args[4] = args[4].double()
        with pytest.raises(RuntimeError, match="calls should be contiguous, int64, of 1 elements"):
            torch.ops.mtl_ops.weigh_dwa(*args)

    def test_a_negative_window(self) -> None:
        args = call("dwa", 3, "all")
        with pytest.raises(RuntimeError, match=r"window should be between 0 and .* Found -1"):
            torch.ops.mtl_ops.weigh_dwa(*args[:-1], -1)
