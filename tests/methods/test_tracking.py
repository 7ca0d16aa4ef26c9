"""Methods with a memory of J's size, against dense matrices and loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest
import torch
from multitask import NAMES, Net, assert_equal, assert_same, batch, grads, wrap
from resuming import assert_forgets, assert_resumes, take_steps
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mtl_ops
from mtl_ops.gradients.layout import Layout
from mtl_ops.gradients.parameters import Parameters
from mtl_ops.gradients.tasks import Tasks
from mtl_ops.merging.call import Call, Part
from mtl_ops.merging.merge import merge_rows
from mtl_ops.methods import DBMTL, ExcessMTL, Method, MoCo, TrackingMethod
from mtl_ops.methods.excess_mtl import _add_up_lists, _add_up_pieces


class Naive(Protocol):
    """One step: from J, the losses and the places of the tasks that take part to the merged gradient."""

    def __call__(self, jacobian: Tensor, losses: Tensor, part: list[int]) -> Tensor: ...


class NaiveMoCo:
    """The paper's algorithm; the others' share of the simplex is left to them."""

    def __init__(self, tasks: int, rho: float = 0.0, softmax: bool = False) -> None:
        self.average: Tensor | None = None
        self.weights = torch.full((tasks,), 1 / tasks, dtype=torch.float64)
        self.step, self.rho, self.softmax = 0, rho, softmax

    def __call__(self, jacobian: Tensor, losses: Tensor, part: list[int]) -> Tensor:
        self.step += 1
        if self.average is None:
            self.average = torch.zeros_like(jacobian)
        rate = 0.5 / self.step**0.5
        self.average[part] -= rate * (self.average[part] - jacobian[part])
        kept = self.average[part]
        mass = self.weights[part].sum()
        weights = self.weights[part] / mass
        weights = weights - 0.1 / self.step**0.5 * (kept @ kept.T @ weights + self.rho * weights)
        weights = weights.softmax(dim=0) if self.softmax else projected(weights)
        self.weights[part] = mass * weights
        return weights @ kept


def projected(point: Tensor) -> Tensor:
    """On the simplex, by bisection."""
    low, high = point.min() - 1, point.max()
    for _ in range(200):
        middle = (low + high) / 2
        if (point - middle).clamp(min=0).sum() > 1:
            low = middle
        else:
            high = middle
    return (point - low).clamp(min=0)


class NaiveExcessMTL:
    """The official algorithm."""

    def __init__(self, tasks: int) -> None:
        self.sums: Tensor | None = None
        self.weights = torch.ones(tasks, dtype=torch.float64)
        self.first: dict[int, Tensor] = {}

    def __call__(self, jacobian: Tensor, losses: Tensor, part: list[int]) -> Tensor:
        if self.sums is None:
            self.sums = torch.zeros_like(jacobian)
        known = []
        ratios = []
        for task in part:
            self.sums[task] += jacobian[task] ** 2
            excess = (jacobian[task] ** 2 / (self.sums[task] + 1e-7).sqrt()).sum()
            if task in self.first:
                known.append(task)
                ratios.append(excess / self.first[task])
            else:
                self.first[task] = excess
        if known:
            raised = self.weights[known] * (STEP_SIZE * torch.stack(ratios)).exp()
            self.weights[known] = raised / raised.sum() * self.weights[known].sum()
        return self.weights[part] @ jacobian[part]


class NaiveDBMTL:
    """The official algorithm, with the zero average left out."""

    def __init__(self, tasks: int) -> None:
        self.buffer: Tensor | None = None
        self.step = 0

    def __call__(self, jacobian: Tensor, losses: Tensor, part: list[int]) -> Tensor:
        self.step += 1
        if self.buffer is None:
            self.buffer = torch.zeros_like(jacobian)
        fresh = jacobian / (losses + 1e-8).unsqueeze(1)
        beta = 0.9 / self.step**0.25
        self.buffer[part] = fresh[part] + beta * (self.buffer[part] - fresh[part])
        lengths = self.buffer[part].norm(dim=1)
        return (lengths.max() / lengths) @ self.buffer[part]


STEP_SIZE = 0.3
TASKS = 4

METHODS: dict[str, tuple[Callable[[], TrackingMethod], Callable[[int], Naive]]] = {
    "moco": (MoCo, NaiveMoCo),
    "moco_rho": (lambda: MoCo(rho=0.7), lambda tasks: NaiveMoCo(tasks, rho=0.7)),
    "moco_softmax": (
        lambda: MoCo(projection="softmax", rho=0.2),
        lambda tasks: NaiveMoCo(tasks, 0.2, softmax=True),
    ),
    "excess_mtl": (lambda: ExcessMTL(step_size=STEP_SIZE), NaiveExcessMTL),
    "db_mtl": (lambda: DBMTL(beta_sigma=0.25), NaiveDBMTL),
}


@pytest.fixture(params=METHODS)
def both(request: pytest.FixtureRequest) -> tuple[Callable[[], TrackingMethod], Any]:
    return METHODS[request.param]


@pytest.fixture
def make(both: tuple[Callable[[], TrackingMethod], Any]) -> Callable[[], TrackingMethod]:
    return both[0]


def drawn(steps: int, tasks: int = TASKS, size: int = 30) -> list[tuple[Tensor, Tensor]]:
    """Jacobians and losses of some steps."""
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(tasks, size, generator=generator, dtype=torch.float64),
            torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.5,
        )
        for _ in range(steps)
    ]


class TestAgainstDenseMatrices:
    def test_twenty_steps(self, both: Any) -> None:
        method, naive = both[0](), both[1](TASKS)
        for jacobian, losses in drawn(20):
            expected = naive(jacobian, losses, list(range(TASKS)))
            found = mtl_ops.merge(jacobian, method, losses=losses)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    def test_with_absent_tasks(self, both: Any) -> None:
        method, naive = both[0](), both[1](TASKS)
        for step, (jacobian, losses) in enumerate(drawn(20)):
            part = [t for t in range(TASKS) if (step + t) % 3 or t == 0]
            jacobian[[t for t in range(TASKS) if t not in part]] = torch.nan
            expected = naive(jacobian, losses, part)
            found = mtl_ops.merge(
                jacobian,
                method,
                losses=losses,
                task_weights=[1.0 if t in part else 0.0 for t in range(TASKS)],
            )
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    def test_with_clips_and_weights(self, both: Any) -> None:
        """They act on what enters the memory."""
        method, naive = both[0](), both[1](TASKS)
        weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
        for jacobian, losses in drawn(10):
            entering = jacobian.clamp(-1.2, 1.2)
            factors = weights * (3.0 / entering.norm(dim=1)).clamp(max=1.0)
            entering = entering * factors.unsqueeze(1)
            expected = naive(entering, losses, list(range(TASKS)))
            expected = expected * min(1.0, 0.7 / float(expected.norm()))
            options = {"max_task_norm": 3.0, "clip_value": 1.2, "max_norm": 0.7}
            found = mtl_ops.merge(
                jacobian, method, losses=losses, task_weights=weights.tolist(), **options
            )
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)

    def test_in_the_model(self, both: Any) -> None:
        """Shared parameters get what the naive method makes of them, heads their own gradients."""
        net, method, naive = Net(), both[0](), both[1](3)
        optimizer = wrap(net, method, lr=0.02, tasks=NAMES)
        trunk, neck = list(net.trunk.parameters()), list(net.neck.parameters())
        for step in range(6):
            losses = net.losses(batch(step))
            rows = []
            for loss in losses.values():
                grads_ = torch.autograd.grad(
                    loss, [*trunk, *neck], retain_graph=True, materialize_grads=True
                )
                rows.append(torch.cat([g.flatten() for g in grads_]))
            heads = {
                name: torch.autograd.grad(losses[name], net.heads[name].weight, retain_graph=True)[
                    0
                ]
                for name in NAMES
            }
            values = torch.stack([loss.detach().squeeze() for loss in losses.values()])
            expected = naive(torch.stack(rows), values, [0, 1, 2])
            optimizer.zero_grad()
            optimizer.backward(losses)
            found = torch.cat([p.grad.flatten() for p in [*trunk, *neck]])  # type: ignore[union-attr]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
            for name in NAMES:
                # DB-MTL takes logarithms of the losses of heads, too.
                own = losses[name].detach() + 1e-8 if isinstance(method, DBMTL) else 1.0
                torch.testing.assert_close(net.heads[name].weight.grad, heads[name] / own)
            optimizer.step()
        assert len(method.memory) == len(trunk) + len(neck)  # nothing is kept for the heads
        assert method.memory[len(trunk)][0] is None  # nor for a task that does not reach the neck


class TestMemory:
    def test_dtype(self, make: Callable[[], TrackingMethod]) -> None:
        for dtype, kept in [
            (torch.float64, torch.float64),
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float16, torch.float32),
        ]:
            method, exact = make(), make()
            for jacobian, losses in drawn(8):
                rounded = jacobian.to(dtype)
                found = mtl_ops.merge(rounded, method, losses=losses)
                assert found.dtype == dtype
                expected = mtl_ops.merge(rounded.double(), exact, losses=losses)
                # A half's averages are rounded once more, on their way to being merged.
                tolerance = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
                torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=8 * tolerance)
            assert {row.dtype for row in method.memory[0] if row is not None} == {kept}

    def test_is_untouched_by_what_is_not_finite(self, make: Callable[[], TrackingMethod]) -> None:
        steps = drawn(4)
        method, other = make(), make()
        for place, (jacobian, losses) in enumerate(steps):
            if place == 2:
                broken = jacobian.clone()
                broken[1, 3] = torch.inf
                before = method.state_dict()
                before = {**before, "memory": [row.clone() for row in before["memory"][0]]}
                assert mtl_ops.merge(broken, method, losses=losses).isnan().all()
                assert_equal(method.memory[0], before["memory"])
                for name, value in before.items():
                    if isinstance(value, Tensor):
                        assert_equal([getattr(method, name)], [value])
            one = mtl_ops.merge(jacobian, method, losses=losses)
            assert_equal([one], [mtl_ops.merge(jacobian, other, losses=losses)])

    def test_skipped_task_stays(self, make: Callable[[], TrackingMethod]) -> None:
        method, other = make(), make()
        for jacobian, losses in drawn(5):
            broken = jacobian.clone()
            broken[2] = torch.nan
            found = mtl_ops.merge(broken, method, losses=losses, nonfinite="skip_task")
            weights = [1.0, 1.0, 0.0, 1.0]
            expected = mtl_ops.merge(jacobian, other, losses=losses, task_weights=weights)
            assert_equal([found], [expected])
        assert torch.equal(method.memory[0][2], torch.zeros(30, dtype=torch.float64))

    def test_resumes(self, make: Callable[[], TrackingMethod]) -> None:
        assert_resumes(make)
        assert_resumes(make, granularity="group", max_norm=1.0, tasks=NAMES)

    def test_forgets(self, make: Callable[[], TrackingMethod]) -> None:
        assert_forgets(make)

    def test_a_loaded_state_is_a_copy(self, make: Callable[[], TrackingMethod]) -> None:
        (jacobian, losses), (second, _) = drawn(2)
        method, loaded = make(), make()
        mtl_ops.merge(jacobian, method, losses=losses)
        loaded.load_state_dict(method.state_dict())
        kept = [None if row is None else row.clone() for row in loaded.memory[0]]
        mtl_ops.merge(second, method, losses=losses)
        assert_equal(loaded.memory[0], kept)

    def test_other_parameters_are_refused(self, make: Callable[[], TrackingMethod]) -> None:
        method = make()
        mtl_ops.merge(torch.ones(2, 3), method, losses=torch.ones(2))
        with pytest.raises(ValueError, match="should see the same parameters in every step"):
            mtl_ops.merge(torch.ones(2, 4), method, losses=torch.ones(2))
        method.reset()
        mtl_ops.merge(torch.ones(2, 4), method, losses=torch.ones(2))

    def test_any_order_of_dimensions(self, make: Callable[[], TrackingMethod]) -> None:
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(3, 4, 2, 5, generator=generator).to(memory_format=layout)
            x.requires_grad_()
            optimizer = wrap([x], make(), lr=0.1)
            for _ in range(4):
                optimizer.zero_grad()
                optimizer.backward([x.square().mean(), (x - 1).abs().mean(), x.cos().mean() + 2])
                optimizer.step()
            found.append(x.detach().contiguous())
        torch.testing.assert_close(found[0], found[1])


class TestInTheOptimizer:
    def test_segments_are_weighed_by_themselves(self, make: Callable[[], TrackingMethod]) -> None:
        net = Net()
        optimizer = wrap(net, make(), granularity="tensor", tasks=NAMES)
        for step in range(3):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step)))
            optimizer.step()
        weights = optimizer.report.weights
        assert weights is not None
        assert weights.shape == (6, 3)  # of the trunk and of the neck

    def test_grad_scaler(self, make: Callable[[], TrackingMethod]) -> None:
        found = []
        for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0)):
            net = Net(torch.float32)
            optimizer = wrap(net, make(), tasks=NAMES, grad_scaler=scaler, max_norm=0.5)
            for step in range(4):
                optimizer.zero_grad()
                optimizer.backward(net.losses(batch(step, like=net)))
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
            found.append([*net.parameters()])
        assert_same(found[0], found[1], rtol=1e-4, atol=1e-5)

    def test_micro_batches(self, make: Callable[[], TrackingMethod]) -> None:
        found = []
        for parts in (1, 2):
            net = Net()
            optimizer = wrap(net, make(), tasks=NAMES)
            for step in range(3):
                optimizer.zero_grad()
                *first, last = (
                    {k: v / parts for k, v in net.losses(piece).items()}
                    for piece in batch(step).chunk(parts)
                )
                for losses in first:
                    optimizer.accumulate(losses)
                optimizer.backward(last)
                optimizer.step()
            found.append([*net.parameters()])
        assert_same(found[0], found[1], rtol=1e-9, atol=1e-11)

    def test_adds_to_what_is_there(self, make: Callable[[], TrackingMethod]) -> None:
        net, other = Net(), Net()
        one, two = wrap(net, make()), wrap(other, make())
        one.backward(net.losses(batch()))
        two.backward(other.losses(batch()))
        before = [torch.ones_like(param) for param in net.parameters()]
        net2 = Net()
        three = wrap(net2, make())
        for param in net2.parameters():
            param.grad = torch.ones_like(param)
        three.backward(net2.losses(batch()))
        expected = [g + b for g, b in zip(grads(net), before, strict=True)]  # type: ignore[operator]
        assert_same(grads(net2), expected)

    def test_report_is_of_the_gradients_themselves(
        self, make: Callable[[], TrackingMethod]
    ) -> None:
        net, other = Net(), Net()
        one, two = wrap(net, make()), wrap(other, "sum")
        take_steps(net, one, range(1))
        take_steps(other, two, range(1))
        assert one.report.norms is not None
        torch.testing.assert_close(one.report.gram, two.report.gram)

    @pytest.mark.parametrize("options", [{"weights_every": 2}, {"gram_on": "features"}], ids=str)
    def test_needs_every_gradient(
        self, make: Callable[[], TrackingMethod], options: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match="needs only the Gram matrix"):
            wrap(Net(), make(), **options)

    def test_refuses_several_processes(self, make: Callable[[], TrackingMethod]) -> None:
        with pytest.raises(ValueError, match="should be used in a single process"):
            merge_rows(
                Call(
                    make(),
                    Tasks(None, (None, None), part=(True, True), totals=torch.ones(2)),
                    Parameters([torch.zeros(3)]),
                    [1.0, 1.0],
                ),
                [torch.ones(3), torch.ones(3)],
                [torch.zeros(3)],
                Layout(None, (), 1, 1, (True, True), (0,)),
                part=Part(total=lambda gram: gram),
            )


def test_a_wrapped_method_sees_no_gradients() -> None:
    assert not Method.tracks
    assert MoCo.tracks
    assert not DBMTL(beta=0.0).tracks
    assert DBMTL().tracks


class TestMoCo:
    def test_weights_alone(self) -> None:
        gram = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
        weights = MoCo(gamma=0.1).weights(gram)
        torch.testing.assert_close(weights, torch.tensor([0.575, 0.425], dtype=torch.float64))

    def test_validation(self) -> None:
        for beta in (0.0, 1.5):
            with pytest.raises(ValueError, match="Parameter `beta` should be"):
                MoCo(beta=beta)
        for name in ("beta_sigma", "gamma_sigma", "rho"):
            with pytest.raises(ValueError, match=f"`{name}` should not be negative"):
                MoCo(**{name: -1.0})
        with pytest.raises(ValueError, match="`gamma` should be positive"):
            MoCo(gamma=0.0)
        with pytest.raises(ValueError, match="`projection` should be one of"):
            MoCo(projection="ball")  # type: ignore[arg-type]


class Counting(TorchDispatchMode):
    """How many operators that compute something are called, inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += not func.is_view
        return func(*args, **(kwargs or {}))


