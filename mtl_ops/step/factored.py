"""The exact step without the gradients of single tasks: by factors, where the model is products."""

from __future__ import annotations

from torch import Tensor

from ..gradients.factored.by_sample import BySample
from ..gradients.factored.factors import TaskFactors, kept_places
from ..gradients.factored.find import Factoring
from ..gradients.factored.samples import SampleFactors
from ..gradients.layout import NOTHING_REACHED, find_layout
from ..gradients.rows import unscaled
from ..merging.call import Call
from ..merging.merge import find_scale, find_weights, report_of
from ..merging.report import Report
from ..merging.sink import write_grads
from .exact import BesideExact, Exact, weighty
from .step import finish

__all__ = ["Factored", "needs_rows"]


class Factored(BesideExact):
    """Measures and merges by factors; where they do not help, as the exact step does.

    Args:
        factoring: What finds the factors, and remembers from step to step.
        exact: The step that is taken otherwise, and where gradients of micro-batches are added up.
    """

    def __init__(self, factoring: Factoring | BySample, exact: Exact | None = None) -> None:
        super().__init__(exact or Exact())
        self.factoring = factoring

    @property
    def how(self) -> str:  # type: ignore[override]
        """The plan of each kind of model seen so far."""
        return repr(self.factoring)

    def backward(self, call: Call) -> Report:
        """Differentiates each loss to factors, merges and adds to ``.grad``.

        Raises:
            ValueError: With ``"by_sample"``, if the losses are not those of single samples.
            RuntimeError: If the graph of a loss was freed by an earlier backward, or as the rules say.
        """
        sums = self.take_sums()
        factors: TaskFactors | SampleFactors | None = None
        if sums is None and self.sink.alone and not needs_rows(call) and self.source.dtype is None:
            params, keep = call.params.tensors, call.retain_graph
            factors = self.factoring.factors(weighty(call), params, keep)
        if factors is None:
            self.exact.sums = sums
            return self.exact.backward(call)
        return finish(call, _merge(call, factors))


def needs_rows(call: Call) -> bool:
    """Whether the gradient of each task is needed by itself."""
    method = call.method
    return method.needs == "coordinates" or method.tracks or call.rules.clip_value is not None


def _merge(call: Call, factors: TaskFactors | SampleFactors) -> Report:
    """As :func:`mtl_ops.merging.merge.merge_rows` and the sink do with rows."""
    params, rules = call.params.tensors, call.rules
    layout = find_layout(
        factors.reached, len(call.task_weights), call.params.sets, call.params.shared
    )
    kept = [params[place] for place in kept_places(layout, len(params))]
    if not kept:
        raise ValueError(NOTHING_REACHED)
    gram = unscaled(factors.gram(layout), call.scale)
    scale = find_scale(call, gram, layout)
    weights = find_weights(call, gram, scale, layout.shared)

    def write_(out: list[Tensor], accumulate: bool) -> Report:
        clipped = None if rules.max_norm is None else gram
        clip = factors.merge_(out, weights, layout, clipped, rules.max_norm, accumulate)
        factors.clear()
        return report_of(call, layout, gram, scale, weights, None if clipped is None else clip)

    return write_grads(kept, factors.dtypes(kept, layout), write_)
