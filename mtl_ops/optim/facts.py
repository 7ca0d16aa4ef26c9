"""Which options go together: what each needs of a step, and what each takes away from it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..methods import CoordinateMethod, Momentum
from .settings import Settings

__all__ = ["TRAITS", "Fact", "Situation", "Trait", "check_together"]


class Fact(enum.Enum):
    """What can be true of every step; an option that needs it cannot go with one that takes it away."""

    TASK_GRADIENTS = "the gradient of each task is computed"
    SEGMENT_WEIGHTS = "what is not shared has weights of its own"
    MEASURED_WHOLE = "where G is measured, the whole gradient of each task is at hand"
    EVERY_STEP = "every step has the gradient of each task"
    ROWS = "the gradient of each task is there by itself"
    GRAM_ALONE = "weights follow from the Gram matrix alone"
    GRAM_WEIGHTS = "the method weighs gradients by their inner products"
    ONE_SET = "all shared parameters are weighed together"
    GRAPH_DECIDES = "the graph says what is shared"
    PIECES = "gradients can be merged piece by piece"
    ONE_BY_ONE = "each task has a backward of its own"
    WHOLE_PARAMETERS = "every process holds whole parameters"
    SUMMED_FIRST = "gradients are summed over the processes before they are measured"
    FEATURES = "the features are handed in"
    ONE_PROCESS = "there is one process"
    ONE_BATCH = "a step has one batch"
    AVERAGES = "averages of the gradients of all tasks are merged"
    ALL_TASKS = "every merge is of all tasks"
    MERGED_LAST = "what is merged is what arrives"
    ONE_STEP = "a call of `step` is one step of the inner optimizer"


@dataclass(frozen=True)
class Situation:
    """What is not an option and bears on them.

    Attributes:
        sharded: Whether the parameters are DTensors.
        accumulating: Whether gradients of micro-batches are to be added up.
        several: Whether there are several processes.
    """

    sharded: bool = False
    accumulating: bool = False
    several: bool = False


@dataclass(frozen=True)
class Trait:
    """What an option means for the others if it has certain values.

    Attributes:
        option: The option.
        when: Whether it has them.
        otherwise: What it should be where a fact that it needs is not there.
        needs: Facts.
        takes: Facts that are not true any more, and the rest of a sentence that says why.
        phrase: How that sentence names it, instead of "with `option`".
    """

    option: str
    when: Callable[[Settings, Situation], bool]
    otherwise: str = ""
    needs: tuple[Fact, ...] = ()
    takes: Mapping[Fact, str] = field(default_factory=dict)
    phrase: str | None = None

    def named(self, settings: Settings) -> str:
        """The middle of the sentence."""
        if self.option == "method":
            return f"with method {settings.method.name!r}"
        return self.phrase or f"with `{self.option}`"


def _set(option: str, default: Any = None) -> Callable[[Settings, Situation], bool]:
    return lambda settings, _: bool(getattr(settings, option) != default)


def _given(option: str) -> Callable[[Settings, Situation], bool]:
    return lambda settings, _: getattr(settings, option) is not None


_WHERE_MEASURED_ELSEWHERE = (
    Fact.GRAM_ALONE,
    Fact.ONE_SET,
    Fact.GRAPH_DECIDES,
    Fact.WHOLE_PARAMETERS,
)

#: In the order in which messages are written: the first option that lacks something is named.
TRAITS: tuple[Trait, ...] = (
    Trait(
        "method",
        lambda s, _: s.method.needs == "losses" and not s.rules.per_task,
        takes={
            Fact.TASK_GRADIENTS: "which takes one backward and has no gradient of a single task"
        },
    ),
    Trait(
        "method",
        lambda s, _: s.method.needs == "losses",
        takes={Fact.SEGMENT_WEIGHTS: "which weighs losses, and so all parameters alike"},
    ),
    Trait(
        "method",
        lambda s, _: s.method.needs != "gram" or s.method.tracks or s.method.learns,
        takes={Fact.GRAM_ALONE: "because it is not one that needs only the Gram matrix"},
    ),
    Trait(
        "method",
        lambda s, _: (
            s.method.needs != "gram" or (s.method.tracks and not isinstance(s.method, Momentum))
        ),
        takes={
            Fact.GRAM_WEIGHTS: "which does not weigh the gradients of a step by their inner products"
        },
    ),
    Trait(
        "method",
        lambda s, _: s.method.tracks,
        otherwise="another",
        needs=(Fact.WHOLE_PARAMETERS, Fact.SUMMED_FIRST),
        takes={Fact.PIECES: "which remembers gradients of every task"},
    ),
    Trait(
        "method",
        lambda s, _: (
            isinstance(s.method, CoordinateMethod) and not (s.method.segmentwise or s.method.draws)
        ),
        takes={Fact.PIECES: "which has to see all coordinates at once"},
    ),
    Trait(
        "method",
        lambda s, _: s.method.needs == "coordinates" or s.method.tracks,
        otherwise="another",
        needs=(Fact.ROWS,),
    ),
    Trait(
        "method",
        lambda s, _: isinstance(s.method, Momentum),
        otherwise="another",
        needs=(Fact.ALL_TASKS, Fact.ONE_PROCESS),
    ),
    Trait(
        "method",
        lambda s, _: not isinstance(s.method, Momentum),
        takes={
            Fact.AVERAGES: "which merges the gradients of a step, and so needs those of all tasks"
        },
    ),
    Trait(
        "method",
        lambda s, _: isinstance(s.method, Momentum) and s.method.second != "none",
        takes={Fact.MERGED_LAST: "whose step of Adam comes after the merge"},
    ),
    Trait("max_norm", _given("max_norm"), "None", (Fact.MERGED_LAST,)),
    Trait("fresh", _given("fresh"), "None", (Fact.AVERAGES,)),
    Trait("clip_value", _given("clip_value"), "None", (Fact.EVERY_STEP, Fact.ROWS)),
    Trait("normalise", _set("normalise", "none"), "'none'", (Fact.GRAM_WEIGHTS,)),
    Trait("grad_dtype", _given("grad_dtype"), "None", (Fact.ROWS,)),
    Trait("max_task_norm", _given("max_task_norm"), "None", (Fact.MEASURED_WHOLE,)),
    Trait(
        "memory",
        _given("memory"),
        "None",
        (
            Fact.TASK_GRADIENTS,
            Fact.ONE_BY_ONE,
            Fact.ROWS,
            Fact.MEASURED_WHOLE,
            Fact.PIECES,
            Fact.WHOLE_PARAMETERS,
            Fact.SUMMED_FIRST,
        ),
    ),
    Trait(
        "gram_on",
        _given("gram_on"),
        "left out",
        _WHERE_MEASURED_ELSEWHERE,
        takes={
            Fact.EVERY_STEP: "whose steps do not have the gradient of every task",
            Fact.MEASURED_WHOLE: "whose steps do not have the gradient of every task",
        },
    ),
    Trait(
        "gram_on",
        lambda s, _: isinstance(s.gram_on, str),
        "left out, or parameters,",
        (Fact.FEATURES,),
    ),
    Trait(
        "weights_every",
        _set("weights_every", 1),
        "left out",
        _WHERE_MEASURED_ELSEWHERE,
        takes={Fact.EVERY_STEP: "whose steps do not all have the gradient of every task"},
    ),
    Trait(
        "granularity",
        _set("granularity", "model"),
        "'model'",
        (Fact.TASK_GRADIENTS,),
        takes={Fact.ONE_SET: "which weighs several sets of parameters"},
    ),
    Trait(
        "shared",
        _given("shared"),
        "None",
        (Fact.SEGMENT_WEIGHTS,),
        takes={Fact.GRAPH_DECIDES: "which says what is shared instead of the graph"},
    ),
    Trait(
        "batched",
        _set("batched", False),
        "False",
        (Fact.WHOLE_PARAMETERS, Fact.ROWS),
        takes={Fact.ONE_BY_ONE: "which computes all gradients at once"},
    ),
    Trait(
        "gradients",
        lambda s, _: s.gradients in ("factored", "by_sample"),
        "'dense' or 'auto'",
        (Fact.TASK_GRADIENTS, Fact.MEASURED_WHOLE, Fact.WHOLE_PARAMETERS, Fact.ONE_PROCESS),
        takes={Fact.ROWS: "which forms no gradient of a single task"},
    ),
    Trait(
        "gradients",
        lambda s, _: s.gradients == "by_sample",
        "another",
        (Fact.ONE_BATCH, Fact.EVERY_STEP),
    ),
    Trait("grad_scaler", _given("grad_scaler"), "left out", (Fact.ONE_STEP,)),
    Trait(
        "groups",
        _given("groups"),
        takes={
            Fact.ALL_TASKS: "each of whose turns merges its own tasks alone",
            Fact.ONE_STEP: "each of whose turns is a step that no GradScaler sees",
            Fact.FEATURES: "whose closure returns the losses and no features",
        },
    ),
    Trait(
        "distributed",
        lambda s, _: s.distributed == "mean_gram",
        "'auto' or 'exact'",
        (Fact.WHOLE_PARAMETERS,),
        takes={
            Fact.SUMMED_FIRST: "which measures and merges in each process what it has",
            Fact.ONE_PROCESS: "which measures and merges in each process what it has",
        },
    ),
    Trait(
        "parameters",
        lambda _, situation: situation.sharded,
        takes={Fact.WHOLE_PARAMETERS: "whose gradients are reduced one task at a time"},
        phrase="for DTensors",
    ),
    Trait(
        "accumulate",
        lambda _, situation: situation.accumulating,
        takes={Fact.PIECES: "which are all held until they are merged"},
        phrase="to accumulate the gradients of every task",
    ),
    Trait(
        "accumulate",
        lambda _, situation: situation.accumulating,
        takes={Fact.ONE_BATCH: "whose samples are others each time"},
        phrase="to accumulate gradients",
    ),
    Trait(
        "processes",
        lambda _, situation: situation.several,
        takes={Fact.ONE_PROCESS: "which sum the gradients of each task"},
        phrase="with several processes",
    ),
)


def check_together(settings: Settings, situation: Situation) -> None:
    """Checks that no option needs what another takes away.

    Raises:
        ValueError: If one does; it names both, and what was found.
    """
    active = [trait for trait in TRAITS if trait.when(settings, situation)]
    for needing in active:
        for fact in needing.needs:
            for taking in active:
                if fact in taking.takes:
                    found = [_shown(trait, settings) for trait in (needing, taking)]
                    raise ValueError(
                        f"Parameter `{needing.option}` should be {needing.otherwise} "
                        f"{taking.named(settings)}, {taking.takes[fact]}. "
                        f"Found {' and '.join(text for text in found if text)}."
                    )


def _shown(trait: Trait, settings: Settings) -> str:
    if trait.option == "method":
        return f"`method = {settings.method.name!r}`"
    if not hasattr(settings, trait.option):  # of the situation
        return ""
    value = getattr(settings, trait.option)
    if trait.option in ("shared", "gram_on") and not isinstance(value, str):
        return f"`{trait.option}` of {len(value)} parameters"
    if (
        not isinstance(value, (str, int, float, bool, Tensor, type(None)))
        and trait.option != "grad_dtype"
    ):
        return f"a `{trait.option}`" if trait.option != "groups" else f"`groups = {list(value)}`"
    return f"`{trait.option} = {value!r}`"
