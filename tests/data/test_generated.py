"""Generated data: the labels are what the pictures, the sounds and the equations say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtl_ops.data.burgers import VISCOSITY, burgers_front, burgers_points
from mtl_ops.data.dense import Depth, Segmentation
from mtl_ops.data.scenes import SCENE_CLASSES, scenes
from mtl_ops.data.synthesiser import RATE, WORDS, say


def test_scenes_are_decided_by_the_seed() -> None:
    one, two, three = scenes(3, seed=0), scenes(3, seed=0), scenes(3, seed=1)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["input"], three["input"])


def test_every_class_is_seen_and_depths_are_within_the_room() -> None:
    batch = scenes(50)
    shares = torch.bincount(batch["segmentation"].flatten(), minlength=5) / batch["depth"].numel()
    assert len(shares) == len(SCENE_CLASSES)
    assert shares.min() > 0.02
    assert 0.8 < batch["depth"].min() < 1.3
    assert batch["depth"].max() == 4.0


def test_walls_are_far_floors_rise_and_boxes_are_flat() -> None:
    batch = scenes(20, side=64)
    classes, depth = batch["segmentation"], batch["depth"][:, 0]
    assert (depth[classes == 0] == 4.0).all()
    row = -0.2 + 1.2 / depth[classes == 1]
    rows = torch.linspace(-1, 1, 64).view(1, 64, 1).expand_as(depth)[classes == 1]
    torch.testing.assert_close(row, rows)
    # Neighbours that show the same box are equally far; on spheres they are not.
    same = [(classes[:, :, 1:] == kind) & (classes[:, :, :-1] == kind) for kind in (2, 3)]
    steps = (depth[:, :, 1:] - depth[:, :, :-1]).abs()
    assert (steps[same[1]] == 0).float().mean() > 0.9
    assert (steps[same[0]] > 0).float().mean() > 0.9


def test_brightness_falls_with_depth() -> None:
    batch = scenes(200, noise=0.0)
    floor = batch["segmentation"] == 1
    grey, depth = batch["input"].mean(dim=1)[floor], batch["depth"][:, 0][floor]
    assert torch.corrcoef(torch.stack([grey, depth]))[0, 1] < -0.1


@pytest.mark.parametrize("name", ["count", "side"])
def test_scenes_refuse(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` should be positive\. Found `{name} = 0`"):
        scenes(**{"count": 1, name: 0})


def test_the_mean_intersection_over_union_of_parts_is_that_of_the_whole() -> None:
    task = Segmentation("s", 3)
    output, target = torch.randn(4, 3, 5, 5), torch.randint(-1, 2, (4, 5, 5))
    whole = task.score(output, target)
    parts = task.tally(output[:1], target[:1]) + task.tally(output[1:], target[1:])
    assert task.figure(parts) == whole
    predicted, known = output.argmax(1), target != -1
    ious = []
    for kind in range(3):
        mine, true = (predicted == kind) & known, target == kind
        ious.append(((mine & true).sum() / (mine | true).sum()).item())
    assert whole.item() == pytest.approx(np.mean(ious))


def test_pixels_without_a_target_count_for_nothing() -> None:
    output = torch.randn(1, 2, 2, 2)
    target = torch.tensor([[[0, -1], [-1, -1]]])
    alone = torch.nn.functional.cross_entropy(output[:, :, :1, :1], target[:, :1, :1])
    torch.testing.assert_close(Segmentation("s", 2).loss(output, target), alone)
    assert Segmentation("s", 2).loss(output, torch.full((1, 2, 2), -1)) == 0
    depth = torch.tensor([[[[2.0, 0.0]]]])
    assert Depth("d").loss(torch.tensor([[[[5.0, 9.0]]]]), depth) == 3.0


def test_the_front_solves_the_equation() -> None:
    points = torch.rand(50, 2, dtype=torch.float64, requires_grad=True)
    value = burgers_front(points)
    (first,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), points)
    left = first[:, 1] + value[:, 0] * first[:, 0]
    torch.testing.assert_close(left, VISCOSITY * second[:, 0])


def test_points_are_where_their_task_is() -> None:
    points = burgers_points(100, 50, 20, seed=3)
    sides, start = points["boundary"]["input"], points["initial"]["input"]
    assert set(sides[:, 0].tolist()) == {-1.0, 1.0}
    assert (start[:, 1] == 0).all()
    assert points["residual"]["input"][:, 0].min() < -0.5
    for task, own in points.items():
        torch.testing.assert_close(own[task], burgers_front(own["input"]))
    with pytest.raises(ValueError, match="`boundary` should be positive"):
        burgers_points(1, 0, 1)
    with pytest.raises(ValueError, match="should have shape"):
        burgers_front(torch.zeros(3))


def test_every_digit_is_said_in_many_voices() -> None:
    rng = np.random.default_rng(0)
    for word in WORDS:
        one, two = say(word, rng), say(word, rng)
        assert 0.15 * RATE < len(one) < RATE
        assert 0.25 < np.abs(one).max() <= 1
        assert len(one) != len(two) or not np.allclose(one, two)
    with pytest.raises(ValueError, match="`word` should be one of"):
        say("ten", rng)


def test_a_fricative_is_higher_than_a_vowel() -> None:
    """Half the energy of the s of "six" lies above 3 kHz, that of the vowels of "one" below."""
    wave = say("six", np.random.default_rng(1))[: int(0.08 * RATE)]
    assert _median_frequency(wave) > 2500
    assert _median_frequency(say("one", np.random.default_rng(1))) < 1500


def _median_frequency(wave: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    place = int(np.searchsorted(np.cumsum(power), power.sum() / 2))
    return place * RATE / len(wave)


def test_voices_are_decided_by_the_generator() -> None:
    one, two = (say("two", np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two)
    assert math.isfinite(one.sum())
