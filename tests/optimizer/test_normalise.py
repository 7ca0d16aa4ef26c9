"""``normalise`` and ``keep_scale``: gradients divided by their lengths and losses before they are weighed."""

from __future__ import annotations

import itertools
from typing import Any

import naive
import pytest
import torch
from matrices import cases, make, norms
from multitask import (
    NAMES,
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    grads,
    through,
    wrap,
)
from multitask import method as made
from torch import Tensor

import mtl_ops
from mtl_ops import MultiTaskOptimizer

CHOICES = ("l2", "loss", "loss+")


def weighs_gradients(name: str) -> bool:
    return made(name).needs == "gram" and not made(name).tracks


def divided(
    rows: Tensor, losses: Tensor, normalise: str, keep_scale: bool = False
) -> tuple[Tensor, Tensor]:
    """The rows divided as the option says, and the factors, written down plainly."""
    lengths = rows.norm(dim=1)
    factors = torch.ones_like(losses)
    if normalise in ("l2", "loss+"):
        factors = torch.where(lengths > 0, 1 / lengths, factors)
    if normalise in ("loss", "loss+"):
        factors = factors / losses
    some = lengths > 0
    if keep_scale and some.any():
        factors = factors * lengths[some].mean() / (factors * lengths)[some].mean()
    return factors.unsqueeze(1) * rows, factors


def some_losses(tasks: int) -> Tensor:
    return torch.linspace(0.3, 4.0, tasks, dtype=torch.float64)


@pytest.mark.parametrize("normalise", CHOICES)
@pytest.mark.parametrize("name", [*filter(weighs_gradients, every_method())])
def test_every_method_of_gradients_sees_the_divided_ones(name: str, normalise: str) -> None:
    rows, losses = make("conflict", 3, 0).jacobian, some_losses(3)
    for keep_scale in (False, True):
        orders = torch.tensor([[1, 2, 0], [2, 0, 1], [1, 0, 2]])
        drawn = {"pcgrad": {"orders": orders}, "gradvac": {"orders": orders}}
        given = {**drawn, "online_pcgrad": {"order": orders[0]}}.get(name, {})
        wanted = mtl_ops.merge(
            divided(rows, losses, normalise, keep_scale)[0], made(name), losses=losses, **given
        )
        found = mtl_ops.merge(
            rows, made(name), losses=losses, normalise=normalise, keep_scale=keep_scale, **given
        )
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


class TestOnHardMatrices:
    @pytest.mark.parametrize("keep_scale", [False, True])
    @pytest.mark.parametrize("normalise", CHOICES)
    def test_rows_are_divided(self, normalise: str, keep_scale: bool) -> None:
        for case in cases(sizes=(1, 2, 5, 64), seeds=1):
            losses = some_losses(case.tasks)
            options: dict[str, Any] = {"normalise": normalise, "keep_scale": keep_scale}
            merged, weights = mtl_ops.merge(
                case.jacobian, "sum", losses=losses, return_weights=True, **options
            )
            rows, factors = divided(case.jacobian, losses, normalise, keep_scale)
            assert weights.isfinite().all(), str(case)
            torch.testing.assert_close(weights, factors, rtol=1e-9, atol=0.0, msg=str(case))
            size = float(rows.norm(dim=1).sum())
            torch.testing.assert_close(merged, rows.sum(dim=0), rtol=1e-9, atol=1e-12 * size)

    @pytest.mark.parametrize(
        "name", ["mgda", "upgrad", "pcgrad", "cagrad", "dualproj", "aligned_mtl"]
    )
    def test_lengths_do_not_matter_to_l2(self, name: str) -> None:
        """``w ∘ n`` is the same when a gradient is multiplied by a positive number."""
        for case in cases(["random", "conflict", "graded", "dominated"], sizes=(2, 5, 8), seeds=2):
            factors = 10.0 ** torch.linspace(-6, 6, case.tasks, dtype=torch.float64)
            given = {}
            if name == "pcgrad":
                given["orders"] = torch.arange(case.tasks).repeat(case.tasks, 1)
            found = []
            for rows in (case.jacobian, factors.unsqueeze(1) * case.jacobian):
                method = made(name)
                _, w = mtl_ops.merge(rows, method, normalise="l2", return_weights=True, **given)
                found.append(w * rows.norm(dim=1))
            torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7, msg=str(case))

    def test_losses_and_lengths_together_and_apart_do_not_matter_to_loss_plus(self) -> None:
        case, losses = make("conflict", 4, 0), some_losses(4)
        factors = torch.tensor([1e-3, 1.0, 7.0, 1e4], dtype=torch.float64)
        _, w = mtl_ops.merge(
            case.jacobian, "mgda", losses=losses, normalise="loss+", return_weights=True
        )
        longer = factors.unsqueeze(1) * case.jacobian
        _, v = mtl_ops.merge(longer, "mgda", losses=losses, normalise="loss+", return_weights=True)
        torch.testing.assert_close(v * factors, w, rtol=1e-8, atol=0.0)


