"""Hugging Face's ``Trainer``: what its arguments do to a model that returns a dict of losses."""

from __future__ import annotations

import gc
import importlib
import os
import re
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from multitask import NAMES, Net, assert_equal, assert_same, batch
from processes import on_processes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_ops import MultiTaskOptimizer, methods
from mtl_ops.integrations._trainer_arguments import check_arguments

#: Imported in the tests, and not while they are collected: it takes seconds, in every process that runs some.
MISSING = any(find_spec(name) is None for name in ("accelerate", "transformers"))
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(MISSING, reason="needs transformers and accelerate"),
]

SIZE = 4  # of a micro-batch
DATA = [{"data": row} for row in batch(size=24)]


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect() -> None:
    """A trainer collects garbage; among the objects of its package that takes a third of a second each time."""
    if not MISSING:
        importlib.import_module("mtl_ops.integrations.transformers")
        gc.collect()
        gc.freeze()


class Model(Net):
    """The network of the other tests, as a model of a trainer."""

    def forward(self, data: Tensor, absent: Tensor | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Losses without those whose column in ``absent`` is set in the first row."""
        targets = {"a": 1.0, "b": -1.0, "c": 0.3}
        outputs = Net.forward(self, data)
        losses: dict[str, Tensor | None] = {
            name: (output - targets[name]).square().mean() * 3.0**place
            for place, (name, output) in enumerate(outputs.items())
        }
        if absent is not None:
            for place, name in enumerate(NAMES):
                if absent[0, place]:
                    losses[name] = None
        return {"loss": losses, "logits": torch.cat(list(outputs.values()), dim=1)}


def arguments(folder: Path | str, **options: Any) -> Any:
    import transformers

    given = {
        "max_steps": 4,
        "per_device_train_batch_size": SIZE,
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 100,
        **options,
    }
    return transformers.TrainingArguments(output_dir=str(folder), **given)


def trainer_of(
    model: nn.Module,
    folder: Path,
    data: list[dict[str, Tensor]] = DATA,
    kind: type | None = None,
    **options: Any,
) -> Any:
    """A trainer whose options go to where they belong."""
    import transformers

    from mtl_ops.integrations.transformers import MultiTaskTrainer

    names = set(transformers.TrainingArguments.__dataclass_fields__)
    own = {name: options.pop(name) for name in sorted(names & set(options))}
    return (kind or MultiTaskTrainer)(
        model, arguments(folder, **own), train_dataset=data, **options
    )


def by_hand(
    model: Model,
    method: Any = "upgrad",
    data: list[dict[str, Tensor]] = DATA,
    size: int = SIZE,
    inner: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> MultiTaskOptimizer:
    """Four steps with batches of a size, and the trainer's linear schedule."""
    optimizer = MultiTaskOptimizer(inner(model.parameters(), lr=0.05), method, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    for step in range(4):
        rows = [data[(step * size + k) % len(data)] for k in range(size)]
        optimizer.zero_grad()
        optimizer.backward(
            model(**{key: torch.stack([r[key] for r in rows]) for key in rows[0]})["loss"]
        )
        optimizer.step()
        schedule.step()
    return optimizer


def test_trains_as_by_hand(tmp_path: Path) -> None:
    model, net = Model(), Model()
    trainer = trainer_of(model, tmp_path, method="upgrad", max_task_norm=0.5)
    trainer.train()
    by_hand(net, max_task_norm=0.5)
    assert_same(model.parameters(), net.parameters())
    assert isinstance(trainer.merging, MultiTaskOptimizer)
    assert trainer.merging.method.name == "upgrad"


def test_micro_batches_are_merged_as_one_batch(tmp_path: Path) -> None:
    """And not one by one, which gives something else; an incomplete last step counts its own."""
    model, net, other = Model(), Model(), Model()
    trainer_of(model, tmp_path, gradient_accumulation_steps=3).train()
    by_hand(net, size=3 * SIZE)
    assert_same(model.parameters(), net.parameters())
    trainer_of(other, tmp_path, gradient_accumulation_steps=3, method="sum").train()
    assert not torch.allclose(other.trunk[0].weight, net.trunk[0].weight)

    short, expected = Model(), Model()
    options = {"gradient_accumulation_steps": 4, "max_steps": -1, "num_train_epochs": 1}
    trainer_of(short, tmp_path, lr_scheduler_type="constant", **options).train()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(expected.parameters(), lr=0.05), "upgrad")
    rows = torch.stack([row["data"] for row in DATA])
    for part in (rows[: 4 * SIZE], rows[4 * SIZE :]):
        optimizer.zero_grad()
        optimizer.backward(expected(part)["loss"])
        optimizer.step()
    assert_same(short.parameters(), expected.parameters())


def test_the_merged_gradient_is_clipped_once(tmp_path: Path) -> None:
    clipped, fused, net = Model(), Model(), Model()
    trainer = trainer_of(clipped, tmp_path, max_grad_norm=0.05, logging_steps=1)
    trainer.train()
    trainer_of(fused, tmp_path, max_norm=0.05).train()
    by_hand(net, max_norm=0.05)
    assert_same(fused.parameters(), net.parameters())
    assert_same(clipped.parameters(), net.parameters(), rtol=1e-4, atol=1e-6)  # torch adds 1e-6
    first = Model()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(first.parameters(), lr=0.05), "upgrad")
    optimizer.backward(first(torch.stack([row["data"] for row in DATA[:SIZE]]))["loss"])
    norm = torch.nn.utils.get_total_norm([p.grad for p in first.parameters() if p.grad is not None])
    assert norm > 0.05
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(norm.item())
    with pytest.raises(ValueError, match=r"`max_norm` should be left out .* `max_grad_norm = 1.0`"):
        trainer_of(Model(), tmp_path, max_grad_norm=1.0, max_norm=1.0)
    with pytest.raises(ValueError, match="`max_norm` should be left out"):
        inner = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), max_norm=1.0)
        trainer_of(net, tmp_path, max_grad_norm=1.0, optimizers=(inner, None)).train()


