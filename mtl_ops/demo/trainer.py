"""One training of one model, in epochs that can be saved and taken up again bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .. import MultiTaskOptimizer
from ..data import Batch, Loader, Split
from .config import PLAIN, SINGLE, Config, Run
from .precision import autocast, make_scaler
from .spec import make_method

__all__ = ["History", "Trainer"]

#: Per epoch and task (or pair of tasks); plain lists, so that JSON and checkpoints can hold it.
History = dict[str, list[Any]]


class Trainer:
    """Model, optimizer, schedule, data order and the record of one run.

    Draws from torch's global generator while it is built (initial weights); build it and train it
    inside ``torch.random.fork_rng`` to leave the caller's generator alone.

    Args:
        config: Epochs, batch size, learning rate, device, precision.
        run: Method, seed and tasks.
        split: The data, on the device already.
    """

    def __init__(self, config: Config, run: Run, split: Split) -> None:
        self.config, self.run, self.split = config, run, split
        torch.manual_seed(run.seed)
        # Built on the CPU and then moved, so that every device starts from the same weights.
        model = config.problem.build(run.tasks, split, config.architecture)
        self.model: Any = model.to(config.device)
        self.loader = Loader(split.train, config.batch_size, run.tasks)
        self.test = Loader(split.test, config.batch_size, run.tasks)
        inner = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate)
        self.optimizer: torch.optim.Optimizer = inner
        self.scaler = make_scaler(config.precision, config.device)
        self.observes = False
        if run.method not in (SINGLE, PLAIN):
            # The tasks are named now, since a method's own parameters must be there before the
            # schedule is made.
            method = make_method(run.method)
            self.optimizer = MultiTaskOptimizer(
                inner,
                method,
                tasks=run.tasks,
                groups=config.groups,
                order=config.order,
                closing_joint=config.closing_joint,
                grad_scaler=self.scaler,
            )
            self.observes = method.observes
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.epochs)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: History = {"loss": [], "metric": [], "conflicts": [], "steps": []}
        self.epoch = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step; returns the losses before it, of the tasks that are in the batch."""
        self.optimizer.zero_grad()
        losses: dict[str, Tensor]
        if not isinstance(self.optimizer, MultiTaskOptimizer):
            losses = self.losses(batch)
            total = torch.stack(list(losses.values())).sum()
            if self.scaler is not None:
                total = self.scaler.scale(total)
            total.backward()  # type: ignore[no-untyped-call]
            self._step()
        elif self.config.groups is not None:
            losses = self.optimizer.step(lambda: self.losses(batch))
        else:
            losses = self.losses(batch)
            self.optimizer.backward(losses)
            self._step()
        if self.observes and isinstance(self.optimizer, MultiTaskOptimizer):
            # One more forward, for a method that learns from what the step has changed.
            with torch.no_grad():
                self.optimizer.observe(self.losses(batch))
        return losses

    def _step(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the tasks that are in the batch."""
        with autocast(self.config.precision, self.config.device):
            losses = self.model.losses(batch)
        return {task: loss for task, loss in losses.items() if loss is not None}

    def batches(self) -> Iterator[Batch]:
        """One epoch of the train part in a new order, see :class:`mtl_ops.data.Loader`."""
        return self.loader.epoch(self.order)

    def train_epoch(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Train one epoch, evaluate on the test part, and add both to the history.

        Figures stay on the device until the epoch is over, so that recording costs no
        synchronisation in a step.
        """
        losses, cosines, weights = [], [], []
        self.model.train()
        for batch in self.batches():
            values = self.step(batch)
            losses.append(self._row(values))
            # Where groups take turns, a report is of the last turn only.
            if isinstance(self.optimizer, MultiTaskOptimizer) and self.config.groups is None:
                report = self.optimizer.report
                if report.cosines is not None:
                    cosines.append(report.cosines.clone())
                if report.weights is not None:
                    weights.append(report.weights.mean(dim=0))
            on_step()
        self.schedule.step()
        self._end_epoch()
        self.epoch += 1
        self.history["steps"].append(len(losses))
        self.history["loss"].append(torch.stack(losses).nanmean(dim=0).tolist())
        tallies, example = self.tallies(), self.config.problem
        self.history["metric"].append(list(self._figures(tallies).values()))
        if example.overall_names and self.run.method != SINGLE:
            figures = example.overall(tallies)
            own = [figures[name] for name in example.overall_names]
            self.history.setdefault("overall", []).append(own)
        if cosines:
            stacked = torch.stack(cosines)
            self.history["conflicts"].append(conflicting(stacked))
            self.history.setdefault("cosine", []).append(pair_means(stacked))
        if weights:
            self.history.setdefault("weight", []).append(torch.stack(weights).nanmean(0).tolist())

    def evaluate(self) -> dict[str, float]:
        """Each task's metric on the whole test part."""
        return self._figures(self.tallies())

    @torch.no_grad()
    def tallies(self) -> dict[str, Tensor]:
        """Each task's sums over the whole test part, see :class:`mtl_ops.data.Goal`."""
        self.model.eval()
        goals = self.config.goals
        tallies: dict[str, Tensor] = {}
        for batch in self.test.parts():
            outputs = self.model(batch["input"])
            for task in [task for task in self.run.tasks if task in batch]:
                tally = goals[task].tally(outputs[task], batch[task])
                tallies[task] = tallies[task] + tally if task in tallies else tally
        return tallies

    def _figures(self, tallies: dict[str, Tensor]) -> dict[str, float]:
        goals = self.config.goals
        return {task: goals[task].figure(tallies[task]).item() for task in self.run.tasks}

    def _row(self, losses: dict[str, Tensor]) -> Tensor:
        """``(T,)``: the losses without their graphs, NaN for a task that was not in the batch."""
        absent = torch.full((), torch.nan, device=self.config.device)
        return torch.stack([losses.get(task, absent).detach() for task in self.run.tasks])

    def _end_epoch(self) -> None:
        """Tell a method that compares epochs (DWA) that one has ended."""
        end = getattr(getattr(self.optimizer, "method", None), "end_epoch", None)
        if end is not None:
            end()

    def state_dict(self) -> dict[str, Any]:
        """Everything the rest of the training depends on, in types that ``weights_only`` loads."""
        state = {
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "rng": torch.get_rng_state(),
        }
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        if torch.device(self.config.device).type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.config.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        self.epoch, self.history = state["epoch"], state["history"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        # Generators want their state on the CPU, wherever the checkpoint was mapped to.
        self.order.set_state(state["order"].cpu())
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.config.device)


def conflicting(cosines: Tensor) -> int:
    """Number of steps in which any two tasks' gradients point apart.

    Args:
        cosines: ``(steps, T, T)``; a NaN (a task without a gradient) is no conflict.
    """
    rows, columns = _pairs(cosines)
    return int((cosines[:, rows, columns] < 0).any(dim=1).sum())


def pair_means(cosines: Tensor) -> list[float]:
    """Mean cosine of each pair of tasks over the steps, in the order (0,1), (0,2), ..., (1,2), ...

    Args:
        cosines: ``(steps, T, T)``.
    """
    rows, columns = _pairs(cosines)
    means: list[float] = cosines[:, rows, columns].nanmean(dim=0).tolist()
    return means


def _pairs(cosines: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(cosines.shape[-1], cosines.shape[-1], offset=1)
    return rows, columns