class TestIdentities:
    def test_nash_does_not_see_l2_and_only_the_length_of_config_and_imtl_g_does(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2, 4, 8), seeds=2):
            rows = case.jacobian
            nash = mtl_ops.methods.NashMTL(max_norm=1e9)
            plain, unit = mtl_ops.merge(rows, nash), mtl_ops.merge(rows, nash, normalise="l2")
            torch.testing.assert_close(unit, plain, rtol=1e-6, atol=1e-7 * float(plain.norm()))
            for name in ("config", "imtl_g"):
                plain, unit = mtl_ops.merge(rows, name), mtl_ops.merge(rows, name, normalise="l2")
                cosine = torch.cosine_similarity(plain, unit, dim=0)
                torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-8, atol=0.0)

    def test_a_sum_of_two_is_config(self) -> None:
        """For two tasks all weigh each gradient by the mean length over its own."""
        for case in cases(["random", "graded", "shared_direction"], sizes=(2,), seeds=5):
            n = norms(case.jacobian)
            _, w = mtl_ops.merge(
                case.jacobian, "sum", normalise="l2", keep_scale=True, return_weights=True
            )
            torch.testing.assert_close(w, n.mean() / n)
            torch.testing.assert_close(mtl_ops.methods.ConFIG().weights(case.gram[0]), w)

    def test_keep_scale_changes_nothing_for_equal_lengths_and_keeps_the_degree(self) -> None:
        rows = torch.nn.functional.normalize(make("conflict", 4, 0).jacobian) * 3.0
        kept: dict[str, Any] = {"normalise": "l2", "keep_scale": True}
        torch.testing.assert_close(mtl_ops.merge(rows, "upgrad", **kept), mtl_ops.merge(rows))
        rows = make("graded", 4, 0).jacobian
        once, ten = (mtl_ops.merge(k * rows, "upgrad", **kept) for k in (1.0, 10.0))
        torch.testing.assert_close(ten, 10 * once)
        equal = torch.full(
            (4,), 0.2, dtype=torch.float64
        )  # losses alone change nothing then, either
        kept = {"normalise": "loss", "keep_scale": True, "losses": equal}
        torch.testing.assert_close(mtl_ops.merge(rows, "mgda", **kept), mtl_ops.merge(rows, "mgda"))

    def test_weights_of_tasks_are_factors_of_what_is_normalised(self) -> None:
        rows = make("random", 3, 0).jacobian
        weights = [2.0, 0.0, 0.5]
        found = mtl_ops.merge(rows, "sum", normalise="l2", task_weights=weights)
        wanted = 2.0 * rows[0] / rows[0].norm() + 0.5 * rows[2] / rows[2].norm()
        torch.testing.assert_close(found, wanted)
        clipped = mtl_ops.merge(
            rows, "sum", normalise="l2", task_weights=weights, max_task_norm=0.1
        )
        torch.testing.assert_close(clipped, wanted)


