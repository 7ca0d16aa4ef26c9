"""Weights from the gradients at the features, found on the way down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import ops
from ..gradients.backward import accumulate, derive
from ..gradients.differentiate import differentiate
from ..gradients.frontier import leaves_above
from ..gradients.rows import dense, dtypes_of
from ..gradients.source import Source
from ..gradients.tasks import Tasks
from ..merging.call import Call
from ..merging.sink import Sink
from .known_weights import Known, Measured, known_rows

__all__ = ["feature_rows"]


def feature_rows(
    weigh: Callable[[list[Tensor | None]], Measured],
    call: Call,
    source: Source,
    sink: Sink,
    land: bool,
) -> Known:
    """One step with G measured on the gradients of the features.

    Each loss is differentiated down to the features and no further; the merged gradient of the features is then sent
    through the rest of the network. Together that is what one backward of a sum does, if nothing goes past the
    features and through them to the same parameter. If something does, in any process, the gradients at the features
    only measure G, and the losses are differentiated once more, as one weighted sum.

    Args:
        weigh: From gradients at the features to weights.
        call: What is asked for.
        source: Where gradients come from. They are not batched: what is above the features belongs to the
            tasks, and what is below takes one backward.
        sink: Who else has a part.
        land: Whether the merged gradient may go to ``.grad`` at once.

    Raises:
        ValueError: If no loss reaches the features.
    """
    features, tasks, params = call.features, call.tasks, call.params.tensors
    source = replace(source, batching=None)
    above = leaves_above(tasks.losses, features)
    if _anywhere(above is None, features, sink):
        plain = replace(source, sparse=False)
        rows = differentiate(tasks, features, retain_graph=True, source=plain)
        _check_features(rows, tasks)
        return known_rows(weigh(rows), call, source, sink, land)
    assert above is not None
    count = len(features)
    downstream = [leaf for leaf in params if id(leaf) in above]
    both = [*features, *downstream]
    rows = differentiate(tasks, both, retain_graph=True, source=source)
    at_features = [
        dense(row) for t in range(len(tasks.losses)) for row in rows[t * len(both) :][:count]
    ]
    _check_features(at_features, tasks)
    measured = weigh(at_features)
    trunk = _through(measured, at_features, call, land)
    place = {id(leaf): count + k for k, leaf in enumerate(downstream)}
    heads = [
        None if id(leaf) not in place else rows[t * len(both) + place[id(leaf)]]
        for t in range(len(tasks.losses))
        for leaf in params
    ]
    return Known(measured, heads, trunk, land)


def _through(
    measured: Measured, rows: Sequence[Tensor | None], call: Call, land: bool
) -> Sequence[Tensor | None]:
    """The P gradients of what is below the features, from the weighted sum of those at them."""
    features, params = call.features, list(call.params.tensors)
    count = len(features)
    reached = [k for k in range(count) if any(row is not None for row in rows[k::count])]
    nothing: list[Tensor | None] = [None] * len(params)
    if not reached:
        return nothing
    starts = [features[k] for k in reached]
    picked = [rows[start + k] for start in range(0, len(rows), count) for k in reached]
    merged = [
        torch.empty_like(f, dtype=d) for f, d in zip(starts, dtypes_of(picked, starts), strict=True)
    ]
    ops.merge_(merged, picked, measured.weights.unsqueeze(0))
    merged = [gradient.to(feature.dtype) for gradient, feature in zip(merged, starts, strict=True)]
    keep = call.retain_graph
    if land:
        accumulate(starts, merged, params, keep)
        return nothing
    return derive(starts, params, merged, keep)


def _anywhere(here: bool, features: Sequence[Tensor], sink: Sink) -> bool:
    """Whether something is so in any process."""
    place = features[:1]
    return sink.anywhere([place[0] if here else None], place)[0] is not None


def _check_features(rows: Sequence[Tensor | None], tasks: Tasks) -> None:
    if tasks.present and all(row is None for row in rows):
        raise ValueError(
            "Parameter `features` should be what the losses are computed from. Found no loss that reaches it."
        )
