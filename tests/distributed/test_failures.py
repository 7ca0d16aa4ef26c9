"""A failure on one rank, at every point between two collectives: an error on all of them, long before the time-out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, join_again, losses_of, on_processes, shard
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer
from mtl_ops.distributed import check_settings
from mtl_ops.distributed._collectives import Collectives

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

#: Of the groups; those of FSDP wait for it where torch's own collectives are not called on every rank.
SECONDS, SECONDS_FSDP = 20.0, 2.0

#: In the error of a group that cannot go on.
CLOSED = "should go on from a checkpoint, with a new process group"


class InjectedError(Exception):
    """What fails; no error that anything else raises."""


@contextlib.contextmanager
def failing_at(
    place: int, rank: int, kind: type[BaseException] = InjectedError
) -> Iterator[list[str]]:
    """On that rank, what would start or end a collective raises instead; yields the list of all such points."""
    points: list[str] = []
    start, finish = Collectives._start, Collectives._finish

    def wrap(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(self: Collectives, *args: Any) -> Any:
            points.append(name)
            if len(points) == place + 1 and dist.get_rank() == rank:
                raise kind("injected")
            return call(self, *args)

        return wrapped

    with (
        mock.patch.object(Collectives, "_start", wrap(start, "start")),
        mock.patch.object(Collectives, "_finish", wrap(finish, "finish")),
    ):
        yield points


# ---- programs ------------------------------------------------------------------------------------

DDP: dict[str, dict[str, Any]] = {
    "exact": {},
    "mean_gram": {"distributed": "mean_gram"},
    "features": {"gram_on": "features"},
    "weights_every": {"weights_every": 2},
    "accumulate": {"method": "pcgrad"},
    "observe": {"method": "famo"},
}


def program(name: str, net: nn.Module, before: Callable[[int], None] = lambda step: None) -> None:
    """An optimizer and two steps of it; the second sends gradients early."""
    rank, world = dist.get_rank(), dist.get_world_size()
    part = DATA.chunk(world)[rank]
    options = {"module": net} if name == "fsdp" else DDP[name]
    torch.manual_seed(0)
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.01), **{"method": "upgrad", **options}
    )
    for step in range(2):
        optimizer.zero_grad()
        features, outputs = net(part)
        before(step)
        if name == "accumulate":
            optimizer.accumulate(losses_of(net(part)[1]))
        given = {"features": features} if name == "features" else {}
        optimizer.backward(losses_of(outputs), **given)
        optimizer.step()
        if name == "observe":
            optimizer.observe(losses_of(net(part)[1]))


def attempt(run: Callable[[], Any]) -> BaseException | None:
    try:
        run()
    except BaseException as error:
        return error
    return None


def check_failed(error: BaseException | None, rank: int, text: str) -> None:
    """That rank raises its own error, and each other one says so."""
    if dist.get_rank() == rank:
        assert text in f"{type(error).__name__}: {error}"
    else:
        assert isinstance(error, RuntimeError), repr(error)
        assert f"rank {rank} failed with {text}" in str(error)


def everywhere(name: str, made: bool) -> None:
    """Fails at each of the points in turn; with ``made`` not at those before the first step."""
    clean, first, went_on = Net(), [0], 0
    with failing_at(-1, 0) as points:
        program(name, clean, lambda step: first.append(len(points)))
    assert len(points) > 30
    for place in range(first[1] if made else 0, len(points)):
        rank, start = place % 2, time.monotonic()
        kind = KeyboardInterrupt if place % 3 == 0 else InjectedError
        with failing_at(place, rank, kind):
            error = attempt(lambda: program(name, Net()))
        late = error is None  # it has ended the last step, and hears of the failure in the next one
        if not late:
            check_failed(error, rank, f"{kind.__name__}: injected")
        again = Net()
        error = attempt(lambda net=again: program(name, net))  # type: ignore[misc]
        if error is None:
            assert not late
            assert all(map(torch.equal, clean.parameters(), again.parameters()))
            went_on += 1
        else:
            if late:
                check_failed(error, rank, f"{kind.__name__}: injected")
            assert late or CLOSED in str(error), repr(error)
            with pytest.raises(RuntimeError, match=CLOSED):
                program(name, Net())
            join_again(SECONDS)
        assert time.monotonic() - start < SECONDS / 2, (name, place, points[place])
    assert went_on > len(points) / 2


def at_every_collective(rank: int, world: int, names: Sequence[str]) -> None:
    join_again(SECONDS)
    for name in names:
        everywhere(name, made=name != "exact")


# ---- named points --------------------------------------------------------------------------------


class Broken(torch.autograd.Function):
    """The identity, with a backward that raises."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise InjectedError("injected")


