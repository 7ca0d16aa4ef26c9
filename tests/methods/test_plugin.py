"""A method of a user's own, from its definition to training with it."""

from __future__ import annotations

import pytest
import torch
from multitask import Net, assert_equal, batch, wrap
from resuming import saved_and_loaded, take_steps
from torch import Tensor

import mtl_ops
from mtl_ops.methods import Method


@pytest.fixture
def registered():  # type: ignore[no-untyped-def]
    """The user's twenty lines."""

    @mtl_ops.methods.register("smooth_inverse_norm")
    class SmoothInverseNorm(Method):
        """Weights the gradients by the inverse of a moving average of their norms."""

        uses_losses = False
        state_names = ("norms",)

        def __init__(self, *, beta: float = 0.9) -> None:
            self.beta = beta
            self.norms: Tensor | None = None

        def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
            assert gram is not None
            norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
            if self.norms is None:
                self.norms = norms
            self.norms = self.beta * self.norms + (1 - self.beta) * norms
            return self.norms.reciprocal()

    yield SmoothInverseNorm
    mtl_ops.methods.unregister("smooth_inverse_norm")


def test_is_found_by_name(registered: type[Method]) -> None:
    assert "smooth_inverse_norm" in mtl_ops.methods.available()
    method = mtl_ops.methods.get("smooth_inverse_norm", beta=0.5)
    assert isinstance(method, registered)
    assert repr(method) == "SmoothInverseNorm(beta=0.5)"
    with pytest.raises(TypeError, match="Its parameters: `beta`"):
        mtl_ops.methods.get("smooth_inverse_norm", gamma=0.5)


def test_merges(registered: type[Method]) -> None:
    gradients = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    merged = mtl_ops.merge(gradients, "smooth_inverse_norm")
    torch.testing.assert_close(merged, torch.ones(2))


def test_trains_and_resumes(registered: type[Method]) -> None:
    net = Net()
    optimizer = wrap(net, "smooth_inverse_norm", max_norm=1.0)
    first = net.losses(batch())["a"].item()
    for step in range(5):
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
    state = saved_and_loaded([net.state_dict(), optimizer.state_dict()])
    resumed = Net(seed=1)
    again = wrap(resumed, "smooth_inverse_norm", max_norm=1.0)
    resumed.load_state_dict(state[0])
    again.load_state_dict(state[1])
    for step in range(5, 40):
        for model, wrapper in ((net, optimizer), (resumed, again)):
            wrapper.zero_grad()
            wrapper.backward(model.losses(batch(step)))
            wrapper.step()
    assert_equal(net.parameters(), resumed.parameters())
    assert net.losses(batch())["a"].item() < first


def test_absent_tasks_and_several_segments(registered: type[Method]) -> None:
    net = Net()
    optimizer = wrap(net, registered(beta=0.0), max_task_norm=1.0, max_norm=0.5)
    weights = take_steps(net, optimizer, range(3))
    assert [len(w) for w in weights] == [1, 1, 1]
    assert weights[1][0, 1] == 0.0  # absent
    assert optimizer.report.clip_scale is not None
    by_tensor = wrap(net, registered(), granularity="tensor")
    by_tensor.backward(net.losses(batch()))
    assert by_tensor.report.weights is not None
    assert by_tensor.report.weights.shape == (6, 3)
