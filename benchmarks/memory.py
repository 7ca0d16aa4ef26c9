"""Peak memory of a merge, and of a whole training step, each in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from mtl_ops.compare.peak import call_libc, peak

from . import step
from .merge import TORCHJD, TORCHJD_SUMMED, contender
from .problems import SHAPES, random_problem
from .results import Goal, Row
from .rivals import LIBMTL_METHODS, NAIVE_METHODS, available, torchjd_aggregator
from .timing import Quartiles

__all__ = ["in_child", "measure"]

METHODS = ("upgrad", "pcgrad")
TASKS = 8
#: Over the T gradients and the merged one.
ALLOWANCE = 16e6

#: As many parameters as the other MLP, in layers that are small parts of it.
DEEP = (1024,) * 9
#: Of glibc's `mallopt`, and the size from which on each block is the system's, and goes back when it is freed.
_MMAP_THRESHOLD, _BLOCK = -3, 65536

SIZES = {"small": [(256, 256)] * 4, "full": SHAPES["ResNet-18"]}


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows of the peak over everything, in MB; the floor is the T gradients and the merged one."""
    size = "small" if quick else "full"
    rows = [row for method in available(METHODS) for row in _merges(method, device, size)]
    if available([step.METHOD]):
        rows += [*_steps(device, size), *_options(device, size)]
    return rows


def _merges(method: str, device: str, size: str) -> list[Row]:
    elements = random_problem(SIZES[size], 1).elements
    gradients = 4 * TASKS * elements
    floor = gradients + 4 * elements

    def total(rival: str) -> float:
        return gradients + in_child("merge", rival, method, device, size)

    rivals = ["naive loop"] if method in NAIVE_METHODS else []
    rivals += ["LibMTL's way"] if method in LIBMTL_METHODS else []
    rivals += [TORCHJD, TORCHJD_SUMMED] if torchjd_aggregator(method, TASKS) is not None else []
    case = f"merge, {elements / 1e6:.1f}M elements, T = {TASKS}"
    return _rows(case, method, total, rivals, floor, None if size == "small" else ALLOWANCE)


def _steps(device: str, size: str) -> list[Row]:
    """Over the model and the batch; the bare backwards hold T gradients and the activations."""
    model = step.setup(device, size == "small")[0]
    merged = 4 * sum(param.numel() for param in model.shared.parameters())
    peaks = {name: in_child("step", name, step.METHOD, device, size) for name in _step_rivals()}
    floor = peaks[step.BARE] + merged

    def total(rival: str) -> float:
        if rival == "ours":
            return in_child("step", f"ours {step.METHOD}", step.METHOD, device, size)
        return peaks[rival]

    allowance = None if size == "small" else ALLOWANCE
    return _rows("training step of the MLP", step.METHOD, total, list(peaks), floor, allowance)


def _options(device: str, size: str) -> list[Row]:
    """What is saved by the options that are there for that, without what the C library keeps for later."""
    rows = []
    for tasks in ("8", "2"):
        peaks = {
            name: in_child("deep step", name, tasks, device, size)
            for name in (step.BARE, step.PLAIN)
        }
        for name in (step.METHOD, *step.OPTIONS):
            own = in_child("deep step", f"ours {name}", tasks, device, size)
            case = f"step of an MLP of 8 layers, T = {tasks}, freed blocks given back"
            rows += [_row(case, name, own, rival, theirs) for rival, theirs in peaks.items()]
    return rows


def _step_rivals() -> list[str]:
    with_torchjd = torchjd_aggregator(step.METHOD, TASKS) is not None
    return [step.BARE, *(step.MODES if with_torchjd else ())]


def _rows(
    case: str,
    method: str,
    total: Callable[[str], float],
    rivals: list[str],
    floor: float,
    allowance: float | None,
) -> list[Row]:
    own = total("ours")
    goal = None if allowance is None else Goal("value", (floor + allowance) / 1e6)
    return [
        _row(case, method, own, rival, total(rival), floor, goal if place == 0 else None)
        for place, rival in enumerate(rivals)
    ]


def _row(
    case: str,
    method: str,
    own: float,
    rival: str,
    theirs: float,
    floor: float | None = None,
    goal: Goal | None = None,
) -> Row:
    """Bytes as MB."""
    return Row(
        case,
        method,
        _single(own / 1e6),
        "MB",
        rival,
        _single(theirs / 1e6),
        _single(theirs / own),
        None if floor is None else floor / 1e6,
        goal,
    )


def _single(value: float) -> Quartiles:
    return Quartiles(value, value, value)


def in_child(*arguments: str) -> float:
    """Bytes over what was there, in a fresh process.

    Where the system can fork, they are forked from one that has imported everything and has not
    started a thread.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torchjd.aggregation", "torchjd.autojac"])
    else:
        context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, *arguments))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = "The process ended without an answer."
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(f"Measuring {' '.join(arguments)} failed. {answer}")
    return float(answer)


def _send(sender: Connection, *arguments: str) -> None:
    try:
        sender.send(_measure(*arguments))
    except Exception:
        sender.send(traceback.format_exc())


def _measure(kind: str, rival: str, method: str, device: str, size: str) -> int:
    if kind == "one of steps":
        from . import steps  # which imports this module

        call = steps.contender(method, rival, steps.PERIOD, device)
        subject = call()  # the first step verifies
        for param in subject.params:
            param.grad = None
        return _peak(call, device)
    if kind.endswith("step"):
        # Once on small sizes, so that loading code is not counted.
        step.contender(rival, device, quick=True)()
        model = {}
        if kind == "deep step":
            model = {"tasks": int(method), "widths": DEEP}
            call_libc("mallopt", _MMAP_THRESHOLD, _BLOCK)
        return _peak(step.contender(rival, device, size == "small", **model), device)
    calls = [
        contender(random_problem(shapes, TASKS, device=device), method, rival)
        for shapes in ([(8, 8)], SIZES[size])
    ]
    if any(call is None for call in calls):
        raise ValueError(f"{rival!r} does not have method {method!r}.")
    warm_up, call = calls
    warm_up()
    return _peak(call, device)


def _peak(call: Callable[[], object], device: str) -> int:
    gc.collect()
    return peak(call, device)