def drop(*absent: str) -> list[float]:
    return [float(name in absent) for name in NAMES]


@pytest.mark.parametrize("parts", [1, 2])
def test_tasks_that_are_absent(tmp_path: Path, parts: int) -> None:
    """From single micro-batches; two have no label at all, and one of these is the last of a step."""
    absent = [drop("a"), drop(*NAMES), drop("b", "c"), drop(), drop(*NAMES), drop("c")]
    data = [{**row, "absent": torch.tensor(absent[k // SIZE])} for k, row in enumerate(DATA)]
    model, net = Model(), Model()
    options = {"max_steps": 6 // parts, "lr_scheduler_type": "constant"}
    trainer_of(model, tmp_path, data, gradient_accumulation_steps=parts, **options).train()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.05), "upgrad")
    for step in range(0, 6, parts):
        sums: dict[str, Tensor] = {}
        for part in range(step, step + parts):
            rows = [data[part * SIZE + k] for k in range(SIZE)]
            losses = net(*(torch.stack([row[key] for row in rows]) for key in ("data", "absent")))[
                "loss"
            ]
            for name, loss in losses.items():
                if loss is not None:
                    sums[name] = sums.get(name, torch.zeros(())) + loss / parts
        if sums:
            optimizer.zero_grad()
            optimizer.backward({name: sums.get(name) for name in NAMES})
            optimizer.step()
    assert_same(model.parameters(), net.parameters())


RANDOM = {"method": "pcgrad", "optim": "adafactor"}
REMEMBERS = {"method": "dwa", "optim": "adamw_torch", "logging_steps": 1}
LEARNS = {"method": "uncertainty", "tasks": NAMES, "optim": "adamw_torch"}


@pytest.mark.parametrize("options", [RANDOM, REMEMBERS, LEARNS], ids=lambda o: o["method"])
def test_resumes_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    """The method's memory, the generator, the counters and what the method learns."""

    def make(folder: str, **more: Any) -> tuple[Model, Any]:
        model = Model(seed=0 if folder == "whole" else 1)
        if options["method"] == "pcgrad":
            more["generator"] = torch.Generator().manual_seed(5)
        return model, trainer_of(
            model, tmp_path / folder, gradient_accumulation_steps=2, **options, **more
        )

    whole, trainer = make("whole", save_strategy="steps", save_steps=2)
    trainer.train()
    resumed, again = make("resumed")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_equal(resumed.parameters(), whole.parameters())
    assert again.merging._merger.progress.steps == 4
    one, two = (t.merging.state_dict()["tasks"] for t in (trainer, again))
    assert str(one) == str(two)


def test_logs_what_the_steps_measured(tmp_path: Path) -> None:
    """Losses are means since the last logging; the rest is of the last step."""
    import transformers

    seen: list[dict[str, float]] = []

    class Keeps(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            seen.append(logs)

    model, net = Model(), Model()
    trainer = trainer_of(
        model, tmp_path, logging_steps=2, gradient_accumulation_steps=2, callbacks=[Keeps()]
    )
    trainer.train()
    logged = [entry for entry in seen if "loss" in entry]
    assert [entry["epoch"] for entry in logged] == pytest.approx([4 / 6, 8 / 6])
    for entry in logged:
        assert sum(entry[f"loss/{name}"] for name in NAMES) == pytest.approx(entry["loss"])
    report = trainer.merging.report
    assert logged[-1]["weight/b"] == report.weights[0, 1].item()
    assert logged[-1]["norm/c"] == report.norms[2].item()
    assert logged[-1]["cosine/a/b"] == report.cosines[0, 1].item()
    first = [net(torch.stack([row["data"] for row in DATA[: 2 * SIZE]]))["loss"]["a"].item()]
    by_hand(net, size=2 * SIZE)
    assert logged[0]["loss/a"] < first[0]


class Watch(TorchDispatchMode):
    """Counts numbers that are read, for which the caller waits on a GPU."""

    read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read += func.name().partition(".")[0] in ("aten::_local_scalar_dense", "aten::equal")
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_between_two_loggings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtl_ops.integrations import transformers as ours

    logged: list[int] = []
    watch = Watch()
    with watch:
        torch.ones(()).item()
    assert watch.read == 1
    trainer = trainer_of(Model(), tmp_path, logging_steps=2, gradient_accumulation_steps=2)
    step = trainer.training_step

    def watched(*args: Any) -> Tensor:
        with watch:
            return step(*args)

    monkeypatch.setattr(trainer, "training_step", watched)
    monkeypatch.setattr(ours, "log_report", lambda *_: logged.append(trainer.state.global_step))
    trainer.train()
    assert watch.read == 1
    assert logged == [2, 4]


def test_evaluates_every_task(tmp_path: Path) -> None:
    model = Model()
    data = [
        {**row, "absent": torch.tensor(drop("b") if k < SIZE else drop())}
        for k, row in enumerate(DATA)
    ]
    trainer = trainer_of(
        model,
        tmp_path,
        label_names=["data"],
        eval_dataset=data[:10],
        per_device_eval_batch_size=SIZE,
    )
    metrics = trainer.evaluate()
    rows = torch.stack([row["data"] for row in DATA[:10]])
    whole = model(rows)["loss"]
    assert metrics["eval_loss_a"] == pytest.approx(whole["a"].item())
    assert metrics["eval_loss_b"] == pytest.approx(model(rows[SIZE:])["loss"]["b"].item())
    predicted = trainer.predict(data[:10])
    assert predicted.predictions.shape == (10, 3)
    assert predicted.metrics["test_loss_c"] == pytest.approx(whole["c"].item())
    best = trainer_of(
        model,
        tmp_path,
        DATA,
        label_names=["data"],
        eval_dataset=DATA[:8],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="loss_b",
        greater_is_better=False,
        max_steps=2,
    )
    best.train()
    assert best.state.best_metric == min(
        e["eval_loss_b"] for e in best.state.log_history if "eval_loss_b" in e
    )


def test_bf16(tmp_path: Path) -> None:
    model, net = Model(torch.float32), Model(torch.float32)
    data = [{"data": row["data"].float()} for row in DATA]
    trainer_of(model, tmp_path, data, bf16=True).train()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.05), "upgrad")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    for step in range(4):
        rows = torch.stack([row["data"] for row in data[step * SIZE : (step + 1) * SIZE]])
        with torch.autocast("cpu", torch.bfloat16):
            losses = net(rows)["loss"]
        optimizer.zero_grad()
        optimizer.backward(losses)
        optimizer.step()
        schedule.step()
    assert_same(model.parameters(), net.parameters())
    exact = Model(torch.float32)
    by_hand(exact, data=data)
    assert not torch.equal(exact.trunk[0].weight, net.trunk[0].weight)


def test_the_scaler_of_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Accelerate, on a CPU, where Trainer itself refuses ``fp16``: thresholds are on true gradients."""
    import transformers

    model, net = Model(torch.float32), Model(torch.float32)
    data = [{"data": row["data"].float()} for row in DATA]
    trainer = trainer_of(
        model, tmp_path, data, max_task_norm=0.1, gradient_accumulation_steps=2, max_grad_norm=0.05
    )
    trainer.accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    class Unscales(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            trainer.accelerator.native_amp = True
            monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")

    trainer.add_callback(Unscales())
    trainer.train()
    assert trainer.merging.settings.grad_scaler is scaler
    by_hand(net, data=data, size=2 * SIZE, max_task_norm=0.1, max_norm=0.05)
    assert_same(model.parameters(), net.parameters(), rtol=1e-4, atol=1e-6)


def test_loss_of_the_trainers_own_function(tmp_path: Path) -> None:
    """Which normalises by itself: nothing is divided by the number of micro-batches."""

    def losses(outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Any:
        return {name: loss / 2 for name, loss in outputs["loss"].items()}

    model, net = Model(), Model()
    trainer_of(model, tmp_path, gradient_accumulation_steps=2, compute_loss_func=losses).train()
    by_hand(net, size=2 * SIZE)
    assert_same(model.parameters(), net.parameters())


def test_losses_by_the_number_of_labels(tmp_path: Path) -> None:
    """As of language models: the model divides by what the trainer has counted over all micro-batches."""

    class Counts(Model):
        def forward(self, data: Tensor, labels: Tensor, **more: Any) -> dict[str, Any]:  # type: ignore[override]
            outputs, part = Net.forward(self, data), (labels != -100).double()
            count = more.get("num_items_in_batch", part.sum())
            errors = {name: (output[:, 0] - labels).square() for name, output in outputs.items()}
            return {"loss": {name: (part * error).sum() / count for name, error in errors.items()}}

    data = [
        {**row, "labels": torch.tensor(-100.0 if k % 3 == 0 else 1.0)} for k, row in enumerate(DATA)
    ]
    model, net = Counts(), Counts()
    trainer_of(model, tmp_path, data, gradient_accumulation_steps=2).train()
    by_hand(net, data=data, size=2 * SIZE)
    assert_same(model.parameters(), net.parameters())


def test_compiled(tmp_path: Path) -> None:
    """The graph of a compiled model does not say what is shared."""
    model, net = Model(), Model()
    shared = [*model.trunk.parameters(), *model.neck.parameters()]
    trainer_of(
        model,
        tmp_path,
        torch_compile=True,
        torch_compile_backend="aot_eager",
        shared=shared,
        max_steps=4,
    ).train()
    by_hand(net, shared=[*net.trunk.parameters(), *net.neck.parameters()])
    assert_same(model.parameters(), net.parameters())


def test_adapters_alone_are_shared(tmp_path: Path) -> None:
    """PEFT: a BERT with LoRA and two heads; nothing else moves, and it is what a loop gives."""
    import transformers

    peft = pytest.importorskip("peft")

    class Bert(transformers.BertPreTrainedModel):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.first, self.second = nn.Linear(8, 2), nn.Linear(8, 1)
            self.post_init()

        def forward(self, input_ids: Tensor, labels_a: Tensor, labels_b: Tensor) -> Any:
            features = self.bert(input_ids).last_hidden_state[:, 0]
            scores = self.first(features)
            losses = {
                "a": nn.functional.cross_entropy(scores, labels_a),
                "b": (self.second(features)[:, 0] - labels_b).square().mean(),
            }
            return transformers.modeling_outputs.SequenceClassifierOutput(
                loss=losses, logits=scores
            )

    def make() -> Any:
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        chosen = peft.LoraConfig(
            r=2, target_modules=["query", "value"], modules_to_save=["first", "second"]
        )
        return peft.get_peft_model(Bert(config), chosen)

    draw = torch.Generator().manual_seed(0)
    data = [
        {
            "input_ids": torch.randint(11, (6,), generator=draw),
            "labels_a": torch.tensor(k % 2),
            "labels_b": torch.tensor(float(k % 3)),
        }
        for k in range(16)
    ]
    model, net = make(), make()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    trainer = trainer_of(model, tmp_path, data, max_steps=3, lr_scheduler_type="constant")
    trainer.train()
    inner = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
    optimizer = MultiTaskOptimizer(inner, "upgrad")
    for step in range(3):
        rows = data[step * SIZE : (step + 1) * SIZE]
        optimizer.zero_grad()
        optimizer.backward(
            net(**{key: torch.stack([row[key] for row in rows]) for key in data[0]}).loss
        )
        optimizer.step()
    assert_same(model.parameters(), net.parameters())
    moved = {
        name for name, param in model.named_parameters() if not torch.equal(param, before[name])
    }
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    assert any("lora_B" in name for name in moved)


@pytest.mark.parametrize("method", ["famo", "gradnorm"])
def test_a_model_that_is_made_anew_meets_a_method_without_memory(
    tmp_path: Path, method: str
) -> None:
    """As in a search for hyperparameters: the second training is the first one again."""
    instance = methods.get(method)
    trainer = trainer_of(None, tmp_path, model_init=lambda: Model(), method=instance)
    trainer.train()
    first = [param.detach().clone() for param in trainer.model.parameters()]
    assert trainer.merging.method is instance
    trainer.train()
    assert_same(trainer.model.parameters(), first)


class NoScalars(Model):
    def forward(self, data: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return {"loss": {**super().forward(data)["loss"], "b": torch.ones(3)}}


class NoTensors(Model):
    def forward(self, data: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return {"loss": {**super().forward(data)["loss"], "b": 1}}


class OneLoss(Model):
    def forward(self, data: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return {"loss": super().forward(data)["loss"]["a"]}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"model": OneLoss()},
            TypeError,
            "should return a dict of losses as its loss. Found Tensor",
        ),
        ({"model": NoScalars()}, ValueError, r"scalars. Found loss 'b' of shape \(3,\)"),
        ({"model": NoTensors()}, TypeError, "tensors. Found loss 'b' of type int"),
        (
            {"optim": "galore_adamw_layerwise"},
            ValueError,
            "`optim` should be .* after the backward",
        ),
        ({"groups": [["a"], ["b"]]}, ValueError, "`groups` should be left out with a Trainer"),
        ({"module": nn.Linear(1, 1)}, ValueError, "`module` should be left out with a Trainer"),
        ({"distributed": None}, ValueError, "`distributed` should not be None with a Trainer"),
        ({"gram_on": "features"}, ValueError, "`gram_on` should be None or parameters"),
        ({"method": "upgrad", "clip_value": -1.0}, ValueError, "`clip_value` should be positive"),
    ],
)
def test_what_cannot_work(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = options.pop("model", None) or Model()
    with pytest.raises(error, match=message):
        trainer_of(model, tmp_path, **options).train()


def test_a_loss_of_a_trainers_own(tmp_path: Path) -> None:
    from mtl_ops.integrations.transformers import MultiTaskTrainer

    class OwnLoss(MultiTaskTrainer):
        def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> Tensor:
            return sum(model(**inputs)["loss"].values())

    with pytest.raises(TypeError, match="`compute_loss` should return what that of MultiTask"):
        trainer_of(Model(), tmp_path, kind=OwnLoss).train()


@pytest.mark.parametrize(
    ("of", "attribute", "value", "message"),
    [
        ("trainer", "is_deepspeed_enabled", True, "`deepspeed` should be left out"),
        ("trainer", "is_fsdp_enabled", True, "`fsdp` should be left out"),
        ("args", "fsdp", True, "`fsdp` should be left out"),
        ("args", "n_gpu", 2, "one process for each GPU .* Found 2 GPUs"),
        ("args", "label_smoothing_factor", 0.1, "`label_smoothing_factor` should be 0"),
        ("args", "optim", "adalomo", "`optim` should be .* Found `optim = 'adalomo'`"),
        (
            "accelerator",
            "parallelism_config",
            SimpleNamespace(total_size=2),
            "`parallelism_config`",
        ),
    ],
)
def test_what_needs_more_than_a_cpu_is_refused(
    of: str, attribute: str, value: Any, message: str
) -> None:
    """What is neither installed nor started here is taken to be there."""
    args = SimpleNamespace(optim="sgd", fsdp=None, n_gpu=1, label_smoothing_factor=0.0)
    trainer = SimpleNamespace(
        args=args, accelerator=SimpleNamespace(), is_deepspeed_enabled=False, is_fsdp_enabled=False
    )
    check_arguments(trainer)
    setattr(trainer if of == "trainer" else getattr(trainer, of), attribute, value)
    with pytest.raises(ValueError, match=message):
        check_arguments(trainer)


def test_with_another_trainer_and_an_optimizer_of_the_users_own(tmp_path: Path) -> None:
    import transformers

    from mtl_ops.integrations.transformers import MultiTaskMixin

    class Other(MultiTaskMixin, transformers.Seq2SeqTrainer):  # type: ignore[misc, name-defined]
        pass

    model, net = Model(), Model()
    args = transformers.Seq2SeqTrainingArguments(**arguments(tmp_path).to_dict())
    inner = MultiTaskOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), "mgda")
    trainer = Other(model, args, train_dataset=DATA, optimizers=(inner, None))
    trainer.train()
    assert trainer.merging is inner
    by_hand(net, "mgda")
    assert_same(model.parameters(), net.parameters())
    trainer = trainer_of(model, tmp_path, optimizers=(inner, None), method="upgrad")
    with pytest.raises(ValueError, match=r"Found a MultiTaskOptimizer and `method`"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [["a"], ["b", "c"]]}, r"`optimizers` should hold no .* with `groups`"),
        (
            {"grad_scaler": torch.amp.GradScaler("cpu")},
            "`optimizers` should .* where the trainer scales",
        ),
    ],
    ids=["groups", "scaler"],
)
def test_an_optimizer_that_does_not_know_the_trainer(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model = Model()
    own = MultiTaskOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    trainer = trainer_of(model, tmp_path, optimizers=(own, None))
    with pytest.raises(ValueError, match=message):
        trainer.train()
    with pytest.raises(AttributeError, match="should be trained before it has `merging`"):
        _ = trainer_of(model, tmp_path).merging


def test_an_attempt_that_ran_out_of_memory_leaves_no_sums(tmp_path: Path) -> None:
    """``auto_find_batch_size`` starts again with a smaller batch."""
    sizes: list[int] = []

    class Fails(Model):
        def forward(self, data: Tensor) -> dict[str, Any]:  # type: ignore[override]
            sizes.append(len(data))
            if sizes == [8, 8]:
                raise RuntimeError("CUDA out of memory.")
            return super().forward(data)

    model, net, data = Fails(), Model(), [DATA[k % 24] for k in range(56)]
    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    trainer_of(model, tmp_path, data, gradient_accumulation_steps=2, **options).train()
    assert sizes == [8, 8] + [7] * 8
    by_hand(net, data=data, size=14)
    assert_same(model.parameters(), net.parameters())


def test_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: importing the package takes longer than all else."""
    example = Path(__file__).parents[2] / "examples" / "with_transformers.py"
    if not example.exists():
        pytest.skip("the examples are in the source tree only")
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(example))["trainer"]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    first, last = logged[0], logged[-1]
    assert last["loss/first"] < first["loss/first"]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks, in order, in this process."""
    page = Path(__file__).parents[2] / "docs" / "guides" / "transformers.md"
    if not page.exists():
        pytest.skip("the pages are in the source tree only")
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    text, namespace = page.read_text(), {"__name__": "page"}
    blocks = list(re.finditer(r"^```python[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 4
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
    assert namespace["trainer"].merging.method.name == "pcgrad"


# ---- several processes ---------------------------------------------------------------------------


def as_one_process(rank: int, world: int, folder: Path) -> None:
    """They start from different parameters, as adapters do, and evaluate together."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    from mtl_ops.integrations.transformers import MultiTaskTrainer

    net, model = Model(), Model(seed=rank)
    options = {"gradient_accumulation_steps": 2, "ddp_backend": "gloo", "save_strategy": "steps"}
    joint = folder / "joint"
    trainer = trainer_of(
        model, joint, per_device_train_batch_size=SIZE // world, save_steps=2, logging_steps=1,
        label_names=["data"], eval_dataset=DATA[:8], per_device_eval_batch_size=4, **options,
    )  # fmt: skip
    assert isinstance(trainer, MultiTaskTrainer)
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel)
    by_hand(net, size=2 * SIZE, distributed=None)
    assert_same(model.parameters(), net.parameters())
    logged = trainer.state.log_history[0]
    assert sum(logged[f"loss/{name}"] for name in NAMES) == pytest.approx(logged["loss"])
    metrics = trainer.evaluate()
    rows = torch.stack([row["data"] for row in DATA[:8]])
    assert metrics["eval_loss_a"] == pytest.approx(model(rows)["loss"]["a"].item())
    dist.barrier()
    resumed = Model(seed=9)
    again = trainer_of(resumed, joint, per_device_train_batch_size=SIZE // world, **options)
    again.train(resume_from_checkpoint=str(joint / "checkpoint-2"))
    assert_equal(resumed.parameters(), model.parameters())


@pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")
def test_two_processes(tmp_path: Path) -> None:
    on_processes(2, [as_one_process], tmp_path)