class TestDegenerate:
    @pytest.mark.parametrize("normalise", CHOICES)
    def test_zero_gradients_stay(self, normalise: str) -> None:
        rows = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
        options: dict[str, Any] = {"normalise": normalise, "losses": torch.ones(2)}
        for keep_scale in (False, True):
            _, w = mtl_ops.merge(
                rows, "mgda", keep_scale=keep_scale, return_weights=True, **options
            )
            assert w[0] == 0  # the zero vector is the shortest of the hull, as without
            assert w[1] > 0
            nothing = mtl_ops.merge(0 * rows, "mean", keep_scale=keep_scale, **options)
            assert not nothing.any()

    @pytest.mark.parametrize("loss", [0.0, -1.0, torch.nan, -torch.inf])
    @pytest.mark.parametrize("name", ["sum", "upgrad", "mgda", "config"])
    def test_a_loss_that_is_not_positive_is_nan(self, name: str, loss: float) -> None:
        losses = torch.tensor([1.0, loss, 2.0])
        for normalise in ("loss", "loss+"):
            rows = make("random", 3, 0).jacobian
            assert mtl_ops.merge(rows, name, losses=losses, normalise=normalise).isnan().all()
        assert mtl_ops.merge(rows, name, losses=losses, normalise="l2").isfinite().all()

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_gradient_that_is_not_finite_is_not_left_out(self, value: float) -> None:
        rows = make("random", 3, 0).jacobian.clone()
        rows[1, 0] = value
        for normalise in CHOICES:
            options: dict[str, Any] = {"normalise": normalise, "losses": torch.ones(3)}
            assert mtl_ops.merge(rows, "upgrad", **options).isnan().all()
            rest = mtl_ops.merge(rows, "sum", nonfinite="skip_task", **options)
            torch.testing.assert_close(
                rest, mtl_ops.merge(rows[::2], "sum", normalise=normalise, losses=torch.ones(2))
            )

    @pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step"])
    def test_the_step_is_left_out(self, nonfinite: Any) -> None:
        net = Net()
        optimizer = wrap(net, "upgrad", normalise="loss", nonfinite=nonfinite)
        before = [param.detach().clone() for param in net.parameters()]
        losses = net.losses(batch())
        optimizer.backward({**losses, "b": losses["b"] - losses["b"].detach()})
        optimizer.step()
        assert_equal([param.detach() for param in net.parameters()], before)

    def test_losses_are_needed(self) -> None:
        with pytest.raises(TypeError, match="Parameter `losses` should be given with `normalise ="):
            mtl_ops.merge(torch.eye(2), "sum", normalise="loss")

    @pytest.mark.parametrize("name", ["equal", "dwa", "moco", "graddrop", "median"])
    def test_methods_that_do_not_weigh_gradients_refuse(self, name: str) -> None:
        text = (
            f"`normalise` should be 'none' with method '{name}', which does not weigh the gradients"
        )
        with pytest.raises(ValueError, match=text):
            mtl_ops.merge(torch.eye(2), name, losses=torch.ones(2), normalise="l2")
        with pytest.raises(ValueError, match=text):
            wrap(Net(), name, normalise="l2")
        net = Net()
        with pytest.raises(ValueError, match=text):
            mtl_ops.backward(net.losses(batch()), net.parameters(), name, normalise="l2")


# ---- in training: the naive loop, in all ways of taking a step --------------------------------------


def naively(normalise: str, keep_scale: bool, **options: Any) -> list[Tensor | None]:
    """The merged gradients of the mean of divided gradients, by the naive loop."""
    net = Net()
    losses = through(net, batch())[1]
    values = torch.stack([loss.detach() for loss in losses.values()])

    def rule(rows: Tensor, places: Any) -> Tensor:
        return divided(rows, values[list(places)], normalise, keep_scale)[0].mean(dim=0)

    return naive.merged_gradients(list(losses.values()), [*net.parameters()], rule, **options)


