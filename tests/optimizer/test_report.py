"""What a step measured and decided."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_same, batch, wrap
from torch import Tensor

from mtl_ops import Report


def rows_of(net: Net, shared_only: bool) -> Tensor:
    """The task gradients as a matrix, of all parameters or of the shared ones."""
    rows = []
    named = [
        (name, param)
        for name, param in net.named_parameters()
        if not (shared_only and name.startswith("heads"))
    ]
    for loss in net.losses(batch(like=net)).values():
        gradients = torch.autograd.grad(
            loss, [param for _, param in named], retain_graph=True, allow_unused=True
        )
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(param).flatten() if g is None else g.flatten()
                    for (_, param), g in zip(named, gradients, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def test_everything_is_what_it_says(device: torch.device) -> None:
    net = Net(device=device)
    optimizer = wrap(net, Fixed(0.5, 2.0, 0.25), max_norm=0.1, task_weights=[1.0, 1.0, 2.0])
    losses = net.losses(batch(like=net))
    shared, whole = rows_of(net, True), rows_of(net, False)
    optimizer.backward(losses)
    report = optimizer.report
    assert report.names == NAMES
    torch.testing.assert_close(report.losses, torch.stack([v.detach() for v in losses.values()]))
    torch.testing.assert_close(report.norms, whole.norm(dim=1))
    torch.testing.assert_close(report.gram, (shared @ shared.T).unsqueeze(0))
    unit = shared / shared.norm(dim=1, keepdim=True)
    torch.testing.assert_close(report.cosines, unit @ unit.T)
    expected = torch.tensor([[0.5, 2.0, 0.5]], dtype=torch.float64, device=device)
    torch.testing.assert_close(report.weights, expected)
    assert report.skipped.tolist() == [False] * 3
    assert report.times_skipped.tolist() == [0] * 3
    for name in ("weights", "gram", "norms", "cosines", "losses", "clip_scale", "skipped"):
        assert getattr(report, name).device.type == device.type, name
    # The clipped norm is what the parameters got.
    total = torch.cat([param.grad.flatten() for param in net.parameters()]).norm()
    assert total.item() == pytest.approx(0.1)
    assert 0 < report.clip_scale.item() < 1


def test_without_a_step_there_is_nothing() -> None:
    report = wrap(Net()).report
    assert isinstance(report, Report)
    for name in ("names", "weights", "gram", "norms", "cosines", "losses", "clip_scale", "skipped"):
        assert getattr(report, name) is None, name


def test_without_max_norm_there_is_no_clip_scale() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.backward(net.losses(batch()))
    assert optimizer.report.clip_scale is None


def test_of_a_method_that_needs_only_losses() -> None:
    net = Net()
    optimizer = wrap(net, "equal")
    optimizer.backward(net.losses(batch()))
    report = optimizer.report
    assert report.weights.tolist() == [[1.0] * 3]
    assert report.losses.shape == (3,)
    for name in ("gram", "norms", "cosines", "skipped", "times_skipped"):
        assert getattr(report, name) is None, name


def test_an_old_report_stays_as_it_was() -> None:
    net = Net()
    optimizer = wrap(net, "mean", max_norm=0.1)
    optimizer.backward(net.losses(batch(0)))
    report = optimizer.report
    before = [report.weights.clone(), report.gram.clone(), report.losses.clone()]
    optimizer.step()
    optimizer.zero_grad()
    optimizer.backward(net.losses(batch(1)))
    assert optimizer.report is not report
    assert_same([report.weights, report.gram, report.losses], before, rtol=0, atol=0)


class Canary:
    """A hook of a tensor in the graph, which lives as long as the graph."""

    def __call__(self, gradient: Tensor) -> None:
        pass


def test_does_not_keep_the_graph_alive() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    canary = Canary()
    alive = weakref.ref(canary)
    features = net.trunk(batch())
    features.register_hook(canary)
    losses = [net.heads["a"](features).square().mean(), net.heads["b"](features).mean()]
    del canary
    with pytest.warns(UserWarning, match="No loss reaches"):
        optimizer.backward(losses)
    gc.collect()
    assert alive() is not None
    del features, losses
    gc.collect()
    assert alive() is None
    assert optimizer.report.losses is not None


def test_graph_is_freed_by_the_last_task() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    losses = net.losses(batch())
    optimizer.backward(losses)
    with pytest.raises(RuntimeError, match="second time"):
        losses["c"].backward()


def test_graph_is_kept_on_demand() -> None:
    net, bare = Net(), Net()
    optimizer = wrap(net, "sum")
    losses = net.losses(batch())
    optimizer.backward(losses, retain_graph=True)
    optimizer.backward(losses)
    (2 * sum(bare.losses(batch()).values())).backward()
    assert_same(
        [param.grad for param in net.parameters()], [param.grad for param in bare.parameters()]
    )


def test_repr_shows_what_is_measured_and_not_the_machinery() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.backward(net.losses(batch()))
    text = repr(optimizer.report)
    assert "weights=" in text
    assert "_gram" not in text


def test_without_a_shared_parameter_the_weights_are_the_own_factors() -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", tasks=["a", "b", "c"], task_weights={"a": 0.5})
    optimizer.backward({"a": net.losses(batch())["a"]})
    assert optimizer.report.weights.tolist() == [[0.5, 0.0, 0.0]]
