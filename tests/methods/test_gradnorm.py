"""GradNorm."""

from __future__ import annotations

import pytest
import torch
from matrices import cases, make
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

import mtl_ops
from mtl_ops.methods import GradNorm


def drawn(tasks: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(tasks, generator=g, dtype=torch.float64) + 0.1


def objective(s: Tensor, norms: Tensor, ratios: Tensor, alpha: float) -> Tensor:
    """``Σ |w_i n_i - N_i|`` with N held fixed."""
    weighted = len(s) * s.softmax(dim=0) * norms / norms.mean()
    wanted = weighted.mean() * (ratios / ratios.mean()) ** alpha
    return (weighted - wanted.detach()).abs().sum()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_steps_down_the_objective(alpha: float) -> None:
    for case in cases(["random", "graded", "conflict", "zero_row"], sizes=(1, 2, 3, 8), seeds=4):
        n = case.jacobian.norm(dim=1)
        if not n.any():
            continue
        method, s = GradNorm(alpha=alpha, lr=0.3), torch.zeros(case.tasks, dtype=torch.float64)
        first = drawn(case.tasks, 0)
        for call in range(4):
            losses = first if call == 0 else drawn(case.tasks, call)
            w = method.weights(case.gram[0], losses)
            assert torch.allclose(w, case.tasks * s.softmax(dim=0), rtol=1e-12)
            s.requires_grad_()
            (slope,) = torch.autograd.grad(objective(s, n, losses / first, alpha), s)
            s = s.detach() - 0.3 * slope


def test_tasks_end_with_the_same_weighted_norm() -> None:
    rows = torch.diag(torch.tensor([5.0, 1.0, 0.2], dtype=torch.float64))
    method = GradNorm(alpha=0.0, lr=5e-3)
    for _ in range(2000):
        w = method.weights(rows @ rows.T, torch.ones(3))
    assert torch.allclose(w * rows.diagonal(), (w * rows.diagonal()).mean(), rtol=0.05)


def test_a_task_that_lags_gets_more() -> None:
    method = GradNorm(lr=0.1)
    losses = torch.ones(3)
    for call in range(100):
        w = method.weights(torch.eye(3), losses)
        losses = torch.tensor([0.99**call, 0.98**call, 1.0])
    assert w[2] > w[0] > w[1]
    assert float(w.sum()) == pytest.approx(3)


def test_the_size_of_all_gradients_does_not_matter() -> None:
    gram, losses = make("random", 4, 0).gram[0], drawn(4, 0)
    for factor in (1e-24, 1e18):
        methods = GradNorm(), GradNorm()
        for call in range(5):
            now = losses * 0.9**call + 0.1 * drawn(4, call)
            w, v = methods[0].weights(gram, now), methods[1].weights(factor * gram, now)
            assert torch.allclose(w, v, rtol=1e-12)


def test_initial_losses_can_be_handed_in() -> None:
    gram = make("random", 3, 0).gram[0]
    usual, told = GradNorm(), GradNorm()
    usual.weights(gram, drawn(3, 0))
    usual.weights(gram, drawn(3, 1))
    told.weights(gram, drawn(3, 0))
    told.weights(gram, drawn(3, 1), initial_losses=drawn(3, 0))
    assert torch.equal(usual.weights(gram, drawn(3, 2)), told.weights(gram, drawn(3, 2)))
    other = GradNorm()
    other.weights(gram, drawn(3, 0), initial_losses=drawn(3, 5))
    assert not torch.equal(other.logits, GradNorm().logits or torch.zeros(3))
    assert torch.equal(other.initial_losses, drawn(3, 0))


class TestAbsentTasks:
    GRAM = torch.diag(torch.tensor([4.0, 1.0, 9.0], dtype=torch.float64)).unsqueeze(0)

    def test_get_nothing_and_keep_their_memory(self) -> None:
        method = GradNorm(lr=0.1)
        scale = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
        losses = torch.tensor([1.0, 2.0, torch.nan])
        for _ in range(3):
            w = method.solve(self.GRAM, scale, losses)
        assert w[0, 2] == 0
        assert float(w.sum()) == pytest.approx(2)
        assert method.logits[2] == 0
        assert method.initial_losses[2].isnan()
        two = GradNorm(lr=0.1)
        for _ in range(3):
            v = two.weights(self.GRAM[0, :2, :2], losses[:2])
        assert torch.allclose(w[0, :2], v, rtol=1e-14)

    def test_start_when_they_come(self) -> None:
        method = GradNorm(lr=0.1)
        part = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
        method.solve(self.GRAM, part, torch.tensor([1.0, 2.0, torch.nan]))
        method.solve(self.GRAM, torch.ones_like(part), torch.tensor([0.5, 1.0, 7.0]))
        assert method.initial_losses.tolist() == [1.0, 2.0, 7.0]

    def test_scales_of_the_gradients_count(self) -> None:
        scale = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
        scaled = scale.T * self.GRAM[0] * scale
        losses = torch.ones(3)
        one, other = GradNorm(), GradNorm()
        for _ in range(4):
            w, v = one.solve(self.GRAM, scale, losses), other.weights(scaled, losses)
        assert torch.allclose(w[0], scale[0] * v, rtol=1e-14)


class TestDegenerate:
    def test_zero_gradients(self) -> None:
        method = GradNorm()
        for _ in range(2):
            w = method.weights(torch.zeros(3, 3), torch.ones(3))
        assert w.tolist() == pytest.approx([1, 1, 1], rel=1e-15)

    def test_a_loss_that_began_at_zero(self) -> None:
        method = GradNorm()
        for losses in ([0.0, 1.0], [3.0, 0.5]):
            w = method.weights(torch.eye(2), torch.tensor(losses))
        assert w.isfinite().all()
        assert method.logits.isfinite().all()

    @pytest.mark.parametrize("bad", ["loss", "gradient", "negative"])
    def test_what_is_not_finite_is_nan_and_is_not_remembered(self, bad: str) -> None:
        method, gram = GradNorm(), torch.eye(2, dtype=torch.float64)
        method.weights(gram, torch.tensor([1.0, 2.0]))
        kept = method.logits.clone()
        losses = torch.tensor([1.0, 1.0])
        if bad == "gradient":
            gram = gram * torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])
        else:
            losses[0] = -1.0 if bad == "negative" else torch.nan
        assert method.weights(gram, losses).isnan().all()
        assert torch.equal(method.logits, kept)

    def test_several_sets_of_parameters_count_together(self) -> None:
        gram = make("random", 3, 0).gram
        halves = torch.cat([0.25 * gram, 0.75 * gram])
        one, two = GradNorm(), GradNorm()
        for call in range(3):
            w, v = one.weights(gram[0], drawn(3, call)), two.weights(halves, drawn(3, call))
        assert v.shape == (2, 3)
        assert torch.allclose(v, w.expand(2, 3), rtol=1e-13)