def trained(**options: Any) -> tuple[Net, MultiTaskOptimizer]:
    net = Net()
    optimizer = wrap(net, "mean", **options)
    features, losses = through(net, batch())
    taken = features if options.get("gram_on") == "features" else None
    optimizer.backward(losses, features=taken)
    scaler = options.get("grad_scaler")
    if scaler is not None:
        scaler.unscale_(optimizer)
    return net, optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": "stream"},
        {"memory": "stream", "nonfinite": "propagate"},
        {"batched": True},
        {"gradients": "factored"},
        {"grad_dtype": torch.float64},
        {"max_norm": 0.05},
        {"weights_every": 3},
        {"grad_scaler": "SCALER"},
        {"nonfinite": "raise"},
    ],
    ids=str,
)
def test_every_way_of_taking_a_step(options: dict[str, Any]) -> None:
    for normalise, keep_scale in itertools.product(CHOICES, (False, True)):
        options = dict(options)
        if "grad_scaler" in options:
            options["grad_scaler"] = torch.amp.GradScaler("cpu", init_scale=8.0)
        net, _ = trained(normalise=normalise, keep_scale=keep_scale, **options)
        limits = {"max_norm": 0.05} if "max_norm" in options else {}
        assert_same(grads(net), naively(normalise, keep_scale, **limits), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("memory", [None, "stream"])
@pytest.mark.parametrize("nonfinite", ["skip_task", "propagate"])
def test_each_set_by_itself(memory: Any, nonfinite: Any) -> None:
    for normalise, keep_scale in itertools.product(CHOICES, (False, True)):
        options: dict[str, Any] = {"memory": memory, "nonfinite": nonfinite}
        options |= {"normalise": normalise, "keep_scale": keep_scale, "granularity": "tensor"}
        net, _ = trained(**options)
        sets = list(range(len([*net.parameters()])))
        assert_same(grads(net), naively(normalise, keep_scale, sets=sets), rtol=1e-6, atol=1e-9)


def test_micro_batches_are_divided_when_all_are_there() -> None:
    net, other = Net(), Net()
    optimizer = wrap(net, "mean", normalise="loss+")
    whole = through(other, batch())[1]
    optimizer.accumulate({name: loss / 4 for name, loss in through(net, batch())[1].items()})
    optimizer.backward({name: 3 * loss / 4 for name, loss in through(net, batch())[1].items()})
    wrap(other, "mean", normalise="loss+").backward(whole)
    assert_same(grads(net), grads(other), rtol=1e-9, atol=1e-12)


def test_known_weights_of_micro_batches_are_not_divided_again() -> None:
    net, other = Net(), Net()
    optimizer = wrap(net, "mean", normalise="l2", weights_every=2)
    halves = [{name: x / 2 for name, x in through(net, batch())[1].items()} for _ in range(2)]
    optimizer.accumulate(halves[0])
    optimizer.backward(halves[1])
    first = {name: loss / 2 for name, loss in through(other, batch())[1].items()}
    wrap(other, "mean", normalise="l2").backward(first)  # its weights are those of both halves
    twice = [p.grad if p.grad is None else 2 * p.grad for p in other.parameters()]
    assert_same(grads(net), twice, rtol=1e-9, atol=1e-12)


def test_at_the_features_lengths_are_of_their_gradients() -> None:
    _net, optimizer = trained(normalise="l2", gram_on="features")
    report = optimizer.report
    assert report.weights is not None
    assert report.gram is not None
    torch.testing.assert_close(report.weights * report.norms, torch.full((1, 3), 1 / 3).double())


def test_absent_tasks_and_heads() -> None:
    net = Net()
    optimizer = wrap(net, "sum", normalise="loss+", keep_scale=True, tasks=NAMES)
    losses = net.losses(batch())
    head = torch.autograd.grad(losses["c"], net.heads["c"].weight, retain_graph=True)[0]
    trunk = net.trunk[0].weight
    shared = [p for n, p in net.named_parameters() if not n.startswith(("heads.", "neck."))]
    own = {n: torch.autograd.grad(losses[n], shared, retain_graph=True) for n in "ac"}
    optimizer.backward({**losses, "b": None})
    torch.testing.assert_close(net.heads["c"].weight.grad, head)  # its own, as ever
    rows = torch.stack([torch.cat([g.flatten() for g in own[name]]) for name in "ac"])
    values = torch.stack([losses[name].detach() for name in "ac"])
    wanted = divided(rows, values, "loss+", keep_scale=True)[0].sum(dim=0)
    torch.testing.assert_close(trunk.grad.flatten(), wanted[: trunk.numel()])
    assert optimizer.report.weights is not None
    assert optimizer.report.weights[0, 1] == 0


def test_the_function_takes_it_too() -> None:
    net, other = Net(), Net()
    mtl_ops.backward(through(net, batch())[1], net.parameters(), "mean", normalise="loss+")
    wrap(other, "mean", normalise="loss+").backward(through(other, batch())[1])
    assert_equal(grads(net), grads(other))
