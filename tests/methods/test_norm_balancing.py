"""Norm balancing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make, norms
from multitask import Net, assert_same, batch, grads, wrap
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

import mtl_ops
from mtl_ops.methods import ConFIG, NormBalancing


def some_losses(tasks: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1


def updated(
    balance: list[float], norms: list[float], losses: list[float], **params: Any
) -> list[float]:
    """One update of λ, written down for plain numbers."""
    kind, target = params.get("measure", "norm"), params.get("target", "mean")
    power = {"norm": (1, 0.0), "ntk": (2, 1.0), "ntk_sqrt": (1, 0.5)}[kind]
    q = [n ** power[0] / x ** power[1] for n, x in zip(norms, losses, strict=True)]
    there = [x for x in q if x > 0]
    if not there:
        return balance
    goal = {
        "mean": sum(there) / len(there),
        "sum": sum(there),
        "reference": q[params.get("reference", 0)],
    }[target]
    beta = params.get("momentum", 0.9)
    if goal == 0:
        return balance
    return [
        beta * b + (1 - beta) * goal / x if x > 0 else b for b, x in zip(balance, q, strict=True)
    ]


@pytest.mark.parametrize("measure", ["norm", "ntk", "ntk_sqrt"])
@pytest.mark.parametrize("target", ["mean", "sum", "reference"])
def test_formula_on_hard_matrices(measure: Any, target: Any) -> None:
    for case in cases(sizes=(1, 2, 5, 64), seeds=1):
        params: dict[str, Any] = {"measure": measure, "target": target, "momentum": 0.6}
        params["reference"] = case.tasks // 2
        method, expected = NormBalancing(**params), [1.0] * case.tasks
        n = norms(case.jacobian).tolist()
        for call in range(3):
            losses = some_losses(case.tasks, call)
            w = method.weights(case.gram[0], losses)
            expected = updated(expected, n, losses.tolist(), **params)
            wanted = torch.tensor(expected, dtype=torch.float64)
            torch.testing.assert_close(w, wanted, rtol=1e-9, atol=0.0, msg=str(case))
            assert (w > 0).all()


class TestIdentities:
    def test_two_tasks_without_momentum_are_config(self) -> None:
        for case in cases(["random", "graded", "shared_direction"], sizes=(2,), seeds=5):
            w = NormBalancing(momentum=0.0).weights(case.gram[0])
            torch.testing.assert_close(w, ConFIG().weights(case.gram[0]))

    def test_without_momentum_it_is_a_sum_of_normalised_gradients(self) -> None:
        rows = make("graded", 5, 0).jacobian
        found = mtl_ops.merge(rows, NormBalancing(momentum=0.0))
        torch.testing.assert_close(
            found, mtl_ops.merge(rows, "sum", normalise="l2", keep_scale=True)
        )

    @pytest.mark.parametrize("measure", ["norm", "ntk", "ntk_sqrt"])
    def test_without_momentum_all_weighted_measures_are_the_same(self, measure: Any) -> None:
        case, losses = make("graded", 6, 0), some_losses(6)
        w = NormBalancing(measure=measure, momentum=0.0).weights(case.gram[0], losses)
        n = norms(case.jacobian)
        q = {"norm": n, "ntk": n.square() / losses, "ntk_sqrt": n / losses.sqrt()}[measure]
        torch.testing.assert_close(w * q, (w * q).mean().expand(6))

    def test_the_size_of_all_gradients_does_not_matter(self) -> None:
        case = make("conflict", 4, 0)
        one, other = NormBalancing(), NormBalancing()
        for factor in (1e-12, 1.0, 1e12):
            w, v = one.weights(case.gram[0]), other.weights(factor**2 * case.gram[0])
            torch.testing.assert_close(w, v)

    def test_approaches_the_balance_geometrically(self) -> None:
        case = make("graded", 3, 0)
        settled = NormBalancing(momentum=0.0).weights(case.gram[0])
        method = NormBalancing(momentum=0.8)
        for call in range(1, 30):
            w = method.weights(case.gram[0])
            torch.testing.assert_close(w - settled, 0.8**call * (1 - settled))

    def test_the_ntk_measure_is_a_rayleigh_quotient(self) -> None:
        """For ``L = ½|r|²``: between the extreme eigenvalues of the kernel, up to the factor 2."""
        slopes = torch.randn(7, 20, generator=torch.Generator().manual_seed(0)).double()
        r = torch.randn(7, generator=torch.Generator().manual_seed(1)).double()
        g, loss = slopes.T @ r, r.square().sum() / 2
        rows = torch.stack([g, g])
        method = NormBalancing(measure="ntk", target="sum", momentum=0.0)
        q = 2.0 / method.weights(rows @ rows.T, torch.stack([loss, loss])) * g.square().sum() / loss
        quotient = q.mean() / 2
        low, *_, high = torch.linalg.eigvalsh(slopes @ slopes.T)
        assert low <= quotient <= high
        torch.testing.assert_close(quotient, r @ slopes @ slopes.T @ r / r.square().sum())


def test_every_counts_calls() -> None:
    method, each = NormBalancing(every=3, momentum=0.5), NormBalancing(momentum=0.5)
    found = [method.weights(make("graded", 3, call).gram[0]) for call in range(7)]
    for call in (0, 3, 6):
        torch.testing.assert_close(found[call], each.weights(make("graded", 3, call).gram[0]))
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])
    assert torch.equal(found[5], found[3])


def test_between_updates_the_optimizer_takes_one_backward() -> None:
    """``weights_every``: the merged gradient in between is that of the weighted losses."""
    net = Net()
    optimizer = wrap(net, NormBalancing(momentum=0.5), weights_every=2, lr=0.0)
    optimizer.backward(net.losses(batch(0)))
    optimizer.step()
    weights = optimizer.report.weights
    assert weights is not None
    optimizer.zero_grad()
    hooked: list[Tensor] = []
    net.trunk[0].weight.register_hook(hooked.append)
    optimizer.backward(net.losses(batch(1)))
    optimizer.step()
    assert len(hooked) == 1
    losses = torch.stack(list(net.losses(batch(1)).values()))
    (wanted,) = torch.autograd.grad(weights[0] @ losses, net.trunk[0].weight)
    torch.testing.assert_close(net.trunk[0].weight.grad, wanted)
    optimizer.zero_grad()
    optimizer.backward(net.losses(batch(2)))
    assert len(hooked) == 1 + 1 + 3  # one was of the loss above
    assert not torch.equal(optimizer.report.weights, weights)  # type: ignore[arg-type]


def test_measures_can_be_handed_in() -> None:
    gram = make("random", 3, 0).gram[0]
    method = NormBalancing(momentum=0.0)
    w = method.weights(gram, measures=torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(w, torch.tensor([7 / 3, 7 / 6, 7 / 12], dtype=torch.float64))
    assert method.weights(gram, measures=torch.tensor([1.0, -2.0, 4.0])).isnan().all()
    net = Net()
    optimizer = wrap(net, NormBalancing(momentum=0.0))
    optimizer.backward(net.losses(batch()), measures=torch.tensor([1.0, 2.0, 4.0]))
    assert optimizer.report.weights is not None
    torch.testing.assert_close(optimizer.report.weights[0], w)


class TestDegenerate:
    def test_absent_tasks_keep_theirs(self) -> None:
        case = make("graded", 3, 0)
        method = NormBalancing(momentum=0.5)
        first = method.weights(case.gram[0])
        part = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        spoilt = case.gram.clone()
        spoilt[0, 1] = spoilt[0, :, 1] = torch.nan
        w = method.solve(spoilt, part, None)
        assert w[0, 1] == 0
        assert method.balance is not None
        assert method.balance[1] == first[1]
        two = NormBalancing(momentum=0.5)
        two.load_state_dict({"balance": first[::2], "wait": None})
        torch.testing.assert_close(w[0, ::2], two.weights(case.gram[0, ::2, ::2]))

    def test_zero_gradients_keep_theirs(self) -> None:
        rows = torch.diag(torch.tensor([3.0, 0.0, 1.0]))
        for measure in ("norm", "ntk", "ntk_sqrt"):
            method = NormBalancing(measure=measure, momentum=0.0)  # type: ignore[arg-type]
            w = method.weights(rows @ rows, torch.tensor([1.0, 0.0, 1.0]))
            assert w[1] == 1
            assert w.isfinite().all()
            assert w[0] < w[2]
        assert NormBalancing().weights(torch.zeros(3, 3)).tolist() == [1, 1, 1]

    def test_nothing_changes_without_a_reference(self) -> None:
        rows = torch.diag(torch.tensor([0.0, 2.0, 1.0]))
        method = NormBalancing(target="reference")
        assert method.weights(rows @ rows).tolist() == [1, 1, 1]
        part = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
        gram = torch.eye(3, dtype=torch.float64).unsqueeze(0) * 4
        assert method.solve(gram, part, None).tolist() == [[0, 1, 1]]

    @pytest.mark.parametrize("bad", ["gradient", "loss", "negative", "zero"])
    def test_what_has_no_answer_is_nan_and_is_not_remembered(self, bad: str) -> None:
        method, gram = NormBalancing(measure="ntk", every=2), torch.eye(2, dtype=torch.float64)
        method.weights(4 * gram, torch.tensor([1.0, 2.0]))
        before = {name: value.clone() for name, value in method.state_dict().items()}
        losses = torch.tensor([1.0, 1.0])
        if bad == "gradient":
            gram = gram * torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])
        else:
            losses[0] = {"loss": torch.nan, "negative": -1.0, "zero": 0.0}[bad]
        assert method.weights(gram, losses).isnan().all()
        assert all(torch.equal(value, before[n]) for n, value in method.state_dict().items())

    def test_one_task(self) -> None:
        for target in ("mean", "sum", "reference"):
            method = NormBalancing(target=target, momentum=0.5)  # type: ignore[arg-type]
            assert method.weights(torch.full((1, 1), 9.0)).tolist() == [1.0]

    def test_several_sets_count_together(self) -> None:
        gram = make("graded", 3, 0).gram
        halves = torch.cat([0.25 * gram, 0.75 * gram])
        one, two = NormBalancing(), NormBalancing()
        for _ in range(3):
            w, v = one.weights(gram[0]), two.weights(halves)
        torch.testing.assert_close(v, w.expand(2, 3))


def test_a_scale_is_a_scaled_gradient() -> None:
    case, scale = make("random", 3, 0), torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
    scaled = scale.T * case.gram[0] * scale
    one, other = NormBalancing(), NormBalancing()
    for _ in range(3):
        w, v = one.solve(case.gram, scale, None), other.weights(scaled)
    torch.testing.assert_close(w[0], scale[0] * v)


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    gram = make("graded", 3, 0).gram[0]
    method, other = NormBalancing(every=2), NormBalancing(every=2)
    assert method.state_dict() == {"balance": None, "wait": None}
    method.weights(gram)
    tensors = method.balance, method.wait
    for _ in range(2):
        method.weights(gram)
    assert (method.balance, method.wait)[0] is tensors[0]
    assert method.wait is tensors[1]
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    assert torch.equal(other.weights(gram), method.weights(gram))
    assert torch.equal(other.weights(gram), method.weights(gram))


def test_training_resumes_and_forgets() -> None:
    assert_resumes(lambda: NormBalancing(every=2))
    assert_resumes(lambda: NormBalancing(measure="ntk"))
    assert_forgets(NormBalancing)


def test_takes_part_in_every_step_like_others() -> None:
    net, other = Net(), Net()
    for model, options in ((net, {}), (other, {"memory": "stream"})):
        optimizer = wrap(model, NormBalancing(momentum=0.0), **options)
        optimizer.backward(model.losses(batch()))
    assert_same(grads(net), grads(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"measure": "l2"}, ValueError, "`measure` should be one of 'norm', 'ntk', 'ntk_sqrt'"),
        ({"target": "max"}, ValueError, "`target` should be one of 'mean', 'sum', 'reference'"),
        ({"reference": -1}, ValueError, "`reference` should be at least 0"),
        ({"momentum": 1.0}, ValueError, r"`momentum` should be in \[0, 1\)"),
        ({"every": 0}, ValueError, "`every` should be at least 1"),
        ({"every": 2.0}, TypeError, "`every` should be an integer"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("norm_balancing", **params)


def test_bad_arguments() -> None:
    eye = torch.eye(2)
    with pytest.raises(TypeError, match="needs the losses"):
        mtl_ops.merge(eye, NormBalancing(measure="ntk"))
    with pytest.raises(ValueError, match=r"`measures` should have shape \(2,\)\. Found"):
        NormBalancing().weights(eye, measures=torch.ones(3))
    with pytest.raises(TypeError, match=r"should be given `measures`\. Found `draws`"):
        NormBalancing().weights(eye, draws=torch.ones(2))
    with pytest.raises(ValueError, match=r"number of one of 2 tasks\. Found `reference = 2`"):
        NormBalancing(target="reference", reference=2).weights(eye)
    method = NormBalancing()
    method.weights(eye)
    with pytest.raises(ValueError, match="the same tasks"):
        method.weights(torch.eye(3))
