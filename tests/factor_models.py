"""Models of many kinds with three tasks each, and how many of their parameters are products throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from mtl_ops.gradients.differentiate import differentiate
from mtl_ops.gradients.tasks import Tasks, read_losses

TASKS = 3
Features = Callable[[Tensor], Tensor]


@dataclass
class Case:
    """A model on one batch.

    Attributes:
        model: What holds the parameters.
        losses: T losses, from a new graph at each call.
        params: The parameters.
        factors: How many of them are measured in factors.
    """

    model: nn.Module
    losses: Callable[[], list[Tensor]]
    params: list[Tensor]
    factors: int


class Heads(nn.Module):
    """A trunk, and one linear layer for each task on the mean over all but the first and last dimension."""

    def __init__(self, trunk: nn.Module, width: int, call: Features | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(TASKS))
        self.call = call or trunk

    def losses(self, data: Tensor) -> list[Tensor]:
        """Squared errors with targets that are far apart."""
        features = self.call(data)
        flat = features.reshape(len(features), -1, features.shape[-1]).mean(1)
        return [(head(flat) - place + 1).square().mean() for place, head in enumerate(self.heads)]


def on_trunk(
    trunk: nn.Module, data: Tensor, width: int, factors: int, call: Features | None = None
) -> Callable[[torch.dtype], Case]:
    """A case of a trunk with heads."""

    def make(dtype: torch.dtype) -> Case:
        model = Heads(trunk, width, call).to(dtype)
        given = data.to(dtype) if data.is_floating_point() else data
        params = [param for param in model.parameters() if param.requires_grad]
        return Case(model, lambda: model.losses(given), params, factors)

    return make


def _weights(*shapes: Sequence[int]) -> nn.ParameterList:
    return nn.ParameterList(torch.randn(*shape) / shape[-1] ** 0.5 for shape in shapes)


def _linear() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    return on_trunk(net, torch.randn(7, 6), 4, 2)


def _linear_in_3d() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    return on_trunk(net, torch.randn(2, 3, 6), 4, 2)


def _linear_transposed() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    return on_trunk(net, torch.randn(3, 2, 6).transpose(0, 1), 4, 2)


def _convolutions() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 5, (2, 3), dilation=(1, 2), padding="same"),
        nn.Tanh(),
        nn.Conv2d(5, 6, 1, bias=False),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return on_trunk(net, torch.randn(2, 3, 9, 8), 4, 4)


def _channels_last() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Flatten(2))
    net = net.to(memory_format=torch.channels_last)
    data = torch.randn(2, 3, 7, 7).contiguous(memory_format=torch.channels_last)
    return on_trunk(net, data, 4, 2, lambda x: net(x).mT)


def _convolutions_1d_3d() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(
        nn.Conv1d(3, 8, 3, stride=2),
        nn.Unflatten(2, (3, 2, 2)),
        nn.Conv3d(8, 4, (2, 1, 2)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
    )
    return on_trunk(net, torch.randn(2, 3, 26), 4, 2)


def _grouped() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3), nn.Flatten(2))
    return on_trunk(net, torch.randn(2, 4, 6, 6), 4, 0, lambda x: net(x).mT)


def _normalised() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.PReLU(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
    )
    return on_trunk(net, torch.randn(3, 3, 6, 6), 4, 1)


def _embedding() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Tanh(), nn.Linear(4, 4))
    return on_trunk(net, torch.randint(0, 9, (3, 5)), 4, 2)


def _sparse_embedding() -> Callable[[torch.dtype], Case]:
    return on_trunk(nn.Embedding(9, 4, sparse=True), torch.randint(0, 9, (3, 5)), 4, 1)


def _scaled_embedding() -> Callable[[torch.dtype], Case]:
    table = nn.Embedding(9, 4, scale_grad_by_freq=True)
    return on_trunk(table, torch.randint(0, 9, (3, 5)), 4, 0)


def _bag(mode: str) -> Callable[[], Callable[[torch.dtype], Case]]:
    def make() -> Callable[[torch.dtype], Case]:
        table = nn.EmbeddingBag(9, 4, mode=mode, padding_idx=1)
        return on_trunk(table, torch.randint(0, 9, (3, 5)), 4, 0 if mode == "max" else 1)

    return make


def _weighted_bag() -> Callable[[torch.dtype], Case]:
    table = nn.EmbeddingBag(9, 4, mode="sum")
    ids, starts = torch.randint(0, 9, (7,)), torch.tensor([0, 3, 3])
    factors = torch.rand(7, dtype=torch.float64)
    return on_trunk(table, ids, 4, 1, lambda x: table(x, starts, factors.to(table.weight.dtype)))


def _attention() -> Callable[[torch.dtype], Case]:
    net = nn.MultiheadAttention(4, 2, batch_first=True)
    return on_trunk(net, torch.randn(2, 3, 4), 4, 2, lambda x: net(x, x, x)[0])


def _transformer() -> Callable[[torch.dtype], Case]:
    layers = [nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True) for _ in range(2)]
    return on_trunk(nn.Sequential(*layers), torch.randn(2, 3, 4), 4, 8)


def _recurrent(kind: type[nn.RNNBase]) -> Callable[[], Callable[[torch.dtype], Case]]:
    def make() -> Callable[[torch.dtype], Case]:
        net = kind(4, 4, batch_first=True)
        # In float32 the LSTM of the CPU is one operation.
        factors = -1 if kind is nn.LSTM else 2
        return on_trunk(net, torch.randn(2, 3, 4), 4, factors, lambda x: net(x)[0])

    return make


def _cell() -> Callable[[torch.dtype], Case]:
    cell = nn.LSTMCell(4, 4)

    def unrolled(x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = cell(step, state)
        assert state is not None
        return state[0]

    return on_trunk(cell, torch.randn(2, 5, 4), 4, 2, unrolled)


def _tied() -> Callable[[torch.dtype], Case]:
    tied = nn.Linear(4, 4)
    call = lambda x: tied(torch.tanh(tied(torch.tanh(tied(x)))))  # noqa: E731
    return on_trunk(tied, torch.randn(5, 4), 4, 1, call)


def _both_sides() -> Callable[[torch.dtype], Case]:
    tied = nn.Linear(4, 4)
    return on_trunk(tied, torch.randn(5, 4), 4, 1, lambda x: torch.tanh(tied(x)) @ tied.weight)


def _on_the_left() -> Callable[[torch.dtype], Case]:
    tied = nn.Linear(4, 4)
    call = lambda x: (tied.weight @ torch.tanh(tied.weight.mT @ x)).mT + tied.bias  # noqa: E731
    return on_trunk(tied, torch.randn(4, 5), 4, 1, call)


def _vocabulary() -> Callable[[torch.dtype], Case]:
    table, mix = nn.Embedding(9, 4), nn.Linear(9, 4)
    call = lambda i: mix(torch.tanh(table(i)) @ table.weight.mT)  # noqa: E731
    return on_trunk(nn.ModuleList([table, mix]), torch.randint(0, 9, (3, 5)), 4, 2, call)


def _vocabulary_both() -> Callable[[torch.dtype], Case]:
    """A table that is looked up twice and multiplied from both sides."""
    table = nn.Embedding(9, 4)

    def call(ids: Tensor) -> Tensor:
        first = torch.tanh(table(ids))
        counts = torch.tanh(first @ table.weight.mT)
        return counts @ table.weight + table(ids.flip(0))

    return on_trunk(table, torch.randint(0, 9, (3, 5)), 4, 1, call)


def _einsum() -> Callable[[torch.dtype], Case]:
    weights = _weights((4, 6), (4, 4))
    call = lambda x: torch.einsum("bi,oi->bo", x, weights[0]) @ weights[1]  # noqa: E731
    return on_trunk(weights, torch.randn(5, 6), 4, 2, call)


def _experts() -> Callable[[torch.dtype], Case]:
    """Matrices side by side, by einsum and by bmm; one that is repeated for a batch."""
    weights = _weights((3, 4, 6), (3, 4, 4), (4, 4))

    def call(x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bi,eoi->ebo", x, weights[0]))
        mixed = torch.bmm(hidden, weights[1])
        return torch.bmm(mixed, weights[2].expand(3, 4, 4)).transpose(0, 1)

    return on_trunk(weights, torch.randn(5, 6), 4, 3, call)


def _added() -> Callable[[torch.dtype], Case]:
    """``addmm`` and ``baddbmm`` with and without a factor."""
    weights = _weights((6, 4), (4, 4), (2, 4, 4))

    def call(x: Tensor) -> Tensor:
        first = torch.tanh(torch.addmm(x[:, :4], x, weights[0]))
        second = torch.addmm(first, first, weights[1], alpha=0.5)
        halves = second.reshape(2, -1, 4)
        return torch.baddbmm(halves, halves, weights[2]).flatten(0, 1)

    return on_trunk(weights, torch.randn(6, 6), 4, 2, call)


def _lora() -> Callable[[torch.dtype], Case]:
    frozen = nn.Linear(6, 4).requires_grad_(False)
    model = nn.ModuleList([frozen, _weights((2, 6), (4, 2), (2, 6), (4, 2))])

    def call(x: Tensor) -> Tensor:
        a, b, c, d = model[1]
        return linear(x, frozen.weight + b @ a) + frozen(x) + x @ c.mT @ d.mT

    return on_trunk(model, torch.randn(5, 6), 4, 4, call)


def _sliced() -> Callable[[torch.dtype], Case]:
    tied = nn.Linear(4, 4)

    def call(x: Tensor) -> Tensor:
        parts = [linear(x, tied.weight[:2]), linear(x, tied.weight[2:])]
        return torch.cat(parts, 1) + tied.bias

    return on_trunk(tied, torch.randn(5, 4), 4, 0, call)


def _reparametrised() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 4))
    return on_trunk(net, torch.randn(5, 6), 4, 1)


def _decayed() -> Callable[[torch.dtype], Case]:
    layer = nn.Linear(4, 4)
    return on_trunk(
        layer, torch.randn(5, 4), 4, 0, lambda x: layer(x) + layer.weight.square().sum()
    )


def _checkpointed() -> Callable[[torch.dtype], Case]:
    inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())
    net = nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 4))
    call = lambda x: net[2](checkpoint(inner, net[0](x), use_reentrant=False))  # noqa: E731
    return on_trunk(net, torch.randn(5, 4), 4, 2, call)


def _dropped() -> Callable[[torch.dtype], Case]:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 4))

    def call(x: Tensor) -> Tensor:
        torch.default_generator.manual_seed(1)
        return net(x)

    return on_trunk(net, torch.randn(6, 4), 4, 2, call)


MODELS: dict[str, Callable[[], Callable[[torch.dtype], Case]]] = {
    "linear": _linear,
    "linear in 3-D": _linear_in_3d,
    "linear, transposed": _linear_transposed,
    "convolutions": _convolutions,
    "channels last": _channels_last,
    "convolutions 1-D and 3-D": _convolutions_1d_3d,
    "grouped and transposed": _grouped,
    "normalised": _normalised,
    "embedding": _embedding,
    "sparse embedding": _sparse_embedding,
    "embedding scaled by frequency": _scaled_embedding,
    "bag, sum": _bag("sum"),
    "bag, mean": _bag("mean"),
    "bag, max": _bag("max"),
    "bag, weighted": _weighted_bag,
    "attention": _attention,
    "transformer": _transformer,
    "LSTM": _recurrent(nn.LSTM),
    "GRU": _recurrent(nn.GRU),
    "RNN": _recurrent(nn.RNN),
    "LSTM cell over time": _cell,
    "one layer three times": _tied,
    "weight and its transpose": _both_sides,
    "weight on the left": _on_the_left,
    "tied vocabulary": _vocabulary,
    "vocabulary from both sides": _vocabulary_both,
    "einsum": _einsum,
    "experts": _experts,
    "products that add": _added,
    "LoRA": _lora,
    "sliced": _sliced,
    "weight norm": _reparametrised,
    "decay in the features": _decayed,
    "checkpointed": _checkpointed,
    "dropout, in place": _dropped,
}


def _second_derivatives(dtype: torch.dtype) -> Case:
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))
    net = net.to(dtype)
    data = torch.randn(7, 2, dtype=dtype)

    def losses() -> list[Tensor]:
        x = data.clone().requires_grad_()
        u = net(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
        residual = second[:, 0] - first[:, 1]
        return [residual.square().mean(), u[:3].square().mean(), (first[:, 1] - 1).square().mean()]

    return Case(net, losses, list(net.parameters()), 3)


def _layers(dtype: torch.dtype) -> tuple[nn.ModuleList, Tensor]:
    return nn.ModuleList(nn.Linear(4, 4) for _ in range(4)).to(dtype), torch.randn(
        5, 4, dtype=dtype
    )


def _two_levels(dtype: torch.dtype) -> Case:
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        low = torch.tanh(layers[0](x))
        high = torch.tanh(layers[1](low))
        return [layers[2](low).square().mean(), high.square().mean(), (low * high).mean()]

    return Case(layers, losses, list(layers[:3].parameters()), 2)


def _branches(dtype: torch.dtype) -> Case:
    """Tasks 0 and 1 share a branch, 2 and 3 another, all the trunk."""
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        trunk = torch.tanh(layers[0](x))
        left, right = torch.tanh(layers[1](trunk)), torch.tanh(layers[2](trunk))
        return [left.square().mean(), left.abs().mean(), right.square().mean(), right.abs().mean()]

    return Case(layers, losses, list(layers[:3].parameters()), 3)


def _used_in_a_head(dtype: torch.dtype) -> Case:
    """A weight of the trunk that one head reads as well."""
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        features = torch.tanh(layers[1](torch.tanh(layers[0](x))))
        again = torch.tanh(layers[0](features))
        return [features.square().mean(), again.square().mean(), features.abs().mean()]

    return Case(layers, losses, list(layers[:2].parameters()), 2)


def _decay_in_one_loss(dtype: torch.dtype) -> Case:
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        features = torch.tanh(layers[1](torch.tanh(layers[0](x))))
        decay = layers[0].weight.square().sum()
        return [features.square().mean(), features.abs().mean() + decay]

    return Case(layers, losses, list(layers[:2].parameters()), 1)


def _graph_for_each(dtype: torch.dtype) -> Case:
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        return [torch.tanh(layers[0](x + k)).square().mean() for k in range(3)]

    return Case(layers, losses, list(layers[0].parameters()), 1)


def _one_tensor(dtype: torch.dtype) -> Case:
    """Losses that are elements of one tensor."""
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        features = torch.tanh(layers[1](torch.tanh(layers[0](x))))
        return list(features.square().mean(0).unbind())

    return Case(layers, losses, list(layers[:2].parameters()), 2)


def _several_places(dtype: torch.dtype) -> Case:
    """Heads on two features that lie beside each other, of which some tasks use one."""
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        trunk = torch.tanh(layers[0](x))
        first, second = torch.tanh(layers[1](trunk)), torch.tanh(layers[2](trunk))
        one, two = first.chunk(2, dim=1)
        return [one.square().mean(), (two * second[:, :2]).mean(), second.abs().mean(), one.mean()]

    return Case(layers, losses, list(layers[:3].parameters()), 3)


def _columns(dtype: torch.dtype) -> Case:
    """Heads that are put together, and taken apart again by the losses."""
    layers, x = _layers(dtype)

    def losses() -> list[Tensor]:
        features = torch.tanh(layers[0](x))
        joint = torch.cat([layers[k](features) for k in (1, 2, 3)], dim=1)
        return [joint[:, 4 * k : 4 * k + 4].square().mean() for k in range(3)]

    return Case(layers, losses, list(layers.parameters()), 1)


GRAPHS: dict[str, Callable[[torch.dtype], Case]] = {
    "columns of one output": _columns,
    "second derivatives": _second_derivatives,
    "heads at two levels": _two_levels,
    "branches": _branches,
    "used in a head": _used_in_a_head,
    "decay in one loss": _decay_in_one_loss,
    "a graph for each task": _graph_for_each,
    "one tensor of losses": _one_tensor,
    "heads at several places": _several_places,
}


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Case:
    """The case of a name."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return GRAPHS[name](dtype) if name in GRAPHS else MODELS[name]()(dtype)


def rows_of(case: Case) -> tuple[Tasks, list[Tensor | None]]:
    """The losses, whose graph is kept, and their gradients one by one."""
    tasks = read_losses(case.losses())
    return tasks, differentiate(tasks, case.params, retain_graph=True)


__all__ = ["GRAPHS", "MODELS", "Case", "make", "rows_of"]
