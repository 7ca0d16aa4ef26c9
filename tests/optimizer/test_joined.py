"""Predictions that are joined in one tensor before each loss takes its part: each head stays its own task's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from multitask import assert_equal, assert_same, grads, wrap
from torch import Tensor, nn

TARGETS = (1.0, -1.0, 0.3)


class Heads(nn.Module):
    """A trunk and three heads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        self.double()

    def forward(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        features = self.trunk(torch.randn(8, 5, generator=generator, dtype=torch.float64))
        return [head(features) for head in self.heads]


def losses(outputs: Any) -> list[Tensor]:
    """One for each output, of very different sizes."""
    return [
        (output.reshape(8) - target).square().mean() * 10.0**k
        for k, (output, target) in enumerate(zip(outputs, TARGETS, strict=True))
    ]


def assigned(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(8, 3, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[:, k] = output[:, 0]
    return joined


def assigned_by_index(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(3, 8, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[torch.tensor([k])] = output.T
    return joined


def assigned_in_part(outputs: list[Tensor]) -> Tensor:
    joined = torch.cat([outputs[0], outputs[0], outputs[0]], dim=1).clone()
    joined[..., 1:] = torch.cat(outputs[1:], dim=1)
    return joined


def preallocated_losses(outputs: list[Tensor]) -> Tensor:
    found = torch.zeros(3, dtype=torch.float64)
    for k, loss in enumerate(losses(outputs)):
        found[k] = loss
    return found


def columnwise(outputs: list[Tensor]) -> Tensor:
    errors = (torch.cat(outputs, 1) - torch.tensor(TARGETS, dtype=torch.float64)).square()
    return errors.mean(dim=0) * 10.0 ** torch.arange(3)


def columns(joined: Tensor) -> list[Tensor]:
    return [joined[:, k] for k in range(3)]


def scattered(outputs: list[Tensor], write: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    joined = torch.zeros(8, 3, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined = write(joined, output, k)
    return joined


def slice_scatter(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.slice_scatter(output, 1, k, k + 1)


def select_scatter(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.select_scatter(output[:, 0], 1, k - 3)


def scatter(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.scatter(1, torch.full((8, 1), k), output)


def scatter_add(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.scatter_add(1, torch.full((8, 1), k), output)


def index_copy(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.index_copy(1, torch.tensor([k]), output)


def index_add(joined: Tensor, output: Tensor, k: int) -> Tensor:
    return joined.index_add(1, torch.tensor([k]), output)


JOINED: dict[str, Callable[[list[Tensor]], list[Tensor] | Tensor]] = {
    "cat, slice": lambda y: losses([torch.cat(y, 1)[:, k : k + 1] for k in range(3)]),
    "joined for each": lambda y: losses([torch.stack(y)[k] for k in range(3)]),
    "cat, select": lambda y: losses(columns(torch.cat(y, 1))),
    "cat, ellipsis": lambda y: losses([torch.cat(y, -1)[..., k - 3] for k in range(3)]),
    "cat, index": lambda y: losses([torch.cat(y, 1)[:, torch.tensor([k])] for k in range(3)]),
    "cat, index_select": lambda y: losses(
        [torch.cat(y, 1).index_select(1, torch.tensor([k])) for k in range(3)]
    ),
    "cat, chunk": lambda y: losses(torch.cat(y, 1).chunk(3, 1)),
    "cat, split": lambda y: losses(torch.cat(y, -1).split([1, 1, 1], -1)),
    "cat, view": lambda y: losses(columns(torch.cat(y, 1).reshape(-1).view(2, 4, 3).flatten(0, 1))),
    "cat of rows": lambda y: losses(torch.cat(y, 0).view(3, 8)),
    "stack, index": lambda y: losses([torch.stack(y)[k] for k in range(3)]),
    "stack, unbind": lambda y: losses(torch.stack(y, -1).unbind(-1)),
    "stack, permute": lambda y: losses(torch.stack(y, 1).permute(1, 2, 0).contiguous().squeeze(1)),
    "zeros, assignment": lambda y: losses(columns(assigned(y))),
    "zeros, assignment by index": lambda y: losses(assigned_by_index(y).unbind()),
    "assignment of a join": lambda y: losses(columns(assigned_in_part(y))),
    "pad": lambda y: losses(columns(F.pad(torch.cat(y, 1), (2, 1))[:, 2:])),
    "sum of padded ones": lambda y: losses(
        columns(sum((F.pad(one, (k, 2 - k)) for k, one in enumerate(y)), torch.zeros(())))
    ),
    "roll": lambda y: losses(columns(torch.cat([y[1], y[2], y[0]], 1).roll(1, 1))),
    "slice_scatter": lambda y: losses(columns(scattered(y, slice_scatter))),
    "select_scatter": lambda y: losses(columns(scattered(y, select_scatter))),
    "scatter": lambda y: losses(columns(scattered(y, scatter))),
    "scatter_add": lambda y: losses(columns(scattered(y, scatter_add))),
    "index_copy": lambda y: losses(columns(scattered(y, index_copy))),
    "index_add": lambda y: losses(columns(scattered(y, index_add))),
    "a constant among them": lambda y: losses(
        columns(torch.cat([y[0], torch.zeros_like(y[0]), *y[1:]], 1)[:, [0, 2, 3]])
    ),
    "preallocated losses": preallocated_losses,
    "preallocated losses, item by item": lambda y: list(preallocated_losses(y)),
    "columns of errors": columnwise,
    "stacked losses times a factor": lambda y: 1.0 * torch.stack(losses(y)),
}


@pytest.mark.parametrize("method", ["upgrad", "mgda", "nash_mtl", "pcgrad"])
@pytest.mark.parametrize("form", JOINED)
def test_is_the_same_as_not_joined(form: str, method: str) -> None:
    apart, joined = Heads(), Heads()
    torch.default_generator.manual_seed(0)
    first = wrap(apart, method)
    first.backward(losses(apart()))
    torch.default_generator.manual_seed(0)
    second = wrap(joined, method)
    second.backward(JOINED[form](joined()))
    assert_same(grads(apart), grads(joined), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first.report.gram, second.report.gram)
    if form not in ("columns of errors", "cat, view", "stacked losses times a factor"):
        assert_equal(grads(apart), grads(joined))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batched": True},
        {"memory": "stream"},
        {"weights_every": 2},
        {"granularity": "tensor"},
        {"max_task_norm": 0.5},
        {"grad_dtype": torch.float32},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "form", ["cat, select", "joined for each", "stack, unbind", "zeros, assignment"]
)
def test_in_every_kind_of_step(form: str, options: dict[str, Any]) -> None:
    apart, joined = Heads(), Heads()
    first, second = wrap(apart, "upgrad", **options), wrap(joined, "upgrad", **options)
    for _ in range(3):
        for net, optimizer, join in ((apart, first, losses), (joined, second, JOINED[form])):
            optimizer.zero_grad()
            optimizer.backward(join(net()))
            optimizer.step()
    assert_same(apart.parameters(), joined.parameters(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(first.report.gram, second.report.gram)


def test_on_features() -> None:
    nets = [Heads(), Heads()]
    for net, join in zip(nets, (losses, JOINED["cat, select"]), strict=True):
        kept: list[Tensor] = []
        net.trunk.register_forward_hook(lambda *given, kept=kept: kept.append(given[2]))
        found = join(net())
        wrap(net, "mgda", gram_on="features").backward(found, features=kept[0])
    assert_equal(grads(nets[0]), grads(nets[1]))


def test_accumulated() -> None:
    nets = [Heads(), Heads()]
    for net, join in zip(nets, (losses, JOINED["cat, chunk"]), strict=True):
        optimizer = wrap(net, "mgda")
        optimizer.accumulate(join(net()))
        optimizer.backward(join(net()))
    assert_same(grads(nets[0]), grads(nets[1]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", JOINED)
def test_nothing_is_warned_of(form: str) -> None:
    net = Heads()
    wrap(net).backward(JOINED[form](net()))


HIDDEN: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a matrix": lambda joined, k: joined @ torch.eye(3, dtype=joined.dtype)[k],
    "a mask": lambda joined, k: (joined * torch.eye(3, dtype=joined.dtype)[k]).sum(1),
    "gather": lambda joined, k: joined.gather(1, torch.full((8, 1), k)),
    "where": lambda joined, k: torch.where(torch.eye(3)[k] > 0, joined, 0.0).sum(1),
    "masked_select": lambda joined, k: joined.masked_select((torch.eye(3)[k] > 0).expand(8, 3)),
    "einsum": lambda joined, k: torch.einsum("bt,t->b", joined, torch.eye(3).double()[k]),
    "as_strided": lambda joined, k: joined.as_strided((8,), (3,), k),
    "diagonal": lambda joined, k: joined.expand(3, 8, 3).diagonal(dim1=0, dim2=2)[:, k],
    "take": lambda joined, k: joined.take(torch.arange(8) * 3 + k),
    "prod": lambda joined, k: torch.where(torch.eye(3)[k] > 0, joined, 1.0).prod(1),
}


#: What is done once to what is joined, with columns kept apart in a way that the graph does not tell.
MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda joined: joined,
    "interpolation": lambda joined: F.interpolate(joined.T[None], scale_factor=2.0)[0, :, ::2].T,
    "grouped convolution": lambda joined: (
        F.conv1d(joined.T[None], torch.ones(3, 1, 1, dtype=joined.dtype), groups=3)[0].T
    ),
    "a matrix of ones and zeros": lambda joined: joined @ torch.eye(3, dtype=joined.dtype),
    "scatter of rows that differ": lambda joined: joined.detach().scatter(
        1,
        torch.tensor([[0, 1, 2], [1, 0, 2]] * 4),
        joined.gather(1, torch.tensor([[0, 1, 2], [1, 0, 2]] * 4)),
    ),
    "diagonal_scatter": lambda joined: (
        torch.zeros(3, 3, 8, dtype=joined.dtype).diagonal_scatter(joined).sum(1).T
    ),
    "reflection": lambda joined: F.pad(joined.T[None], (1, 1), mode="reflect")[0, :, 1:-1].T,
    "masked_scatter": lambda joined: torch.zeros_like(joined).masked_scatter(joined > -9, joined),
    "repeat": lambda joined: joined.repeat(1, 2),
    "pooling": lambda joined: F.avg_pool1d(joined.T[None], 1)[0].T,
}


class Join(torch.autograd.Function):
    """Columns next to each other."""

    @staticmethod
    def forward(_: Any, *outputs: Tensor) -> Tensor:
        return torch.cat(outputs, 1)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return gradient.split(1, 1)


#: Ways of joining that tell nothing themselves, a matrix of ones and zeros before what they join.
JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "cat": lambda y: torch.cat(y, 1),
    "stack": lambda y: torch.stack(y, 1)[..., 0],
    "assignment": assigned,
    "scatter": lambda y: scattered(y, scatter),
    "diagonal": lambda y: (
        torch.block_diag(*(one.T for one in y)).view(3, 3, 8).sum(1).T.contiguous()
    ),
    "a function of one's own": lambda y: Join.apply(*y),
    "cat of cats": lambda y: torch.cat([torch.cat(y[:2], 1), y[2]], 1),
    "cat of changed ones": lambda y: torch.cat([1.0 * one for one in y], 1),
    "sum of columns": lambda y: sum(
        (one * torch.eye(3, dtype=one.dtype)[k] for k, one in enumerate(y)), torch.zeros(())
    ),
}


def warned(make_losses: Callable[[list[Tensor]], list[Tensor]]) -> list[str]:
    """What is said in three steps."""
    net = Heads()
    optimizer = wrap(net, "mgda")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.backward(make_losses(net()))
    assert all(warning.filename == __file__ for warning in seen)
    return [str(warning.message) for warning in seen]


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("pick", HIDDEN)
@pytest.mark.parametrize("anew", [False, True], ids=["joined once", "joined for each"])
def test_a_part_that_cannot_be_told_is_warned_of_once(pick: str, join: str, anew: bool) -> None:
    def make(outputs: list[Tensor]) -> list[Tensor]:
        joined = [JOINS[join](outputs)] * 3
        if anew:
            joined = [JOINS[join](outputs) for _ in range(3)]
        return losses([HIDDEN[pick](joined[k], k) for k in range(3)])

    (said,) = warned(make)
    assert "seem to reach 6 parameters" in said
    assert "`shared`" in said


@pytest.mark.parametrize("mix", MIXED)
@pytest.mark.parametrize("anew", [False, True], ids=["joined once", "joined for each"])
def test_what_is_done_to_what_is_joined_is_warned_of(mix: str, anew: bool) -> None:
    def make(outputs: list[Tensor]) -> list[Tensor]:
        joined = [MIXED[mix](torch.cat(outputs, 1))] * 3
        if anew:
            joined = [MIXED[mix](torch.cat(outputs, 1)) for _ in range(3)]
        return losses([joined[k][:, k] for k in range(3)])

    assert len(warned(make)) == (mix != "nothing")


def test_it_is_looked_for_in_the_first_step_only() -> None:
    counts: list[int] = []

    def count(_: Tensor) -> None:
        counts[-1] += 1

    def make(outputs: list[Tensor]) -> list[Tensor]:
        joined = torch.cat(outputs, 1)
        joined.register_hook(count)
        counts.append(0)
        return losses([HIDDEN["a mask"](joined, k) for k in range(3)])

    assert len(warned(make)) == 1
    assert counts == [6, 3, 3]


@pytest.mark.filterwarnings("error")
def test_heads_that_the_optimizer_does_not_hold_do_not_matter() -> None:
    net = Heads()
    joined = torch.cat(net(), 1)
    optimizer = wrap(net.trunk.parameters())
    optimizer.backward(losses([HIDDEN["a mask"](joined, k) for k in range(3)]))
    assert optimizer.report.gram.shape == (1, 3, 3)


#: Losses of ordinary nets from 8 rows of 5 features and a trunk's 6, given modules that are made when first asked for.
ORDINARY: dict[str, Callable[[Tensor, Tensor, Callable[..., nn.Module]], list[Tensor]]] = {}


def ordinary(make: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    ORDINARY[make.__name__] = make
    return make


@ordinary
def a_dense_net(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    for k in range(3):
        f = torch.cat([f, module(nn.Linear, 6 + 4 * k, 4)(f).relu()], 1)
    return [module(nn.Linear, 18, 1, name=t)(f).square().mean() for t in "abc"]


@ordinary
def skips_into_decoders(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    deep = module(nn.Linear, 6, 3)(f).relu()
    found = []
    for t in "abc":
        up = module(nn.Linear, 3, 6, name=t + "up")(deep).relu()
        found.append(module(nn.Linear, 12, 1, name=t)(torch.cat([up, f], 1)).square().mean())
    return found


@ordinary
def attention(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    tokens = module(nn.Linear, 1, 4)(f[..., None])
    layer = module(nn.TransformerEncoderLayer, 4, 2, 8, 0.0, batch_first=True)
    tokens = layer(torch.cat([tokens, tokens[:, :1].tanh()], 1))
    return [
        module(nn.Linear, 4, 1, name=t)(tokens[:, k]).square().mean() for k, t in enumerate("ab")
    ]


@ordinary
def a_recurrent_net(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    cell, state, states = module(nn.GRUCell, 1, 4), None, []
    for k in range(6):
        state = cell(f[:, k : k + 1], state)
        states.append(state)
    joined = torch.stack(states, 1)
    masks = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1.0]]).double()
    return [
        (module(nn.Linear, 4, 1, name=t)(joined)[..., 0] * mask).square().mean()
        for t, mask in zip("ab", masks, strict=True)
    ]


@ordinary
def dead_units(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    joined = torch.cat([f, (module(nn.Linear, 6, 4)(f) - 99).relu()], 1)
    return [module(nn.Linear, 10, 1, name=t)(joined).square().mean() for t in "ab"]


@ordinary
def a_task_that_is_masked_out(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    halves = [module(nn.Linear, 6, 3, name=t)(f).tanh() for t in "ab"]
    joined = torch.cat(halves, 1)
    found = [module(nn.Linear, 6, 1, name=t + "head")(joined).square() for t in "abc"]
    return [found[0].mean(), (found[1] * torch.zeros(8, 1)).mean(), found[2].mean() * 0.0]


@ordinary
def one_head_that_starts_from_zeros(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    joined = torch.cat([module(nn.Linear, 6, 3, name=t)(f).tanh() for t in "ab"], 1)
    heads = [module(nn.Linear, 6, 1, name=t + "head") for t in "ab"]
    nn.init.zeros_(heads[0].weight)
    return [(head(joined) - 1).square().mean() for head in heads]


@ordinary
def a_loss_of_which_a_part_has_weight_zero(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    found = [module(nn.Linear, 6, 2, name=t)(f) for t in "ab"]
    return [one.square().mean() + 0.0 * one.abs().mean() + 0.0 * f.sum() for one in found]


@ordinary
def dropout_of_every_task(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    joined = torch.cat([module(nn.Linear, 6, 3, name=t)(f).tanh() for t in "ab"], 1)
    heads = [module(nn.Linear, 6, 1, name=t + "head") for t in "ab"]
    return [head(F.dropout(joined, 0.5)).square().mean() for head in heads]


@ordinary
def an_input_that_is_dropped_for_all(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    left, right = (module(nn.Linear, 6, 3, name=t)(f).tanh() for t in "ab")
    for keep in (1.0, 0.0):
        joined = torch.cat([left, keep * right], 1)
    return [module(nn.Linear, 6, 1, name=t + "head")(joined).square().mean() for t in "ab"]


@ordinary
def a_dropped_path_of_one_task(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    block = module(nn.Linear, 6, 6)
    return [
        module(nn.Linear, 6, 1, name=t)(f + keep * block(f)).square().mean()
        for t, keep in (("a", 1.0), ("b", 0.0))
    ]


@ordinary
def gated_experts(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    experts = torch.stack([module(nn.Linear, 6, 4, name=t)(f).relu() for t in "xyz"], 1)
    found = []
    for t in "ab":
        gate = module(nn.Linear, 6, 3, name=t + "gate")(f).softmax(1)
        mixed = (gate[..., None] * experts).sum(1)
        found.append(module(nn.Linear, 4, 1, name=t)(mixed).square().mean())
    return found


@ordinary
def a_single_loss(x: Tensor, f: Tensor, module: Callable[..., nn.Module]) -> list[Tensor]:
    joined = torch.cat([module(nn.Linear, 6, 3, name=t)(f) for t in "ab"], 1)
    return [(joined * torch.eye(6)[0]).sum()]


@ordinary
def derivatives_by_joined_coordinates(
    x: Tensor, f: Tensor, module: Callable[..., nn.Module]
) -> list[Tensor]:
    a, b = (x[:, k : k + 1].clone().requires_grad_() for k in range(2))
    u = module(nn.Linear, 4, 1)(module(nn.Linear, 2, 4)(torch.cat([a, b], 1)).tanh())
    du = [torch.autograd.grad(u.sum(), one, create_graph=True)[0] for one in (a, b)]
    return [(du[0] + f.sum()).square().mean(), du[1].square().mean(), u.square().mean()]


@pytest.mark.parametrize("name", ORDINARY)
def test_nothing_is_said_of_ordinary_nets(name: str) -> None:
    net, modules = Heads(), nn.ModuleDict()

    def module(kind: Callable[..., nn.Module], *sizes: Any, name: str = "_", **more: Any) -> Any:
        key = f"{kind.__name__}{name}{sizes}".replace(".", "")
        if key not in modules:
            modules[key] = kind(*sizes, **more).double()
        return modules[key]

    def make() -> list[Tensor]:
        x = torch.randn(8, 5, dtype=torch.float64)
        return ORDINARY[name](x, net.trunk(x), module)

    torch.manual_seed(0)
    make()
    optimizer = wrap([*net.trunk.parameters(), *modules.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward(make())


@pytest.mark.parametrize("factor", [0.0, -0.0])
def test_sums_of_losses_with_zeros_are_warned_of(factor: float) -> None:
    def make(outputs: list[Tensor]) -> list[Tensor]:
        found = losses(outputs)
        return [one + factor * (sum(found) - one) for one in found]

    def penalized(outputs: list[Tensor]) -> list[Tensor]:
        return [one + factor * sum(output.sum() for output in outputs) for one in losses(outputs)]

    assert len(warned(make)) == len(warned(penalized)) == 1


@pytest.mark.filterwarnings("error")
def test_shared_says_what_cannot_be_told() -> None:
    nets = [Heads(), Heads()]
    wrap(nets[0], "mgda").backward(losses(nets[0]()))
    joined = torch.cat(nets[1](), 1)
    picked = losses([HIDDEN["a matrix"](joined, k) for k in range(3)])
    wrap(nets[1], "mgda", shared=nets[1].trunk.parameters()).backward(picked)
    assert_same(grads(nets[0]), grads(nets[1]))


@pytest.mark.filterwarnings("error")
def test_joined_features_are_no_heads() -> None:
    halves = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)]).double()
    heads = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)]).double()
    features = torch.cat([half(torch.ones(2, 5, dtype=torch.float64)) for half in halves], 1)
    optimizer = wrap([*halves.parameters(), *heads.parameters()])
    optimizer.backward([head(features).sum() for head in heads])
    assert optimizer.report.gram.shape == (1, 2, 2)
    assert all(param.grad is not None for param in halves.parameters())


@pytest.mark.filterwarnings("error")
def test_heads_that_start_from_zeros_are_not_mistaken() -> None:
    halves = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)]).double()
    heads = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)]).double()
    for head in heads:
        nn.init.zeros_(head.weight)
    features = torch.cat([half(torch.ones(2, 5, dtype=torch.float64)) for half in halves], 1)
    wrap([*halves.parameters(), *heads.parameters()]).backward([h(features).sum() for h in heads])


def test_an_encoder_that_only_one_task_uses_of_joined_features() -> None:
    apart, joined = Heads(), Heads()
    encoders = [nn.Linear(6, 6).double() for _ in range(2)]
    for net in (apart, joined):
        data = torch.ones(4, 5, dtype=torch.float64)
        parts = [encoder(net.trunk(data)) for encoder in encoders]
        if net is joined:
            parts = torch.cat(parts, 1).split(6, 1)
        found = [head(part.tanh()).sum() for head, part in zip(net.heads, parts, strict=False)]
        params = [*net.trunk.parameters(), *net.heads[:2].parameters()]
        params += [p for encoder in encoders for p in encoder.parameters()]
        wrap(params, "mgda").backward(found)
        net.encoded = [param.grad for encoder in encoders for param in encoder.parameters()]
        for encoder in encoders:
            encoder.zero_grad()
    assert_equal(apart.encoded, joined.encoded)
    assert_equal(grads(apart), grads(joined))
