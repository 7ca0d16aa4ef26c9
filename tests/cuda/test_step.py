"""Whole steps on a GPU: no waiting, streams, graphs, GradScaler, several devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from multitask import (
    NAMES,
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    method,
    through,
    train,
    wrap,
)
from torch import Tensor

import mtl_ops
import mtl_ops.gradients.piecewise
from mtl_ops import ops, reference

NO_KERNELS = not torch.cuda.is_available() or mtl_ops.build_info().backends["cuda"] != "native"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(NO_KERNELS, reason="needs a CUDA device and a build with CUDA kernels"),
]


def gradients(tasks: int = 4, size: int = 200_000, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    return [torch.randn(size, generator=generator, device="cuda") for _ in range(tasks)]


def merged(rows: list[Tensor], out: Tensor) -> tuple[Tensor, Tensor]:
    """What a step does with gradients: measure, scale, solve, merge."""
    gram = ops.gram(rows, len(rows))
    scale = ops.task_scales(gram, [1.0, 2.0, 1.0, 0.5], max_task_norm=100.0, skip_nonfinite=True)
    weights = ops.solve_upgrad(gram, scale)
    return weights, ops.merge_([out], rows, weights, gram, max_norm=10.0)


@contextmanager
def no_waiting() -> Iterator[None]:
    """An error for whoever waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestNobodyWaits:
    def test_the_mode_works(self) -> None:
        with no_waiting(), pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            torch.ones((), device="cuda").item()

    @pytest.mark.parametrize("name", every_method())
    def test_in_a_step(self, name: str) -> None:
        net = Net(torch.float32, "cuda")
        options = {"inner_options": {"fused": True}, "max_norm": 1.0, "max_task_norm": 5.0}
        optimizer = wrap(net, method(name), lr=1e-3, **options)
        data = batch(like=net)
        train(net, optimizer, range(2))
        with no_waiting():
            for _ in range(2):
                optimizer.zero_grad()
                optimizer.backward(net.losses(data))
                optimizer.step()

    @pytest.mark.parametrize("tasks", [4])
    def test_with_more_tensors_than_arguments_hold(self, tasks: int) -> None:
        rows = [row for _ in range(300) for row in gradients(1, 50)] * tasks
        out = [torch.empty(50, device="cuda") for _ in range(300)]
        with no_waiting():
            gram = ops.gram(rows, tasks, list(range(300)))
            scale = ops.task_scales(gram, [1.0] * (300 * tasks))
            ops.merge_(out, rows, ops.solve_mgda(gram, scale), gram, list(range(300)), 1.0)


class TestStreams:
    def test_work_goes_to_the_current_stream(self) -> None:
        rows, out = gradients(), torch.empty(200_000, device="cuda")
        weights, scale = merged(rows, out)
        expected = [weights.clone(), scale.clone(), out.clone()]
        late = [torch.zeros_like(row) for row in rows]
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)  # what is on another stream goes ahead and finds zeros
            for to, row in zip(late, rows, strict=True):
                to.copy_(row)
            found = [*merged(late, out), out]
        stream.synchronize()
        assert_equal(found, expected)

    def test_two_at_a_time(self) -> None:
        problems = [gradients(seed=seed) for seed in range(2)]
        outs = [torch.empty(200_000, device="cuda") for _ in problems]
        expected = []
        for rows, out in zip(problems, outs, strict=True):
            weights, scale = merged(rows, out)
            expected.append([weights.clone(), scale.clone(), out.clone()])
        streams = [torch.cuda.Stream() for _ in problems]
        torch.cuda.synchronize()
        for _ in range(20):
            found = []
            for stream, rows, out in zip(streams, problems, outs, strict=True):
                with torch.cuda.stream(stream):
                    found.append([*merged(rows, out), out])
            torch.cuda.synchronize()
            for one, other in zip(found, expected, strict=True):
                assert_equal(one, other)

    @pytest.mark.parametrize("granularity", ["model", "tensor"])
    def test_gradients_in_pieces_from_another_stream(
        self, granularity: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mtl_ops.gradients.piecewise, "PIECE", 1)
        found = []
        for memory in (None, "stream"):
            net = Net(torch.float32, "cuda")
            options = {"granularity": granularity, "nonfinite": "propagate", "memory": memory}
            optimizer = wrap(net, "mgda", **options)
            data = batch(like=net)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # where its backward runs, too
                torch.cuda._sleep(200_000_000)
                losses = net.losses(data)
            torch.cuda.current_stream().wait_stream(stream)
            optimizer.backward(losses)
            found.append([param.grad for param in net.parameters()])
        torch.cuda.synchronize()
        assert_same(*found)