def make(net: nn.Module, **options: Any) -> MultiTaskOptimizer:
    return MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.01), "upgrad", **options)


def losses_with(fault: str, net: nn.Module) -> dict[str, Tensor]:
    """Those of a network with a fault that shows in the backward of the second task."""
    losses = losses_of(net(DATA)[1])
    if fault == "hook":
        net.heads[1].weight.register_hook(raise_injected)
    elif fault == "backward":
        losses["b"] = Broken.apply(losses["b"])
    elif fault == "interrupt":
        net.heads[1].weight.register_hook(interrupt)
    elif fault == "freed":
        losses["b"].backward()
        net.zero_grad()
    return losses


def raise_injected(gradient: Tensor) -> None:
    raise InjectedError("injected")


def interrupt(gradient: Tensor) -> None:
    raise KeyboardInterrupt("injected")


#: What fails on one rank, and what the others say.
FAULTS = {
    "hook": "InjectedError: injected",
    "backward": "InjectedError: injected",
    "interrupt": "KeyboardInterrupt: injected",
    "freed": "RuntimeError: ",
}


def in_a_backward(rank: int, world: int) -> None:
    """In the first step, and in one that sends early; then all go on with the same numbers."""
    join_again(SECONDS)
    for mode in ("exact", "mean_gram"):
        for fault, text in FAULTS.items():
            for steps in (0, 1):
                net, clean = Net(), Net()
                optimizer, alone = make(net, distributed=mode), make(clean, distributed=None)
                for _ in range(steps):
                    optimizer.backward(losses_of(net(DATA)[1]))
                    optimizer.zero_grad()
                start = time.monotonic()
                losses = losses_with(fault if rank == 1 else "", net)
                error = attempt(lambda: optimizer.backward(losses))  # noqa: B023
                check_failed(error, 1, text)
                assert time.monotonic() - start < SECONDS / 2
                assert all(param.grad is None for param in net.parameters())
                for param in net.parameters():
                    param._backward_hooks = None
                optimizer.backward(losses_of(net(DATA)[1]))
                alone.backward(losses_of(clean(DATA)[1]))
                for one, two in zip(net.parameters(), clean.parameters(), strict=True):
                    torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6)


def in_a_closure(rank: int, world: int) -> None:
    """One process fails before a backward that the others are in: they are not at the same step any more."""
    join_again(SECONDS)
    net = Net()
    optimizer = make(net)

    def closure() -> Tensor:
        if rank == 1:
            raise InjectedError("injected")
        optimizer.backward(losses_of(net(DATA)[1]))
        return torch.zeros(())

    check_failed(attempt(lambda: optimizer.step(closure)), 1, "InjectedError: injected")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"{CLOSED}.* Found rank 1 in a later|{CLOSED}"):
            optimizer.backward(losses_of(net(DATA)[1]))


def in_the_inner_step(rank: int, world: int) -> None:
    """The others have taken it: they hear of the failure in the next backward."""
    join_again(SECONDS)
    net = Net()
    optimizer = make(net)
    optimizer.backward(losses_of(net(DATA)[1]))
    fails = mock.patch.object(torch.optim.SGD, "step", side_effect=InjectedError("injected"))
    with fails if rank == 1 else contextlib.nullcontext():
        error = attempt(optimizer.step)
    assert (error is None) == (rank == 0)
    error = attempt(lambda: optimizer.backward(losses_of(net(DATA)[1])))
    assert (CLOSED if rank == 1 else "rank 1 failed with InjectedError: injected") in str(error)
    with pytest.raises(RuntimeError, match=f"{CLOSED}.* rank 0 in a later step than rank 1"):
        optimizer.backward(losses_of(net(DATA)[1]))


