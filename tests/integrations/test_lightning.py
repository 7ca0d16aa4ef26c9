"""PyTorch Lightning: a dict of losses from ``training_step``, and automatic optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from multitask import Net, assert_same, batch, wrap
from torch import Tensor, nn

from mtl_ops import log_report

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


def fit(module: Any, callback: Any, batches: int = 4, device: str = "cpu", **options: Any) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator=device,
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


class Single(Module):
    """In 32 bits, for those of 16."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = Net(torch.float32)

    def training_step(self, data: Tensor, _: int) -> dict[str, Tensor]:
        return self.net.losses(data[0].float())


class Scaled(Single):
    """With the trainer's own scaler."""

    def configure_optimizers(self) -> Any:
        scaler = self.trainer.precision_plugin.scaler
        return wrap(self.net, "upgrad", grad_scaler=scaler, **self.options)


def test_bfloat16() -> None:
    """Autocast is Lightning's; merged is what a loop with autocast gives, and not what one without does."""
    module, net, exact = Single(), Net(torch.float32), Net(torch.float32)
    fit(module, MultiTaskCallback(), precision="bf16-mixed")
    for model, enabled in ((net, True), (exact, False)):
        optimizer = wrap(model, "upgrad")
        for step in range(4):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses = model.losses(batch(step).float())
            optimizer.zero_grad()
            optimizer.backward(losses)
            optimizer.step()
    assert_same(module.net.parameters(), net.parameters())
    assert not torch.equal(net.trunk[0].weight, exact.trunk[0].weight)


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_float16(kind: str) -> None:
    """The scale is not in what is learned, nor in the thresholds: close to training without it."""
    from lightning.pytorch.plugins import MixedPrecision

    module, exact = Scaled(max_task_norm=0.5), Single(max_task_norm=0.5)
    scaler = torch.amp.GradScaler(kind, init_scale=256.0, growth_interval=1)
    plugin = MixedPrecision("16-mixed", kind, scaler)  # on a CPU too, unlike `precision="16-mixed"`
    fit(module, MultiTaskCallback(), device=kind, plugins=[plugin])
    assert scaler.get_scale() == 256.0 * 2**4  # after four steps
    fit(exact, MultiTaskCallback(), device=kind)
    assert_same(module.net.parameters(), exact.net.parameters(), rtol=2e-2, atol=2e-3)
    with pytest.raises(ValueError, match="`grad_scaler` of the optimizer should be the trainer's"):
        plugin = MixedPrecision("16-mixed", kind, scaler)
        fit(Single(), MultiTaskCallback(), device=kind, plugins=[plugin])


def test_its_loggers_take_a_report(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    net = Net()
    optimizer = wrap(net, "upgrad")
    optimizer.backward(net.losses(batch()))
    logger = CSVLogger(tmp_path, version=0)
    log_report(logger.log_metrics, optimizer.report, 5)
    logger.save()
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert row["step"] == "5"
    assert float(row["norm/b"]) == pytest.approx(optimizer.report.norms[1].item())


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
