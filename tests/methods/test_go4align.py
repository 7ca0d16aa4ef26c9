"""GO4Align."""

from __future__ import annotations

import itertools

import pytest
import torch
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

from mtl_ops.methods import GO4Align
from mtl_ops.methods.go4align import group_means


def squares(x: Tensor, means: Tensor) -> float:
    return float((x - means).square().sum())


def test_groups_are_the_best_of_all_partitions() -> None:
    g = torch.Generator().manual_seed(0)
    for groups in (1, 2, 3):
        for _ in range(3):
            x = torch.randn(5, generator=g, dtype=torch.float64)
            found = group_means(x, torch.ones(5, dtype=torch.bool), groups)
            assert len(found.unique()) <= groups
            best = min(
                squares(
                    x,
                    torch.stack(
                        [x[[k for k in range(5) if labels[k] == label]].mean() for label in labels]
                    ),
                )
                for labels in itertools.product(range(min(groups, 5)), repeat=5)
            )
            assert squares(x, found) == pytest.approx(best, abs=1e-12)


def test_groups_of_numbers_of_any_size() -> None:
    """Small numbers are told apart beside large ones."""
    x = torch.tensor([1e12, 1.0, 2.0, 9.0, 10.0], dtype=torch.float64)
    found = group_means(x, torch.ones(5, dtype=torch.bool), 3)
    assert found.tolist() == [1e12, 1.5, 1.5, 9.5, 9.5]


def test_formula() -> None:
    method = GO4Align(groups=3, step_size=0.3)
    log_p = torch.zeros(3, dtype=torch.float64)
    for losses in ([1.0, 3.0, 4.0], [2.0, 0.5, 1.0]):
        values = torch.tensor(losses, dtype=torch.float64)
        log_p = log_p - 0.3 * values
        wanted = log_p.softmax(dim=0) * values.sum() / values
        torch.testing.assert_close(method.weights(None, values), wanted)


def test_sum_and_sign() -> None:
    g = torch.Generator().manual_seed(1)
    one, two = GO4Align(groups=7, step_size=0.1), GO4Align(step_size=0.1)
    for _ in range(5):
        values = torch.randn(7, generator=g, dtype=torch.float64).exp()
        each, grouped = one.weights(None, values), two.weights(None, values)
        assert float(grouped.sum()) == pytest.approx(float(each.sum()))
        assert (grouped > 0).all()
        assert len(grouped.unique()) <= 2


def test_absent_tasks_keep_their_share() -> None:
    method, fewer = GO4Align(step_size=0.5), GO4Align(step_size=0.5)
    losses = torch.tensor([1.0, torch.nan, 3.0])
    for _ in range(2):
        w = method.weights(None, losses)
        assert w[1] == 0
        torch.testing.assert_close(w[::2], fewer.weights(None, losses[::2]))
    assert method.log_shares is not None
    assert method.log_shares[1] == 0


def test_a_loss_that_is_not_positive_is_not_remembered() -> None:
    method = GO4Align(step_size=0.5)
    method.weights(None, torch.tensor([1.0, 2.0]))
    assert method.log_shares is not None
    before = method.log_shares.clone()
    assert method.weights(None, torch.tensor([1.0, 0.0])).isnan().all()
    assert torch.equal(method.log_shares, before)


def test_one_task_and_one_group() -> None:
    assert GO4Align().weights(None, torch.tensor([3.0])).tolist() == [1.0]
    w = GO4Align(groups=1).weights(None, torch.tensor([3.0, 1.0]))
    assert w[0] == w[1]


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    method, other = GO4Align(step_size=0.1), GO4Align(step_size=0.1)
    losses = torch.tensor([1.0, 2.0, 3.0])
    method.weights(None, losses)
    tensor = method.log_shares
    method.weights(None, losses)
    assert method.log_shares is tensor
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    assert torch.equal(other.weights(None, losses), method.weights(None, losses))


def test_training_resumes_and_forgets() -> None:
    assert_resumes(GO4Align)
    assert_forgets(GO4Align)