def test_state_survives_a_file() -> None:
    gram = make("random", 3, 0).gram[0]
    method, other = GradNorm(), GradNorm()
    assert method.state_dict() == {"logits": None, "initial_losses": None}
    method.weights(gram, drawn(3, 0))
    method.weights(gram, drawn(3, 1))
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    expected = method.weights(gram, drawn(3, 2))
    assert torch.equal(other.weights(gram, drawn(3, 2)), expected)
    other.reset()
    assert other.weights(gram, drawn(3, 2)).tolist() == pytest.approx([1, 1, 1])


def test_training_resumes_and_forgets() -> None:
    assert_resumes(GradNorm)
    assert_forgets(lambda: GradNorm(lr=0.2))


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"alpha": -1.0}, ValueError, "`alpha` should not be negative. Found"),
        ({"lr": 0}, ValueError, "`lr` should be positive. Found `lr = 0`"),
        ({"lr": "slow"}, TypeError, "`lr` should be a positive number. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("gradnorm", **params)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="needs the losses"):
        mtl_ops.merge(torch.eye(2), "gradnorm")
    with pytest.raises(TypeError, match=r"should be given `initial_losses`\. Found `draws`"):
        GradNorm().weights(torch.eye(2), torch.ones(2), draws=torch.ones(2))
    method = GradNorm()
    method.weights(torch.eye(2), torch.ones(2))
    with pytest.raises(
        ValueError, match=r"the same tasks .*`reset\(\)` forgets them.*after \(2,\)"
    ):
        method.weights(torch.eye(3), torch.ones(3))
