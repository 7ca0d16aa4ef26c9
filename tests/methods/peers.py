"""Comparing a method with TorchJD's on whole merges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from matrices import Case
from merged import assert_same
from torch import Tensor

from mtl_ops.methods import Method

#: Where G is far from singular and norms are about the same, so that absolute thresholds and the
#: accuracy of LAPACK do not matter.
TAME = (
    "random",
    "nearly_orthogonal",
    "orthogonal",
    "shared_direction",
    "nonnegative",
    "conflict",
    "hard_conflict",
)


def assert_agree(
    method: Method,
    peer: Callable[[Tensor], Tensor],
    chosen: Iterable[Case],
    *,
    rtol: float,
    of_terms: float = 1e-12,
    of_rows: float = 0.0,
    at_least: int = 200,
) -> None:
    """The merged gradients are the same; ``peer`` answers with weights for a Jacobian."""
    count = 0
    for case in chosen:
        found, wanted = method.weights(case.gram[0]), peer(case.jacobian)
        assert_same(case, found, wanted, rtol=rtol, of_terms=of_terms, of_rows=of_rows)
        count += 1
    assert count >= at_least
