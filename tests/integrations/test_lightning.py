"""PyTorch Lightning: a dict of losses from ``training_step``, and automatic optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from multitask import Net, assert_same, batch, wrap
from torch import Tensor, nn

pl = pytest.importorskip("lightning.pytorch")

from mtl_ops.integrations.lightning import MultiTaskCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
    """The network of the other tests."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net, self.options = Net(), options

    def training_step(self, data: Tensor, _: int) -> dict[str, Tensor]:
        return self.net.losses(data[0])

    def configure_optimizers(self) -> Any:
        return wrap(self.net, "upgrad", **self.options)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(module: Any, callback: Any, batches: int = 4, **options: Any) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        **options,
    )
    data = [batch(step).unsqueeze(0) for step in range(batches)]
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))


@pytest.mark.parametrize("parts", [1, 2])
def test_trains_as_by_hand(parts: int) -> None:
    module, net = Module(max_norm=0.5), Net()
    fit(module, MultiTaskCallback(), accumulate_grad_batches=parts)
    optimizer = wrap(net, "upgrad", max_norm=0.5)
    for step in range(0, 4, parts):
        optimizer.zero_grad()
        for part in range(parts):
            losses = {k: loss / parts for k, loss in net.losses(batch(step + part)).items()}
            (optimizer.backward if part == parts - 1 else optimizer.accumulate)(losses)
        optimizer.step()
    assert_same(module.net.parameters(), net.parameters())


def test_the_module_gets_its_methods_back() -> None:
    module = Module()
    fit(module, MultiTaskCallback())
    assert not {"training_step", "backward"} & set(vars(module))


class Plain(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class ByHand(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OneLoss(Module):
    def training_step(self, data: Tensor, _: int) -> Any:
        return self.net.losses(data[0])["a"]


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Plain, TypeError, r"should return one MultiTaskOptimizer. Found \['SGD'\]"),
        (ByHand, ValueError, "`automatic_optimization` should be True"),
        (OneLoss, TypeError, "`training_step` should return a dict of losses. Found Tensor"),
    ],
)
def test_what_cannot_work(module: type[Module], error: type[Exception], message: str) -> None:
    made = module()
    with pytest.raises(error, match=message):
        fit(made, MultiTaskCallback())
    assert isinstance(made.net, nn.Module)
    assert "training_step" not in vars(made)
