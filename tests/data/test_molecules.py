"""Graphs like molecules, and QM9 through torch-geometric."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mtl_ops.data.folders import DataError
from mtl_ops.data.molecules import ATOMS, MOLECULE_TARGETS, Graphs, _properties, molecules, qm9


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return molecules(200, 50).train["input"]  # type: ignore[no-any-return]


def test_valences_are_respected(graphs: Graphs) -> None:
    valences = graphs.atoms @ torch.tensor([float(values[0]) for values in ATOMS.values()])
    used = graphs.bonds.sum(dim=2)
    assert (used <= valences).all()
    assert torch.equal(graphs.bonds, graphs.bonds.mT)
    assert (graphs.bonds.diagonal(dim1=1, dim2=2) == 0).all()
    assert ((graphs.atoms.sum(-1) == 0) | (graphs.atoms.sum(-1) == 1)).all()


def test_every_molecule_is_connected(graphs: Graphs) -> None:
    there = graphs.atoms.sum(-1)
    reach = torch.linalg.matrix_power(graphs.bonds + torch.diag_embed(there), 12) > 0
    assert torch.equal(reach, (there.unsqueeze(1) * there.unsqueeze(2)) > 0)
    assert there.sum(1).min() >= 2
    assert there.sum(1).max() == 12


def test_some_have_rings_and_double_bonds(graphs: Graphs) -> None:
    edges, atoms = (graphs.bonds > 0).sum((1, 2)) / 2, graphs.atoms.sum((1, 2))
    assert 0.1 < (edges >= atoms).float().mean() < 0.9
    assert (graphs.bonds == 2).any()


def test_properties_of_carbon_monoxide_and_nitrogen_by_hand() -> None:
    """C=O and N≡N as the formulas of the docstring have them."""
    atoms = torch.zeros(2, 3, 4)
    atoms[0, 0, 0] = atoms[0, 1, 2] = atoms[1, 0, 1] = atoms[1, 1, 1] = 1.0
    bonds = torch.zeros(2, 3, 3)
    for row, order in ((0, 2.0), (1, 3.0)):
        bonds[row, 0, 1] = bonds[row, 1, 0] = order
    delta = 3.44 - 2.55
    level = np.linalg.eigvalsh([[-2.55, -2.0], [-2.0, -3.44]])
    expected = [
        [
            2 * delta * 2**0.5,
            (1.76 + 0.80) * 1.2,
            level[1] - level[0],
            -2 * ((3.6 * 1.5) ** 0.5 + delta**2),
        ],
        [0.0, 2 * 1.10 * 1.4, 6.0, -3 * 1.7],
    ]
    np.testing.assert_allclose(_properties(atoms, bonds).numpy(), expected, rtol=1e-6)


def test_targets_are_standardised_by_the_train_part() -> None:
    train, test = molecules(300, 100, seed=2)
    for name in MOLECULE_TARGETS:
        torch.testing.assert_close(train[name].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(train[name].std(correction=0), torch.tensor(1.0))
        assert 0.3 < test[name].std() < 3
    assert torch.equal(molecules(300, 100, seed=2).test["gap"], test["gap"])
    assert not torch.equal(molecules(300, 100, seed=3).test["gap"], test["gap"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`test` should be at least 2\. Found `test = 1`"):
        molecules(2, 1)


def _water(place: int) -> Any:
    """H-O-H as torch-geometric gives it, with targets place, place + 1, ..."""
    return SimpleNamespace(
        z=torch.tensor([8, 1, 1]),
        edge_index=torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]]),
        edge_attr=torch.tensor([[1.0, 0, 0, 0]] * 4),
        y=torch.arange(19.0).unsqueeze(0) + place,
    )


def _with_geometric(monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    module = ModuleType("torch_geometric.datasets")
    module.QM9 = lambda root: rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_geometric", ModuleType("torch_geometric"))
    monkeypatch.setitem(sys.modules, "torch_geometric.datasets", module)


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed" / "data_v3.pt").touch()
    return tmp_path


def test_qm9(processed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_geometric(monkeypatch, [_water(place) for place in range(20)])
    train, test = qm9(processed, seed=0, limit=10)
    assert train["input"].atoms.shape == (8, 3, 5)
    assert train["input"].atoms[0].argmax(-1).tolist() == [3, 0, 0]
    assert train["input"].bonds[0].tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert len(test["gap"]) == 2
    torch.testing.assert_close(train["dipole"], train["energy"])


def test_what_is_not_qm9(tmp_path: Path, processed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_geometric(monkeypatch, [SimpleNamespace(z=torch.tensor([1]))] * 3)
    with pytest.raises(DataError, match=r"is not QM9's of torch-geometric: .*no attribute"):
        qm9(processed)
    with pytest.raises(DataError, match=r"lacks processed/data\*\.pt; get it by torch_geometric"):
        qm9(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "torch_geometric.datasets", None)
    with pytest.raises(ImportError, match="pip install torch-geometric"):
        qm9(processed)
