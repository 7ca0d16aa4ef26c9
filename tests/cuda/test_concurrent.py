"""Several streams, host threads and graphs at a time, with more tasks than one thread's registers hold."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from multitask import Net, assert_equal, assert_same, batch, wrap
from torch import Tensor

import mtl_ops
from mtl_ops import ops
from mtl_ops.merging import sink
from mtl_ops.methods._checks import PerTask

NO_KERNELS = not torch.cuda.is_available() or mtl_ops.build_info().backends["cuda"] != "native"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(NO_KERNELS, reason="needs a CUDA device and a build with CUDA kernels"),
]

SIZE = 150_000


def gradients(tasks: int, seed: int = 0, size: int = SIZE) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    return [torch.randn(size, generator=generator, device="cuda") for _ in range(tasks)]


def merged(rows: list[Tensor], out: list[Tensor], tasks: int) -> list[Tensor]:
    """What a step launches: gram and solve with much shared memory, scale, merge and clip."""
    segments = list(range(len(out)))
    gram = ops.gram(rows, tasks, segments)
    scale = ops.task_scales(gram, [1.0] * tasks * len(out), max_task_norm=400.0)
    weights = ops.solve_aligned_mtl(gram, scale)
    norm = ops.merge_(out, rows, weights, gram, segments, max_norm=10.0)
    return [gram, weights, norm, *out]


def copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def made(tasks: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Rows, and where they are merged to."""
    return gradients(tasks, seed), [torch.zeros(SIZE, device="cuda")]


@pytest.mark.parametrize("tasks", [12, 40, 64])
def test_many_tasks_in_a_graph(tasks: int) -> None:
    rows, out = made(tasks)
    merged(rows, out, tasks)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = merged(rows, out, tasks)
    for seed in (1, 2, 3):
        for row, fresh in zip(rows, gradients(tasks, seed), strict=True):
            row.copy_(fresh)
        out[0].zero_()
        graph.replay()
        replayed = copies(results)
        assert_equal(replayed, merged(rows, [torch.zeros_like(out[0])], tasks))


def test_more_tensors_than_arguments_hold_merged_in_a_graph() -> None:
    """Segments, rows and outputs in tables that reach the device in several pieces, on every replay."""
    tasks, count = 9, 400
    rows = gradients(tasks * count, size=30)
    out = [torch.zeros(30, device="cuda") for _ in range(count)]
    merged(rows, out, tasks)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = merged(rows, out, tasks)
    for row in rows:
        row.mul_(-1.5)
    graph.replay()
    replayed = copies(results)
    assert_equal(replayed, merged(rows, [torch.zeros_like(one) for one in out], tasks))


def test_many_tasks_on_two_streams() -> None:
    problems = [(tasks, *made(tasks, seed)) for seed, tasks in enumerate((12, 40))]
    expected = [copies(merged(rows, out, tasks)) for tasks, rows, out in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    for _ in range(20):
        found = []
        for stream, (tasks, rows, out) in zip(streams, problems, strict=True):
            with torch.cuda.stream(stream):
                found.append(merged(rows, out, tasks))
        torch.cuda.synchronize()
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)


def test_threads_with_different_numbers_of_tasks() -> None:
    """The same kernels, with more and with less shared memory than the other thread asks for."""
    numbers = (64, 57, 40, 12)
    problems = [(tasks, *made(tasks, seed)) for seed, tasks in enumerate(numbers)]
    expected = [copies(merged(rows, out, tasks)) for tasks, rows, out in problems]
    torch.cuda.synchronize()
    wrong: list[BaseException] = []
    start = threading.Barrier(len(problems))

    def work(place: int) -> None:
        tasks, rows, out = problems[place]
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                start.wait()
                for _ in range(50):
                    found = merged(rows, out, tasks)
                torch.cuda.current_stream().synchronize()
                assert_equal(found, expected[place])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("options", [{}, {"batched": True}], ids=str)
def test_rows_of_another_stream_are_not_overwritten(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge is late, and the stream of the forward takes the memory of what is freed meanwhile."""
    real = sink.merge_rows

    def late(*args: Any, **more: Any) -> Any:
        torch.cuda._sleep(200_000_000)
        return real(*args, **more)

    net, plain = Net(torch.float32, "cuda"), Net(torch.float32, "cuda")
    plain.load_state_dict(net.state_dict())
    data = batch(like=net)
    wrap(plain, "mgda", **options).backward(plain.losses(data))
    optimizer = wrap(net, "mgda", **options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        losses = net.losses(data)
    torch.cuda.current_stream().wait_stream(stream)
    monkeypatch.setattr(sink, "merge_rows", late)
    optimizer.backward(losses)
    with torch.cuda.stream(stream):
        for param in net.parameters():
            for _ in range(8):
                torch.empty_like(param).fill_(torch.nan)
    torch.cuda.synchronize()
    found = [param.grad for param in net.parameters()]
    assert_same(found, [param.grad for param in plain.parameters()])


def test_numbers_of_the_tasks_in_a_graph_and_before_it() -> None:
    """The first call is captured: it neither waits nor copies, and what it made is not used outside."""
    numbers = PerTask("numbers", [1.0, 2.0, 3.0])
    device = torch.device("cuda", torch.cuda.current_device())
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        there = 2.0 * numbers.on(device, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        outside = numbers.on(device, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert outside.tolist() == [1.0, 2.0, 3.0]
    graph.replay()
    assert there.tolist() == [2.0, 4.0, 6.0]
