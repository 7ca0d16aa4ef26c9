"""``backward`` adds to ``.grad``, as ``torch.autograd.backward`` does."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_same, batch, every_method, grads, method, wrap


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_norm": 0.1},
        {"clip_value": 0.05},
        {"max_task_norm": 0.1},
        {"granularity": "tensor"},
    ],
    ids=str,
)
def test_adds_to_what_is_there(options: dict[str, Any], device: torch.device) -> None:
    net, once = Net(device=device), Net(device=device)
    wrap(once, Fixed(), **options).backward(once.losses(batch(like=once)))
    for param in net.parameters():
        param.grad = torch.full_like(param, 3.0)
    wrap(net, Fixed(), **options).backward(net.losses(batch(like=net)))
    assert_same(grads(net), [gradient + 3.0 for gradient in grads(once)])


@pytest.mark.parametrize("name", every_method())
def test_every_method_adds(name: str) -> None:
    net, once = Net(), Net()
    torch.manual_seed(0)
    wrap(once, method(name)).backward(once.losses(batch()))
    for param in net.parameters():
        param.grad = torch.full_like(param, 3.0)
    torch.manual_seed(0)
    wrap(net, method(name)).backward(net.losses(batch()))
    expected = [3.0 if g is None else g + 3.0 for g in grads(once)]
    assert_same(
        grads(net),
        [torch.as_tensor(e).expand_as(p) for e, p in zip(expected, grads(net), strict=True)],
    )


def test_keeps_the_tensors_that_are_there() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.backward(net.losses(batch()))
    kept = [param.grad for param in net.parameters()]
    optimizer.zero_grad(set_to_none=False)
    optimizer.backward(net.losses(batch()))
    assert all(a is b.grad for a, b in zip(kept, net.parameters(), strict=True))


def test_zeros_and_none_give_the_same() -> None:
    net, other = Net(), Net()
    optimizer, like = wrap(net, "mean", max_norm=0.1), wrap(other, "mean", max_norm=0.1)
    for step in range(3):
        optimizer.zero_grad(set_to_none=False)
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
        like.zero_grad()
        like.backward(other.losses(batch(step)))
        like.step()
    assert_same(net.parameters(), other.parameters())


def test_only_some_parameters_have_a_gradient() -> None:
    net, once = Net(), Net()
    net.trunk[0].weight.grad = torch.ones_like(net.trunk[0].weight)
    for model in (net, once):
        wrap(model, "mean").backward(model.losses(batch()))
    torch.testing.assert_close(net.trunk[0].weight.grad, once.trunk[0].weight.grad + 1)
    torch.testing.assert_close(net.trunk[0].bias.grad, once.trunk[0].bias.grad)


def test_two_backwards_are_a_step_on_their_sum() -> None:
    net, bare = Net(), Net()
    optimizer = wrap(net, "sum")
    other = torch.optim.SGD(bare.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        other.zero_grad()
        for part in batch(step).chunk(2):
            optimizer.backward(net.losses(part))
            sum(bare.losses(part).values()).backward()
        optimizer.step()
        other.step()
    assert_same(net.parameters(), bare.parameters())


def test_mixes_with_plain_backwards() -> None:
    net, bare = Net(), Net()
    penalty = [0.1 * sum(p.square().sum() for p in model.parameters()) for model in (net, bare)]
    penalty[0].backward()
    wrap(net, "sum").backward(net.losses(batch()))
    (penalty[1] + sum(bare.losses(batch()).values())).backward()
    assert_same(grads(net), grads(bare))


def test_what_is_in_grad_is_never_an_alias_of_another() -> None:
    # d(p + q) is one and the same tensor for p and q.
    p, q = (torch.zeros(3, requires_grad=True) for _ in range(2))
    wrap([p, q]).backward([(p + q).sum(), (p + q).square().sum()])
    p.grad.add_(1)
    assert not torch.equal(p.grad, q.grad)


def test_gradient_does_not_carry_a_graph() -> None:
    net = Net()
    wrap(net).backward(net.losses(batch()))
    assert all(not param.grad.requires_grad for param in net.parameters())


def test_a_micro_batch_adds_one_gradient_at_a_time() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.accumulate(net.losses(batch(0)))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = []

    def count(gradient: torch.Tensor) -> None:
        most.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(gradient))

    net.trunk[0].weight.register_hook(count)
    optimizer.accumulate(net.losses(batch(1)))
    assert most == [0, 0, 0]


def test_sums_are_forgotten_after_an_error() -> None:
    net = Net()
    optimizer = wrap(net)
    losses = net.losses(batch(0))
    losses["c"].backward()
    net.zero_grad()
    optimizer.accumulate(net.losses(batch(1)))
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        optimizer.accumulate(losses)
    optimizer.backward(net.losses(batch(2)))
    other = Net()
    wrap(other).backward(other.losses(batch(2)))
    assert_same(grads(net), grads(other))


@pytest.mark.parametrize(
    "options", [{}, {"weights_every": 2}, {"grad_dtype": torch.bfloat16}], ids=str
)
def test_micro_batches_without_a_label(options: dict[str, Any]) -> None:
    """What the others have is merged."""
    net, other = Net(), Net()
    optimizer, like = wrap(net, "upgrad", **options), wrap(other, "upgrad", **options)
    optimizer.accumulate(net.losses(batch()))
    optimizer.accumulate(dict.fromkeys(NAMES))
    optimizer.backward(dict.fromkeys(NAMES))
    like.backward(other.losses(batch()))
    assert_same(grads(net), grads(other))
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"should hold at least one loss\. Found none"):
        optimizer.backward(dict.fromkeys(NAMES))