class TestExcessMTL:
    def test_whole_lists_answer_what_pieces_do(self) -> None:
        """A GPU's way, in as many calls for 40 parameters as for one; of a factor 0 nothing is read."""
        tasks, count = 3, 40
        segments = [p % 2 for p in range(count)]
        factors = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        kinds = [torch.float32, torch.bfloat16, torch.float64]
        rows: list[Tensor | None] = [
            torch.randn(5, 3, generator=generator).to(kinds[k % count % 3])
            for k in range(tasks * count)
        ]
        rows[7] = None
        rows[-2] = torch.full((5, 3), torch.nan, dtype=kinds[(count - 2) % 3])
        wide = [
            None if row is None else torch.double if row.dtype == torch.double else torch.float
            for row in rows
        ]
        totals = [None if kind is None else torch.full((5, 3), 0.3, dtype=kind) for kind in wide]
        copies = [None if total is None else total.clone() for total in totals]
        expected = _add_up_pieces(rows, totals, factors, segments)
        with Counting() as counting:
            found = _add_up_lists(rows, copies, factors, segments)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(copies, totals, rtol=1e-6, atol=0.0)
        assert (found[:, :2] > 0).all()
        converted = sum(row is not None and row.dtype == torch.bfloat16 for row in rows)
        made = sum(row is not None for row in rows)  # memory, which no kernel fills
        assert counting.calls <= converted + made + 10 * tasks

    def test_given_excess(self) -> None:
        method = ExcessMTL(step_size=1.0)
        gram = torch.eye(2)
        first = method.weights(gram, excess=torch.tensor([1.0, 2.0]))
        assert first.tolist() == [1.0, 1.0]
        second = method.weights(gram, excess=torch.tensor([1.0, 1.0]))
        expected = 2 * torch.tensor([1.0, 0.5], dtype=torch.float64).softmax(dim=0)
        torch.testing.assert_close(second, expected)
        with pytest.raises(ValueError, match="`excess` should have shape"):
            method.weights(gram, excess=torch.ones(3))

    def test_a_task_that_starts_at_zero_counts_as_done(self) -> None:
        method = ExcessMTL(step_size=1.0)
        method.weights(torch.eye(2), excess=torch.tensor([0.0, 2.0]))
        weights = method.weights(torch.eye(2), excess=torch.tensor([5.0, 2.0]))
        expected = 2 * torch.tensor([0.0, 1.0], dtype=torch.float64).softmax(dim=0)
        torch.testing.assert_close(weights, expected)

    def test_agrees_with_torchjd_from_the_second_step_on(self) -> None:
        """But for the first step, which TorchJD takes with what is not a ratio yet, and the sum."""
        aggregation = pytest.importorskip("torchjd.aggregation")
        peer, method = aggregation.ExcessMTL(robust_step_size=0.1), ExcessMTL(step_size=0.1)
        start: Tensor | None = None
        for jacobian, _ in drawn(6):
            merged = peer(jacobian)
            theirs = torch.linalg.lstsq(jacobian.T, merged.unsqueeze(1)).solution.squeeze(1)
            ours = torch.linalg.lstsq(
                jacobian.T, mtl_ops.merge(jacobian, method).unsqueeze(1)
            ).solution.squeeze(1)
            if start is None:
                start = theirs
                continue
            expected = theirs / start
            torch.testing.assert_close(ours, TASKS * expected / expected.sum(), rtol=1e-5, atol=0.0)

    def test_many_elements(self) -> None:
        """More than are looked at in one piece."""
        jacobian = torch.randn(2, 200_001, generator=torch.Generator().manual_seed(0))
        method, naive = ExcessMTL(step_size=STEP_SIZE), NaiveExcessMTL(2)
        for factor in (1.0, 2.0, 0.1):
            scaled = jacobian * torch.tensor([[1.0], [factor]])
            expected = naive(scaled.double(), torch.ones(2), [0, 1])
            found = mtl_ops.merge(scaled, method)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)

    def test_validation(self) -> None:
        with pytest.raises(ValueError, match="`step_size` should be positive"):
            ExcessMTL(step_size=0.0)
        with pytest.raises(TypeError, match="needs the gradients themselves"):
            ExcessMTL().weights(torch.eye(2))
        with pytest.raises(TypeError, match="Found `orders`"):
            ExcessMTL().weights(torch.eye(2), orders=torch.eye(2))


