"""One training: what it does, what it records, and that it goes on bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import mtl_ops
from mtl_ops.data import Split
from mtl_ops.demo.checkpoint import load_checkpoint, save_checkpoint
from mtl_ops.demo.config import PLAIN, SINGLE, Config, Run
from mtl_ops.demo.timing import measure
from mtl_ops.demo.trainer import Trainer, conflicting, pair_means

pytest.importorskip("tensorboard")

from mtl_ops.demo.experiment import load_data

TASKS = ("digit", "reconstruction")
CONFIG = Config(tasks=TASKS, epochs=3, seeds=(0,))
#: One that draws random numbers, one with a memory, one whose parameters the optimizer learns.
METHODS = ("pcgrad", "famo", "uncertainty")


@pytest.fixture(scope="module")
def split() -> Split:
    return load_data(CONFIG, 0)


def _trained(run: Run, split: Split, epochs: int) -> Trainer:
    trainer = Trainer(CONFIG, run, split)
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


def _model_bits(trainer: Trainer) -> dict[str, Any]:
    return {name: value.tolist() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("method", [SINGLE, PLAIN, *METHODS])
def test_resumed_bit_for_bit(method: str, split: Split, tmp_path: Path) -> None:
    run = Run(method, 0, TASKS[:1] if method == SINGLE else TASKS)
    whole = _trained(run, split, 3)
    save_checkpoint(tmp_path / "run.pt", _trained(run, split, 1).state_dict())
    # Whatever the process drew meanwhile.
    torch.manual_seed(1234)
    state = load_checkpoint(tmp_path / "run.pt", "cpu")
    assert state is not None
    resumed = Trainer(CONFIG, run, split)
    resumed.load_state_dict(state)
    while resumed.epoch < 3:
        resumed.train_epoch()
    assert resumed.history == whole.history
    assert _model_bits(resumed) == _model_bits(whole)


def test_what_an_epoch_records(split: Split) -> None:
    history = _trained(Run("sum", 0, TASKS), split, 2).history
    assert history["steps"] == [5, 5]
    assert [len(values) for values in history["loss"]] == [2, 2]
    assert [len(values) for values in history["metric"]] == [2, 2]
    assert history["weight"] == [[1.0, 1.0], [1.0, 1.0]]
    assert all(-1 <= value <= 1 for values in history["cosine"] for value in values)
    assert all(0 <= count <= 5 for count in history["conflicts"])


def test_without_task_gradients_there_are_no_cosines(split: Split) -> None:
    history = _trained(Run(PLAIN, 0, TASKS), split, 1).history
    assert history["conflicts"] == []
    assert "cosine" not in history


def test_training_helps(split: Split) -> None:
    history = _trained(Run("sum", 0, TASKS), split, 3).history
    (first_digit, first_image), (last_digit, last_image) = (
        history["metric"][0],
        history["metric"][-1],
    )
    assert last_digit > first_digit
    assert last_image < first_image
    assert all(
        last < first for first, last in zip(history["loss"][0], history["loss"][-1], strict=True)
    )


def test_the_sum_of_task_gradients_is_the_gradient_of_the_plain_sum(split: Split) -> None:
    plain, summed = (Trainer(CONFIG, Run(method, 0, TASKS), split) for method in (PLAIN, "sum"))
    batch = next(plain.batches())
    for trainer in (plain, summed):
        trainer.step(batch)
    for one, two in zip(plain.model.parameters(), summed.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_a_method_that_asks_for_them_sees_the_losses_after_the_step(split: Split) -> None:
    seen: list[torch.Tensor] = []

    @mtl_ops.methods.register("curious")
    class Curious(mtl_ops.methods.Sum):
        observes = True

        def observe(self, losses: torch.Tensor) -> None:
            seen.append(losses)

    try:
        trainer = Trainer(CONFIG, Run("curious", 0, TASKS), split)
        batch = next(trainer.batches())
        before = torch.stack(list(trainer.step(batch).values()))
    finally:
        mtl_ops.methods.unregister("curious")
    with torch.no_grad():
        after = torch.stack(list(trainer.model.losses(batch).values()))
    torch.testing.assert_close(seen, [after.double()])
    assert (after < before).all()


def test_the_method_is_told_that_an_epoch_has_ended(split: Split) -> None:
    """Without it, DWA would never leave its first epoch, and all weights would stay 1."""
    weights = _trained(Run("dwa", 0, TASKS), split, 3).history["weight"]
    assert weights[:2] == [[1.0, 1.0], [1.0, 1.0]]
    assert weights[2] != [1.0, 1.0]
    assert sum(weights[2]) == pytest.approx(2.0)


def test_batches_are_whole_and_new_in_each_epoch(split: Split) -> None:
    trainer = Trainer(CONFIG, Run(PLAIN, 0, TASKS), split)
    first, second = list(trainer.batches()), list(trainer.batches())
    assert [len(batch["input"]) for batch in first] == [64] * 5
    seen = torch.cat([batch["input"] for batch in first]).flatten(1)
    assert len(torch.unique(seen, dim=0)) == 320
    assert not torch.equal(first[0]["input"], second[0]["input"])


def test_the_seed_decides_weights_and_order(split: Split) -> None:
    runs = [Run(PLAIN, seed, TASKS) for seed in (0, 0, 1)]
    trainers = [Trainer(CONFIG, run, split) for run in runs]
    bits = [_model_bits(trainer) for trainer in trainers]
    orders = [next(trainer.batches())["digit"].tolist() for trainer in trainers]
    assert bits[0] == bits[1] != bits[2]
    assert orders[0] == orders[1] != orders[2]


def test_conflicting_steps_and_mean_cosines() -> None:
    nan = math.nan
    steps = torch.tensor(
        [
            [[1.0, 0.5, 0.5], [0.5, 1.0, 0.1], [0.5, 0.1, 1.0]],
            [[1.0, 0.5, -0.5], [0.5, 1.0, 0.3], [-0.5, 0.3, 1.0]],
            [[1.0, nan, -0.3], [nan, 1.0, nan], [-0.3, nan, 1.0]],
        ]
    )
    assert conflicting(steps) == 2
    assert pair_means(steps) == pytest.approx([0.5, -0.1, 0.2])


def test_steps_are_timed_in_turn(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    step = Trainer.step

    def record(self: Trainer, batch: Any) -> Any:
        order.append(self.run.label)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", record)
    count: list[None] = []
    times = measure(CONFIG, ["sum"], split, 4, lambda: count.append(None))
    labels = ["single-digit", "single-reconstruction", "plain", "sum"]
    assert sorted(times) == sorted(labels)
    for each in times.values():
        assert 0 < each["low"] <= each["median"] <= each["high"]
    # Three rounds to warm up and four that count; each begins with the next one.
    assert len(count) == 7 * 4
    rounds = [order[start : start + 4] for start in range(0, 28, 4)]
    assert [each[0] for each in rounds] == [labels[i % 4] for i in range(7)]
    assert all(sorted(each) == sorted(labels) for each in rounds)


def test_one_group_a_task_steps_once_for_each(split: Split) -> None:
    groups = tuple((task,) for task in TASKS)
    trainer = Trainer(Config(tasks=TASKS, seeds=(0,), groups=groups), Run("sum", 0, TASKS), split)
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    losses = trainer.step(next(trainer.batches()))
    assert list(losses) == list(TASKS)
    assert len(steps) == 2


def _halved(precision: str, **other: Any) -> Config:
    return Config(tasks=TASKS, epochs=2, seeds=(0,), precision=precision, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "precision"), [("upgrad", "bfloat16"), ("famo", "float16"), (PLAIN, "float16")]
)
def test_forwards_of_training_are_cast_and_the_rest_is_not(
    method: str, precision: str, split: Split, tmp_path: Path
) -> None:
    """An epoch ends near one in float32; what is resumed goes on bit for bit."""
    config, run = _halved(precision), Run(method, 0, TASKS)
    exact, trainer = Trainer(_halved("float32"), run, split), Trainer(config, run, split)
    layer = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.Linear))
    seen: set[tuple[bool, torch.dtype]] = set()
    layer.register_forward_hook(lambda m, _, out: seen.add((m.training, out.dtype)))
    for each in (exact, trainer):
        each.train_epoch()
    assert seen == {(True, getattr(torch, precision)), (False, torch.float32)}
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
    losses, wanted = trainer.history["loss"], exact.history["loss"]
    assert losses != wanted
    assert losses[0] == pytest.approx(wanted[0], rel=0.05)
    save_checkpoint(tmp_path / "run.pt", trainer.state_dict())
    resumed = Trainer(config, run, split)
    resumed.load_state_dict(load_checkpoint(tmp_path / "run.pt", "cpu") or {})
    for each in (trainer, resumed):
        each.model.train()
        each.step(next(each.batches()))
    assert _model_bits(resumed) == _model_bits(trainer)


@pytest.mark.parametrize("method", [PLAIN, "sum"])
def test_a_step_whose_gradients_overflow_is_left_out_and_lowers_the_scale(
    method: str, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(_halved("float16"), Run(method, 0, TASKS), split)
    assert trainer.scaler is not None

    def weights() -> list[Any]:
        return [value.tolist() for value in trainer.model.parameters()]

    batch, before = next(trainer.batches()), weights()
    trainer.step(batch)
    assert weights() != before
    plain = trainer.model.losses
    monkeypatch.setattr(
        trainer.model, "losses", lambda b: {task: 1e36 * x for task, x in plain(b).items()}
    )
    before, scale = weights(), trainer.scaler.get_scale()
    trainer.step(batch)
    assert weights() == before
    assert trainer.scaler.get_scale() == scale / 2
    assert trainer.state_dict()["scaler"]["scale"] == scale / 2
