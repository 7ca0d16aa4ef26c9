"""Twenty steps of many configurations end where they ended before: a change of structure changes no bit.

What is pinned was written by ``python tests/optimizer/test_pinned.py``, which is run again, with a word in
the commit, when a method's mathematics changes. On another processor or with another torch the sums are
taken in another order: there the parameters agree to rounding.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer

PINNED = Path(__file__).with_name("pinned.json")
STEPS = 20
NAMES = ("a", "b", "c")

#: What each configuration is made of: the method, the optimizer's options, and how the loop differs.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    **{
        name: {"method": name}
        for name in (
            "upgrad",
            "pcgrad",
            "mgda",
            "cagrad",
            "nash_mtl",
            "config",
            "aligned_mtl",
            "graddrop",
            "median",
            "gradvac",
            "gradnorm",
            "excess_mtl",
            "moco",
            "equal",
            "famo",
            "dwa",
        )
    },
    "uncertainty": {"method": "uncertainty", "tasks": NAMES},
    "max_norm": {"method": "sum", "max_norm": 0.05},
    "both norms": {"method": "cagrad", "max_norm": 0.1, "max_task_norm": 0.05},
    "clip_value": {"method": "mgda", "clip_value": 0.01},
    "clipped coordinates": {"method": "graddrop", "max_norm": 0.05, "nonfinite": "propagate"},
    "by group": {"method": "mgda", "granularity": "group"},
    "by tensor": {"method": "pcgrad", "granularity": "tensor"},
    "shared": {"method": "cagrad", "loop": "shared"},
    "task weights": {"method": "mgda", "task_weights": {"a": 0.5, "c": 2.0}},
    "weights by step": {"method": "mgda", "task_weights": lambda step: [1.0, 0.5 + step, 2.0]},
    "weights_every": {"method": "cagrad", "weights_every": 3},
    "features": {"method": "cagrad", "gram_on": "features", "loop": "features"},
    "fresh": {"method": "momentum", "fresh": 1},
    "a layer": {"method": "cagrad", "loop": "layer"},
    "grad_dtype": {"method": "cagrad", "grad_dtype": torch.float32},
    "stream": {"method": "cagrad", "memory": "stream"},
    "stream by tensor": {
        "method": "mgda",
        "memory": "stream",
        "granularity": "tensor",
        "nonfinite": "propagate",
    },
    "batched": {"method": "cagrad", "batched": True},
    "accumulated": {"method": "mgda", "loop": "accumulate"},
    "accumulated losses": {"method": "equal", "loop": "accumulate"},
    "absent tasks": {"method": "cagrad", "loop": "absent"},
    "a lost task": {"method": "cagrad", "loop": "nan"},
    "a lost step": {"method": "equal", "loop": "nan", "nonfinite": "skip_step"},
    "groups": {"method": "mgda", "groups": [["a", "b"], ["c"]], "loop": "turns"},
    "closing joint": {
        "method": "mgda",
        "groups": [["a", "b"], ["c"]],
        "order": "random",
        "closing_joint": True,
        "loop": "turns",
    },
    "by loss": {
        "method": "equal",
        "groups": [["a"], ["b"], ["c"]],
        "order": "loss",
        "loop": "turns",
    },
    "functional": {"method": "cagrad", "loop": "functional"},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 6)
        self.heads = nn.ModuleList([nn.Linear(6, 2) for _ in NAMES])

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = torch.tanh(self.second(torch.tanh(self.first(inputs))))
        return features, [head(features) for head in self.heads]


def run(configuration: Mapping[str, Any]) -> list[float]:
    """The parameters after some steps."""
    options = dict(configuration)
    loop, method = options.pop("loop", "plain"), options.pop("method")
    torch.manual_seed(0)
    net = Net().double()
    generator = torch.Generator().manual_seed(1)
    if loop == "shared":
        options["shared"] = list(net.first.parameters())
    if loop == "layer":
        options["gram_on"] = list(net.second.parameters())
    groups = [{"params": net.first.parameters()}, {"params": [*net.second.parameters()]}]
    groups.append({"params": net.heads.parameters()})
    inner = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    if loop == "functional":
        optimizer: Any = inner
    else:
        drawn = torch.Generator().manual_seed(2)
        optimizer = MultiTaskOptimizer(inner, method, generator=drawn, **options)
    for step in range(STEPS):
        inputs = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        targets = torch.randn(3, 9, 2, generator=generator, dtype=torch.float64)

        def losses(
            inputs: Tensor = inputs, targets: Tensor = targets
        ) -> tuple[Tensor, dict[str, Any]]:
            features, outputs = net(inputs)
            errors = [(y - t).square().mean() for y, t in zip(outputs, targets, strict=True)]
            return features, dict(zip(NAMES, errors, strict=True))

        optimizer.zero_grad()
        if loop == "turns":
            optimizer.step(lambda losses=losses: losses()[1])
            continue
        features, found = losses()
        if loop == "absent" and step % 3 == 1:
            found["b"] = None
        if loop == "nan" and step % 4 == 2:
            found["b"] = found["b"] * float("nan")
        if loop == "accumulate":
            optimizer.accumulate({name: loss / 2 for name, loss in losses()[1].items()})
            found = {name: loss / 2 for name, loss in found.items()}
        if loop == "features":
            optimizer.backward(found, features=features)
        elif loop == "functional":
            mtl_ops.backward(found, net.parameters(), method, max_norm=0.5)
        else:
            optimizer.backward(found)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()


def machine() -> str:
    """What the order of sums depends on."""
    info = mtl_ops.build_info()
    return f"torch {torch.__version__}, {info.simd}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parameters_after_twenty_steps_are_the_same(name: str) -> None:
    pinned = json.loads(PINNED.read_text())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(CONFIGURATIONS[name])
    finally:
        torch.set_num_threads(threads)
    expected = [float.fromhex(value) for value in pinned["parameters"][name].split()]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-9)
    if pinned["machine"] == machine():
        assert found == expected


def test_everything_that_is_run_is_pinned() -> None:
    assert set(json.loads(PINNED.read_text())["parameters"]) == set(CONFIGURATIONS)
    assert len(CONFIGURATIONS) >= 30


def main() -> None:
    """Pins what the code computes now."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    rows = {name: " ".join(x.hex() for x in run(c)) for name, c in CONFIGURATIONS.items()}
    text = json.dumps({"machine": machine(), "parameters": rows}, indent=1)
    PINNED.write_text(text + "\n")
    sys.stdout.write(f"{len(rows)} configurations\n")


if __name__ == "__main__":
    main()