def on_all(rank: int, world: int) -> None:
    """What all find out together, or all raise at the same place, is nobody's failure."""
    join_again(SECONDS)
    net = Net()
    optimizer = make(net, nonfinite="raise")
    net.neck.requires_grad_(rank != 1)
    with pytest.raises(ValueError, match=r"`requires_grad` should be the same .* on rank 1"):
        optimizer.backward(losses_of(net(DATA)[1]))
    net.neck.requires_grad_()
    for _ in range(2):
        optimizer.backward(losses_of(net(DATA)[1]))
        losses = losses_of(net(DATA)[1])
        losses["b"] = losses["b"] * torch.nan
        with pytest.raises(RuntimeError, match="finite"):
            optimizer.backward(losses)


def another_state(rank: int, world: int) -> None:
    """After a failure the processes compare what they remember before they go on."""
    join_again(SECONDS)
    net = Net()
    optimizer = make(net, generator=torch.Generator().manual_seed(0))
    with pytest.raises((InjectedError, RuntimeError), match="injected"):
        optimizer.backward(losses_with("hook" if rank == 1 else "", net))
    net.heads[1].weight._backward_hooks = None
    if rank == 1:
        torch.rand((), generator=optimizer.generator)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"{CLOSED}.* another state .*`generator`"):
            optimizer.backward(losses_of(net(DATA)[1]))


#: In a backward of FSDP: rank 1 has said what tasks it has, and not more; all gradients are reduced.
AGREED, REDUCED = 5, 6


def fsdp(rank: int, world: int) -> None:
    """Where torch's own collectives are on their way, the others wait for the time-out of the group."""
    for place, hook in ((AGREED, False), (REDUCED, False), (-1, True)):
        join_again(SECONDS_FSDP)
        net = shard(Net())
        optimizer = make(net, module=net)
        start = time.monotonic()
        features, outputs = net(DATA)
        if hook and rank == 1:
            features.register_hook(raise_injected)
        with failing_at(place, 1):
            error = attempt(lambda: optimizer.backward(losses_of(outputs)))  # noqa: B023
        check_failed(error, 1, "InjectedError: injected")
        assert time.monotonic() - start < 5 * SECONDS_FSDP
        if place == REDUCED:
            optimizer.backward(losses_of(net(DATA)[1]))
            continue
        with pytest.raises(RuntimeError, match=f"{CLOSED}.* a backward that calls collectives"):
            optimizer.backward(losses_of(outputs))


def settings(rank: int, world: int) -> None:
    join_again(SECONDS)
    check_settings({"a": [1, 2], "b": torch.ones(2), "c": raise_injected, "d": object()})
    match = (
        r"`a` should .* Found 1 on rank 0 and 2 on rank 1\. .*`c` .* Found none .* None on rank 1"
    )
    with pytest.raises(ValueError, match=match):
        check_settings({"a": 1, "b": 1} if rank == 0 else {"a": 2, "b": 1, "c": None})
    with pytest.raises((InjectedError, RuntimeError), match=r"InjectedError: no|^no$"):
        check_settings({"a": Unshowable() if rank == 1 else 1})
    check_settings({"a": 1})


class Unshowable:
    def __repr__(self) -> str:
        raise InjectedError("no")


def test_failures() -> None:
    """Several sets of processes at once: they wait for one another most of the time."""
    named = [in_a_backward, in_a_closure, in_the_inner_step, on_all, another_state, settings]
    sets: list[tuple[Any, ...]] = [
        ([fsdp, *named],),
        ([at_every_collective], ("exact", "mean_gram", "observe")),
        ([at_every_collective], ("features", "accumulate", "weights_every")),
    ]
    with ThreadPoolExecutor(len(sets)) as pool:
        runs = [pool.submit(on_processes, 2, *one) for one in sets]
    for run in runs:
        run.result()
