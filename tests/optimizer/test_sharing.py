"""Which parameters are merged, over which tasks: found in the graph, or named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_equal, assert_same, batch, grads, train, wrap
from torch import Tensor, nn


def task_grads(net: Net) -> dict[str, list[Tensor | None]]:
    """The gradient of each task by itself."""
    params = list(net.parameters())
    return {
        name: list(torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True))
        for name, loss in net.losses(batch(like=net)).items()
    }


def test_shared_parameters_are_weighted_and_heads_are_not(device: torch.device) -> None:
    net = Net(device=device)
    alone = task_grads(net)
    wrap(net, Fixed(0.5, 2.0, 0.25)).backward(net.losses(batch(like=net)))
    weights = dict(zip(NAMES, (0.5, 2.0, 0.25), strict=True))
    for place, (name, param) in enumerate(net.named_parameters()):
        gradients = {k: rows[place] for k, rows in alone.items() if rows[place] is not None}
        if name.startswith("heads"):
            (expected,) = gradients.values()
        else:
            assert len(gradients) == (2 if name.startswith("neck") else 3)
            expected = sum(weights[k] * gradient for k, gradient in gradients.items())
        torch.testing.assert_close(param.grad, expected, msg=name)


def test_one_set_has_one_gram_matrix_over_all_that_is_shared() -> None:
    net = Net()
    alone = task_grads(net)
    optimizer = wrap(net, Fixed())
    optimizer.backward(net.losses(batch()))
    names = [name for name, _ in net.named_parameters()]
    rows = torch.stack(
        [
            torch.cat(
                [
                    torch.zeros_like(p).flatten() if g is None else g.flatten()
                    for name, p, g in zip(names, net.parameters(), alone[task], strict=True)
                    if not name.startswith("heads")
                ]
            )
            for task in NAMES
        ]
    )
    torch.testing.assert_close(optimizer.report.gram, (rows @ rows.T).unsqueeze(0))


def test_parameters_of_which_only_some_are_shared_by_name() -> None:
    net = Net()
    alone = task_grads(net)
    wrap(net, Fixed(0.5, 2.0, 0.25), shared=net.neck.parameters()).backward(net.losses(batch()))
    for place, (name, param) in enumerate(net.named_parameters()):
        gradients = [rows[place] for rows in alone.values()]
        if name.startswith("neck"):
            expected = 2.0 * gradients[1] + 0.25 * gradients[2]
        else:
            expected = sum(gradient for gradient in gradients if gradient is not None)
        torch.testing.assert_close(param.grad, expected, msg=name)


def test_a_head_may_be_named_as_shared() -> None:
    net = Net()
    alone = task_grads(net)
    wrap(net, Fixed(0.5, 2.0, 0.25), shared=net.parameters()).backward(net.losses(batch()))
    place = [name for name, _ in net.named_parameters()].index("heads.b.weight")
    torch.testing.assert_close(net.heads["b"].weight.grad, 2.0 * alone["b"][place])


def test_no_shared_parameter_at_all() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(3, 1)
    optimizer = wrap([*first.parameters(), *second.parameters()], Fixed(5.0, 7.0))
    losses = [first(torch.ones(1, 2)).sum(), second(torch.ones(1, 3)).sum()]
    optimizer.backward(losses)
    assert first.weight.grad.tolist() == [[1.0, 1.0]]
    assert second.weight.grad.tolist() == [[1.0, 1.0, 1.0]]
    assert optimizer.report.gram.shape == (0, 2, 2)
    assert optimizer.report.cosines is None
    torch.testing.assert_close(
        optimizer.report.norms, torch.tensor([3.0, 4.0], dtype=torch.float64).sqrt()
    )


class TestGranularity:
    @pytest.mark.parametrize("granularity", ["tensor", "group"])
    def test_each_set_is_solved_by_itself(self, granularity: Any) -> None:
        net, other = Net(), Net()
        groups = [list(net.trunk.parameters()), list(net.neck.parameters())]
        rest = [*net.heads.parameters()]
        params = [{"params": group} for group in [*groups, rest]]
        optimizer = wrap(params, "mean", granularity=granularity)
        optimizer.backward(net.losses(batch()))
        # In the neck there are two tasks, so 1/2 there and 1/3 in the trunk.
        alone = task_grads(other)
        names = [name for name, _ in other.named_parameters()]
        for place, (name, param) in enumerate(net.named_parameters()):
            gradients = [rows[place] for rows in alone.values() if rows[place] is not None]
            factor = 1 if name.startswith("heads") else len(gradients)
            torch.testing.assert_close(param.grad, sum(gradients) / factor, msg=name)
        segments = 2 if granularity == "group" else 6
        assert optimizer.report.weights.shape == (segments, 3)
        assert optimizer.report.gram.shape == (segments, 3, 3)
        assert (optimizer.report.weights[:, 0] == 0).sum() == segments // 3 + (segments == 2)
        assert len(names) == 12

    def test_report_sums_over_the_sets(self) -> None:
        whole, parts = Net(), Net()
        one, many = wrap(whole, "sum"), wrap(parts, "sum", granularity="tensor")
        one.backward(whole.losses(batch()))
        many.backward(parts.losses(batch()))
        assert_same(grads(whole), grads(parts))
        torch.testing.assert_close(one.report.norms, many.report.norms)
        torch.testing.assert_close(one.report.cosines, many.report.cosines)
        torch.testing.assert_close(one.report.gram.sum(0), many.report.gram.sum(0))


class TestFreezing:
    def test_frozen_from_the_start(self) -> None:
        net = Net()
        net.trunk[0].requires_grad_(False)
        optimizer = wrap(net, "mean", inner_options={"weight_decay": 0.1})
        before = [param.clone() for param in net.trunk[0].parameters()]
        train(net, optimizer, range(3))
        assert_equal(net.trunk[0].parameters(), before)

    def test_frozen_and_thawed_in_the_middle(self) -> None:
        net, bare = Net(), Net()
        optimizer = wrap(net, "sum")
        other = torch.optim.SGD(bare.parameters(), lr=0.05)
        for step in range(6):
            for model in (net, bare):
                model.trunk.requires_grad_(step not in (2, 3))
            train(net, optimizer, [step])
            other.zero_grad()
            sum(bare.losses(batch(step)).values()).backward()
            other.step()
        assert_same(net.parameters(), bare.parameters())

    def test_a_frozen_head_does_not_hide_its_task(self) -> None:
        net, bare = Net(), Net()
        for model in (net, bare):
            model.heads["b"].requires_grad_(False)
        wrap(net, "sum").backward(net.losses(batch()))
        sum(bare.losses(batch()).values()).backward()
        assert_same(grads(net), grads(bare))

    def test_everything_frozen_is_an_error(self) -> None:
        net = Net()
        optimizer = wrap(net)
        losses = net.losses(batch())
        net.requires_grad_(False)
        with pytest.raises(ValueError, match=r"Parameter `\w+` should .*"):
            optimizer.backward(losses)


class TestUnreachedParameters:
    def test_are_warned_of_once(self) -> None:
        net = Net()
        spare = nn.Linear(3, 2)
        optimizer = wrap([*net.parameters(), *spare.parameters()])
        with pytest.warns(UserWarning, match=r"reaches 2 of .* 14 parameters.*\(2, 3\)") as seen:
            optimizer.backward(net.losses(batch()))
        assert seen[0].filename == __file__
        assert spare.weight.grad is None

    @pytest.mark.filterwarnings("error")
    def test_are_not_warned_of_again(self) -> None:
        net = Net()
        spare = nn.Linear(3, 2)
        optimizer = wrap([*net.parameters(), *spare.parameters()])
        with pytest.warns(UserWarning, match="reaches"):
            optimizer.backward(net.losses(batch()))
        train(net, optimizer, range(2))

    @pytest.mark.filterwarnings("error")
    def test_are_no_surprise_while_a_task_is_absent(self) -> None:
        net = Net()
        optimizer = wrap(net, tasks=NAMES)
        optimizer.backward({**net.losses(batch()), "b": None})
        optimizer.backward(net.losses(batch()))

    @pytest.mark.filterwarnings("error")
    def test_all_reached(self) -> None:
        net = Net()
        train(net, wrap(net), range(1))


def test_what_the_optimizer_does_not_own_is_left_alone() -> None:
    net = Net()
    optimizer = wrap(net.trunk.parameters(), "mean")
    optimizer.backward(net.losses(batch()))
    assert all(param.grad is not None for param in net.trunk.parameters())
    rest = [*net.neck.parameters(), *net.heads.parameters()]
    assert all(param.grad is None for param in rest)


def test_two_optimizers_on_one_model() -> None:
    # The trunk is merged; the rest has an optimizer and a backward of its own.
    net, bare = Net(), Net()
    rest = [*net.neck.parameters(), *net.heads.parameters()]
    merged = wrap(net.trunk.parameters(), "sum")
    plain = torch.optim.Adam(rest, lr=0.01)
    other_rest = [*bare.neck.parameters(), *bare.heads.parameters()]
    others = [
        torch.optim.SGD(bare.trunk.parameters(), lr=0.05),
        torch.optim.Adam(other_rest, lr=0.01),
    ]
    for step in range(4):
        losses = net.losses(batch(step))
        merged.zero_grad()
        plain.zero_grad()
        merged.backward(losses, retain_graph=True)
        torch.autograd.backward(sum(losses.values()), inputs=rest)
        merged.step()
        plain.step()
        for optimizer in others:
            optimizer.zero_grad()
        sum(bare.losses(batch(step)).values()).backward()
        for optimizer in others:
            optimizer.step()
    assert_same(net.parameters(), bare.parameters())


def test_two_wrapped_optimizers_on_one_model() -> None:
    net, one = Net(), Net()
    trunk = wrap(net.trunk.parameters(), "mean")
    rest = wrap([*net.neck.parameters(), *net.heads.parameters()], "mean")
    whole = wrap(one, "mean", granularity="model")
    losses = net.losses(batch())
    trunk.backward(losses, retain_graph=True)
    rest.backward(losses)
    whole.backward(one.losses(batch()))
    assert_same(grads(net.trunk), grads(one.trunk))
    assert_same(grads(net.heads), grads(one.heads))
    # Alone, the neck has only the two tasks that reach it.
    assert_same(grads(net.neck), [1.5 * gradient for gradient in grads(one.neck)])