class TestGraphs:
    def test_from_gram_to_merge(self) -> None:
        rows, out = gradients(), torch.empty(200_000, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                merged(rows, out)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            weights, scale = merged(rows, out)
        for seed in (1, 2):
            for row, fresh in zip(rows, gradients(seed=seed), strict=True):
                row.copy_(fresh)
            out.zero_()
            graph.replay()
            replayed = [weights.clone(), scale.clone(), out.clone()]
            eager = torch.empty_like(out)
            assert_equal([*merged(rows, eager), eager], replayed)

    def test_more_tensors_than_arguments_hold(self) -> None:
        """The table that reaches the device in several launches is part of the graph, too."""
        rows = [row for _ in range(4 * 200) for row in gradients(1, 30)]
        ops.gram(rows, 4)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gram = ops.gram(rows, 4)
        for row in rows:
            row.mul_(2.0)
        graph.replay()
        assert_equal([gram], [ops.gram(rows, 4)])

    @pytest.mark.parametrize("name", every_method())
    def test_a_whole_step(self, name: str) -> None:
        """Backwards, merge and inner step, captured after three eager steps and replayed with other inputs."""
        assert_same(*captured_and_eager(name), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("upgrad", {"granularity": "tensor"}),
            ("gradvac", {"granularity": "tensor"}),
            ("mgda", {"memory": "stream"}),
            ("gradvac", {"memory": "stream"}),
            ("graddrop", {"memory": "stream"}),
            ("pcgrad", {"nonfinite": "propagate"}),
            ("upgrad", {"grad_dtype": torch.bfloat16}),
            ("upgrad", {"gram_on": "features"}),
        ],
        ids=str,
    )
    def test_a_whole_step_with_options(self, name: str, options: dict[str, Any]) -> None:
        assert_same(*captured_and_eager(name, **options), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", ["dwa", "auto_lambda", "moml", "forum", "modo", "sdmgrad"])
    def test_weights_with_a_memory(self, name: str) -> None:
        """Methods that a step of the network alone does not show: their weights, and their memory."""
        arguments = {
            "dwa": {"window": 2},
            "auto_lambda": {"inner_lr": 0.1},
            "moml": {"inner_lr": 0.1},
        }
        given = {"cross_gram": torch.empty(3, 3, device="cuda", dtype=torch.float64)}
        given = given if name in ("auto_lambda", "moml", "modo", "sdmgrad") else {}
        rows = torch.empty(3, 50, device="cuda", dtype=torch.float64)
        losses = torch.empty(3, device="cuda", dtype=torch.float64)

        def fill(number: int) -> None:
            generator = torch.Generator("cuda").manual_seed(number)
            for tensor in (rows, losses, *given.values()):
                tensor.uniform_(0.1, 1.0, generator=generator)

        chosen, other = (mtl_ops.methods.get(name, **arguments.get(name, {})) for _ in range(2))

        def weigh(by: mtl_ops.methods.Method) -> Tensor:
            return by.weights(rows @ rows.T, losses, **given)

        found, expected = [], []
        for number in range(3):
            fill(number)
            weigh(chosen)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            weights = weigh(chosen)
        for number in range(3, 13):
            fill(number)
            graph.replay()
            found.append(weights.clone())
        for number in range(13):
            fill(number)
            expected.append(weigh(other).clone())
        assert_same(found, expected[3:], rtol=1e-9, atol=1e-12)

    def test_counts_of_skipped_tasks(self) -> None:
        """A task that is lost in some replays is counted in those."""
        net = Net(torch.float32, "cuda")
        optimizer = wrap(net, "upgrad", torch.optim.AdamW, inner_options={"capturable": True})
        data, factor = batch(like=net), torch.ones((), device="cuda")

        def step() -> None:
            losses = net.losses(data)
            optimizer.backward({**losses, "b": losses["b"] * factor})
            optimizer.step()

        graph = captured(optimizer, step, lambda number: None)
        for number in range(10):
            factor.fill_(torch.inf if number % 3 == 1 else 1.0)
            graph.replay()
        assert optimizer.report.times_skipped.tolist() == [0, 3, 0]

    def test_a_fused_optimizer_skips_a_replay(self) -> None:
        net = Net(torch.float32, "cuda")
        inner = {"capturable": True, "fused": True}
        optimizer = wrap(
            net, "upgrad", torch.optim.AdamW, nonfinite="skip_step", inner_options=inner
        )
        data, factor = batch(like=net), torch.ones((), device="cuda")

        def step() -> None:
            losses = net.losses(data)
            optimizer.backward({**losses, "b": losses["b"] * factor})
            optimizer.step()

        graph = captured(optimizer, step, lambda number: None)
        for value, moves in ((1.0, True), (torch.inf, False), (1.0, True)):
            before = [param.detach().clone() for param in net.parameters()]
            factor.fill_(value)
            graph.replay()
            same = all(torch.equal(*pair) for pair in zip(net.parameters(), before, strict=True))
            assert same != moves

    def test_a_checkpoint_and_a_reset_reach_the_graph(self) -> None:
        net, plain = Net(torch.float32, "cuda"), Net(torch.float32, "cuda")
        inner = {"capturable": True}
        optimizer, other = (
            wrap(n, "gradnorm", torch.optim.AdamW, inner_options=inner) for n in (net, plain)
        )
        data = batch(like=net)

        def step() -> None:
            optimizer.backward(net.losses(data))
            optimizer.step()

        graph = captured(optimizer, step, lambda number: data.copy_(batch(number, like=net)))
        optimizer.method.reset()
        plain.load_state_dict(net.state_dict())
        other.load_state_dict(optimizer.state_dict())
        for number in range(3, 8):
            data.copy_(batch(number, like=net))
            graph.replay()
        train(plain, other, range(3, 8))
        assert_same(net.parameters(), plain.parameters(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("registered", [False, True])
    def test_a_generator_of_the_users(self, registered: bool) -> None:
        net = Net(torch.float32, "cuda")
        generator = torch.Generator("cuda").manual_seed(3)
        options = {"inner_options": {"capturable": True}, "generator": generator}
        optimizer = wrap(net, "pcgrad", torch.optim.AdamW, **options)
        data = batch(like=net)
        train(net, optimizer, range(2))
        graph = torch.cuda.CUDAGraph()
        if registered:
            graph.register_generator_state(generator)
        optimizer.zero_grad()
        torch.cuda.synchronize()
        refused = None
        try:
            with torch.cuda.graph(graph):
                optimizer.backward(net.losses(data))
                optimizer.step()
        except RuntimeError as error:  # newer versions of torch register by themselves
            refused = str(error.__context__ or error)
        if refused is not None:
            assert not registered
            assert "Parameter `generator` should be registered" in refused
            return
        graph.replay()

    def test_the_example_of_the_documentation(self) -> None:
        page = Path(__file__).resolve().parents[2] / "docs" / "guides" / "cuda-graphs.md"
        blocks = re.findall(
            r"^```python[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        )
        (code,) = [block for block in blocks if "torch.cuda.graph(" in block]
        exec(compile(code, str(page), "exec"), {"__name__": "page"})

    @pytest.mark.parametrize(
        "options", [{"weights_every": 2}, {"task_weights": lambda step: [1.0] * 3}]
    )
    def test_what_a_graph_cannot_hold(self, options: dict[str, Any]) -> None:
        net = Net(torch.float32, "cuda")
        optimizer = wrap(net, "upgrad", **options)
        train(net, optimizer, range(2))
        data = batch(like=net)
        torch.cuda.synchronize()
        with (
            pytest.raises(RuntimeError, match="while a CUDA graph is captured"),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            optimizer.backward(net.losses(data))


def captured(
    optimizer: mtl_ops.MultiTaskOptimizer,
    step: Callable[[], None],
    feed: Callable[[int], Any],
) -> torch.cuda.CUDAGraph:
    """Three eager steps on a stream of their own, as torch wants it, and a fourth in a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for number in range(3):
            feed(number)
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def captured_and_eager(name: str, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and the method's memory after three eager steps and ten replays, and after thirteen eager ones."""
    found = []
    for graphed in (True, False):
        torch.manual_seed(0)
        net = Net(torch.float32, "cuda")
        inner = {"capturable": True}
        chosen = method(name)
        optimizer = wrap(
            net, chosen, torch.optim.AdamW, lr=1e-2, max_norm=1.0, inner_options=inner,
            tasks=list(NAMES), **options,
        )  # fmt: skip
        data = batch(like=net)

        def step(net: Net = net, optimizer: Any = optimizer, data: Tensor = data) -> None:
            features, losses = through(net, data)
            given = features if options.get("gram_on") == "features" else None
            optimizer.backward(losses, features=given)
            optimizer.step()

        def feed(number: int, net: Net = net, data: Tensor = data) -> None:
            data.copy_(batch(number, like=net))

        graph = captured(optimizer, step, feed) if graphed else None
        for number in range(3 if graphed else 0, 13):
            feed(number)
            if graph is not None:
                graph.replay()
            else:
                optimizer.zero_grad(set_to_none=True)
                step()
        torch.cuda.synchronize()
        memory = [getattr(chosen, name) for name in chosen.state_names]
        kept = [one.detach().clone().double() for one in memory if isinstance(one, Tensor)]
        found.append([*(param.detach().clone().double() for param in net.parameters()), *kept])
    return found[0], found[1]


class TestGradScaler:
    @pytest.mark.parametrize("fused", [False, True])
    def test_a_broken_step_is_skipped_and_the_scale_goes_down(self, fused: bool) -> None:
        net = Net(torch.float32, "cuda")
        optimizer = wrap(net, "upgrad", nonfinite="propagate", inner_options={"fused": fused})
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        before = [param.detach().clone() for param in net.parameters()]
        losses = {name: scaler.scale(loss) for name, loss in net.losses(batch(like=net)).items()}
        losses["b"] = losses["b"] * float("inf")
        optimizer.backward(losses)
        scaler.step(optimizer)
        scaler.update()
        assert_equal(net.parameters(), before)
        assert scaler.get_scale() == 512.0

    def test_equals_training_without(self) -> None:
        net, plain = Net(torch.float32, "cuda"), Net(torch.float32, "cuda")
        optimizer, other = wrap(net, "upgrad"), wrap(plain, "upgrad")
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for number in range(5):
            optimizer.zero_grad()
            losses = net.losses(batch(number, like=net))
            optimizer.backward({name: scaler.scale(loss) for name, loss in losses.items()})
            scaler.step(optimizer)
            scaler.update()
        train(plain, other, range(5))
        assert_same(net.parameters(), plain.parameters(), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one() -> None:
    rows = gradients()
    there = [row.to("cuda:1") for row in rows]
    assert torch.cuda.current_device() == 0
    out, out_there = torch.empty(200_000, device="cuda"), torch.empty(200_000, device="cuda:1")
    expected = [*merged(rows, out), out]
    found = [*merged(there, out_there), out_there]
    assert all(tensor.device.index == 1 for tensor in found)
    assert torch.cuda.current_device() == 0
    assert_same([t.cpu() for t in found], [t.cpu() for t in expected], rtol=1e-6, atol=1e-6)


def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 4099
    free, _ = torch.cuda.mem_get_info()
    if free < 6 * size:
        pytest.skip("needs 13 GB of free memory")
    row = torch.ones(size, dtype=torch.bfloat16, device="cuda")
    row[-1] = 3.0
    assert ops.gram([row], 1).item() == size + 8
    out = torch.empty_like(row)
    weights = torch.full((1, 1), 2.0, dtype=torch.float64, device="cuda")
    ops.merge_([out], [row], weights)
    assert out[-1].item() == 6.0
    assert (out[:-1] == 2.0).all()


def test_non_contiguous_gradients_are_read_after_they_are_copied() -> None:
    rows = [row.view(400, 500).t() for row in gradients(3)]
    rows[0] = rows[0].contiguous()
    found = ops.gram(rows, 3)
    assert_same([found], [reference.gram(rows, 3, [], None)], rtol=1e-6, atol=1e-3)
