"""Two digits in one image."""

from __future__ import annotations

import torch

from mtl_ops.data import Split
from mtl_ops.data.multi_digits import multi_digits


def test_both_are_where_their_labels_say() -> None:
    """Image k is bright all over, by k: so one sees which two were laid over each other."""
    part = {
        "input": torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 8, 8),
        "digit": torch.arange(10),
    }
    train, test = multi_digits(Split(part, part), seed=1)
    image = train["input"][:, 0]
    assert image.shape == (10, 10, 10)
    assert torch.equal(image[:, 0, 0].long(), train["left"])
    assert torch.equal(image[:, -1, -1].long(), train["right"])
    assert torch.equal(image[:, 5, 5].long(), torch.maximum(train["left"], train["right"]))
    assert (image[:, 0, -1] == 0).all()
    assert sorted(train["right"].tolist()) == list(range(10))
    assert not torch.equal(train["right"], test["right"])
    assert torch.equal(multi_digits(Split(part, part), seed=1).test["right"], test["right"])