class TestDBMTL:
    @pytest.mark.parametrize(
        ("beta", "options"),
        [
            (0.9, {}),
            (0.9, {"max_norm": 1e6}),
            (0.0, {}),
            (0.0, {"memory": "stream"}),
            (0.0, {"gram_on": "features"}),
            (0.0, {"weights_every": 2}),
        ],
        ids=str,
    )
    def test_heads_descend_on_log_losses(self, beta: float, options: dict[str, Any]) -> None:
        net = Net()
        optimizer = wrap(net, DBMTL(beta=beta), **options)
        features = net.trunk(batch())
        narrow = net.neck(features)
        ends = {"a": features, "b": narrow, "c": narrow}
        losses = {name: (net.heads[name](ends[name]) - 2).square().mean() for name in NAMES}
        heads = [p for name in NAMES for p in net.heads[name].parameters()]
        logs = torch.stack([(loss + 1e-8).log() for loss in losses.values()]).sum()
        expected = torch.autograd.grad(logs, heads, retain_graph=True)
        optimizer.backward(losses, features=[features, narrow] if options.get("gram_on") else None)
        assert_same([head.grad for head in heads], expected)

    def test_without_average(self) -> None:
        method = DBMTL(beta=0.0)
        for jacobian, losses in drawn(3):
            lengths = jacobian.norm(dim=1)
            expected = (lengths / (losses + 1e-8)).max() / lengths
            found = mtl_ops.merge(jacobian, method, losses=losses)
            torch.testing.assert_close(found, expected @ jacobian)
        assert not method.memory

    @pytest.mark.parametrize("beta", [0.0, 0.9])
    def test_weighted_averages_have_one_length(self, beta: float) -> None:
        method = DBMTL(beta=beta)
        for jacobian, losses in drawn(3):
            _, weights = mtl_ops.merge(jacobian, method, losses=losses, return_weights=True)
            rows = jacobian if beta == 0.0 else torch.stack(method.memory[0])  # type: ignore[arg-type]
            lengths = weights * rows.norm(dim=1)
            torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))

    @pytest.mark.parametrize("beta", [0.0, 0.9])
    def test_losses_without_logarithm(self, beta: float) -> None:
        method = DBMTL(beta=beta)
        assert mtl_ops.merge(torch.eye(2), method, losses=torch.tensor([1.0, -1.0])).isnan().all()
        assert all(not row.any() for rows in method.memory.values() for row in rows)  # type: ignore[union-attr]
        zero = mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), method, losses=torch.ones(2))
        assert zero.isfinite().all()
        assert zero[1] == 0.0

    def test_validation(self) -> None:
        with pytest.raises(ValueError, match=r"`beta` should be in \[0, 1\)"):
            DBMTL(beta=1.0)
        with pytest.raises(ValueError, match="`beta_sigma` should not be negative"):
            DBMTL(beta_sigma=-0.5)
        for beta in (0.0, 0.9):
            with pytest.raises(TypeError, match="needs the losses"):
                mtl_ops.merge(torch.eye(2), DBMTL(beta=beta))
