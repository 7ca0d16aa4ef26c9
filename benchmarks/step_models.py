"""The models whose steps are timed: a trunk that all tasks share, and a linear layer for each task."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MODELS", "SAMPLES", "Subject", "make", "make_samples"]


@dataclass
class Subject:
    """A model on one batch.

    Attributes:
        trunk: What the tasks share.
        heads: What they do not.
        losses: The features, and T losses.
    """

    trunk: nn.Module
    heads: nn.Module
    losses: Callable[[], tuple[Tensor, list[Tensor]]]

    @property
    def params(self) -> list[Tensor]:
        """Those that are learnt."""
        both = (*self.trunk.parameters(), *self.heads.parameters())
        return [param for param in both if param.requires_grad]

    @property
    def shared(self) -> list[Tensor]:
        """Those of the trunk."""
        return [param for param in self.trunk.parameters() if param.requires_grad]


def _with_heads(
    trunk: nn.Module, data: Tensor, width: int, tasks: int, features: Callable[[], Tensor]
) -> Subject:
    heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(tasks)).to(data.device)
    targets = torch.randn(tasks, len(data), 10, device=data.device)

    def losses() -> tuple[Tensor, list[Tensor]]:
        shared = features()
        pairs = zip(heads, targets, strict=True)
        return shared, [functional.mse_loss(head(shared), target) for head, target in pairs]

    return Subject(trunk, heads, losses)


def _mlp(tasks: int, device: str, quick: bool, batch: int) -> Subject:
    width, depth = (32, 2) if quick else (1024, 8)
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    trunk = nn.Sequential(*layers).to(device)
    data = torch.randn(4 if quick else batch, width, device=device)
    return _with_heads(trunk, data, width, tasks, lambda: trunk(data))


def _transformer(
    tasks: int, device: str, quick: bool, rows: int, depth: int, width: int
) -> Subject:
    width, depth, length = (16, 1, 4) if quick else (width, depth, 16)
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
    trunk = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).to(device)
    data = torch.randn(2 if quick else rows // length, length, width, device=device)
    return _with_heads(trunk, data, width, tasks, lambda: trunk(data).mean(1))


class _Block(nn.Module):
    """The basic block of a residual network."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


def _resnet(tasks: int, device: str, quick: bool, batch: int) -> Subject:
    """ResNet-18 for images of 32×32."""
    widths = (4, 8) if quick else (64, 128, 256, 512)
    blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)]
    before = widths[0]
    for place, width in enumerate(widths):
        blocks += [_Block(before, width, 1 if place == 0 else 2), _Block(width, width, 1)]
        before = width
    trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(device)
    side = 8 if quick else 32
    data = torch.randn(2 if quick else batch, 3, side, side, device=device)
    return _with_heads(trunk, data, before, tasks, lambda: trunk(data))


def _recommender(tasks: int, device: str, quick: bool, batch: int) -> Subject:
    """Eight tables and a tower of 512, 256 and 128."""
    count, rows, width = (2, 20, 4) if quick else (8, 10_000, 16)
    widths = (count * width, 16, 8) if quick else (count * width, 512, 256, 128)
    tables = nn.ModuleList(nn.Embedding(rows, width) for _ in range(count))
    layers = [
        m
        for before, after in itertools.pairwise(widths)
        for m in (nn.Linear(before, after), nn.ReLU())
    ]
    tower = nn.Sequential(*layers)
    trunk = nn.ModuleList([tables, tower]).to(device)
    ids = torch.randint(0, rows, (8 if quick else batch, count), device=device)

    def features() -> Tensor:
        picked = [table(column) for table, column in zip(tables, ids.unbind(1), strict=True)]
        return tower(torch.cat(picked, 1))

    return _with_heads(trunk, ids, widths[-1], tasks, features)


def _physics(tasks: int, device: str, quick: bool, batch: int) -> Subject:
    """A net of five layers of 50; the losses are residuals with second derivatives, and observations."""
    width = 8 if quick else 50
    layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh()]
    for _ in range(1 if quick else 4):
        layers += [nn.Linear(width, width), nn.Tanh()]
    trunk = nn.Sequential(*layers, nn.Linear(width, 1)).to(device)
    points = torch.rand(10 if quick else batch, 2, device=device)

    def losses() -> tuple[Tensor, list[Tensor]]:
        x = points.clone().requires_grad_()
        u = trunk(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
        residual = first[:, 1] - second[:, 0]
        found = [(residual - k * u[:, 0]).square().mean() for k in range(tasks // 2)]
        part = len(x) // 4
        found += [(u[:part, 0] - k).square().mean() for k in range(tasks - tasks // 2)]
        return u, found

    return Subject(trunk, nn.ModuleList(), losses)


class _Adapted(nn.Module):
    """A frozen layer with a product of two thin matrices beside it."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.frozen(x) + self.up(self.down(x)))


def _adapted(tasks: int, device: str, quick: bool, batch: int) -> Subject:
    width, depth, rank = (16, 2, 2) if quick else (1024, 8, 8)
    trunk = nn.Sequential(*(_Adapted(width, rank) for _ in range(depth))).to(device)
    data = torch.randn(4 if quick else batch, width, device=device)
    return _with_heads(trunk, data, width, tasks, lambda: trunk(data))


#: By what a case is called.
MODELS: dict[str, Callable[[int, str, bool], Subject]] = {
    **{f"MLP 8×1024, B = {b}": functools.partial(_mlp, batch=b) for b in (16, 64, 256)},
    "transformer 4×512, B·S = 128": functools.partial(_transformer, rows=128, depth=4, width=512),
    "transformer 2×256, B·S = 2048": functools.partial(_transformer, rows=2048, depth=2, width=256),
    "ResNet-18, 32×32, B = 16": functools.partial(_resnet, batch=16),
    "recommender, B = 1024": functools.partial(_recommender, batch=1024),
    "physics-informed 5×50, B = 2000": functools.partial(_physics, batch=2000),
    "LoRA 8×1024, rank 8, B = 64": functools.partial(_adapted, batch=64),
}


def make(case: str, tasks: int, device: str = "cpu", quick: bool = False) -> Subject:
    """The same model on the same batch at every call."""
    torch.manual_seed(0)
    return MODELS[case](tasks, device, quick)


# ---- losses by the sample -------------------------------------------------------------------------


def _samples_mlp() -> nn.Module:
    widths = (256, 512, 512, 512, 512, 10)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _samples_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def _samples_transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(body, nn.Flatten(), nn.Linear(16 * 128, 10))


#: The model, and the shape of one sample.
SAMPLES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 256-4×512": (_samples_mlp, (256,)),
    "CNN, 3 convolutions, 16×16": (_samples_cnn, (3, 16, 16)),
    "transformer 2×128, S = 16": (_samples_transformer, (16, 128)),
}


def make_samples(
    case: str, batch: int, device: str = "cpu"
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model, and what computes its ``(B,)`` losses on one batch."""
    torch.manual_seed(0)
    build, shape = SAMPLES[case]
    model = build().to(device)
    data, targets = torch.randn(batch, *shape, device=device), torch.randn(batch, 10, device=device)
    return model, lambda: (model(data) - targets).square().mean(1)
