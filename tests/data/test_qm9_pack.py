"""QM9 with coordinates: units, atomisation, the published split and normalisation, broken rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from packaged_files import write_qm9

from mtl_ops.data.folders import DataError
from mtl_ops.data.packaged import QM9_PACK
from mtl_ops.data.qm9_pack import COLUMNS, QM9_TARGETS, qm9_arrays, qm9_files, qm9_parts
from mtl_ops.examples.molecules import QM9_SCALES

METHANE = (
    "\"dsgdb9nsd_000001.xyz\",1,\"C\",\"InChI=1S/CH4/h1H4\",5,\"[4,1,0,0,0]\",\"['C','H','H','H','H']\","
    '"[[-0.0126981359,1.0858041578,0.0080009958],[0.002150416,-0.0060313176,0.0019761204],'
    "[1.0117308433,1.4637511618,0.0002765748],[-0.540815069,1.4475266138,-0.8766437152],"
    '[-0.5238136345,1.4379326443,0.9063972942]]","[]","[]",157.7118,157.70997,157.70699,0.,13.21,-0.3877,'
    "0.1171,0.5048,35.3641,0.044749,-40.47893,-40.476062,-40.475117,-40.498597,6.469\n"
)


def test_methane_is_in_the_units_of_the_published_tables(tmp_path: Path) -> None:
    """The energies of atomisation that torch_geometric's QM9 has for its first molecule, in meV."""
    path = tmp_path / "qm9_part1.csv"
    path.write_text(",".join(COLUMNS) + "\n" + METHANE)
    arrays = qm9_arrays([path])
    found = dict(zip(QM9_TARGETS, arrays["targets"][0].tolist(), strict=True))
    assert found["mu"] == 0.0
    assert found["alpha"] == 13.21
    assert found["homo"] == pytest.approx(-10549.85, abs=0.01)
    assert found["zpve"] == pytest.approx(1217.68, abs=0.01)
    energies = {"u0": -17172.18, "u": -17286.82, "h": -17389.65, "g": -16151.92}
    assert {name: found[name] for name in energies} == pytest.approx(energies, abs=0.01)
    assert found["cv"] == 6.469
    assert arrays["atoms"][0, :6].tolist() == [2, 1, 1, 1, 1, 0]
    bond = torch.from_numpy(arrays["places"][0, 1] - arrays["places"][0, 0]).norm()
    assert bond.item() == pytest.approx(1.092, abs=1e-3)


def test_parts_are_of_the_shuffle_and_the_train_part_normalises(tmp_path: Path) -> None:
    write_qm9(tmp_path, 100)
    parts = qm9_parts(2, (60, 20, 20), paths=qm9_files(tmp_path))
    targets = torch.from_numpy(qm9_arrays(qm9_files(tmp_path))["targets"])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    for name, rows in (("test", order[:20]), ("validation", order[20:40]), ("train", order[40:])):
        own = getattr(parts, name)["alpha"][:, 0].double() * parts.deviation[1] + parts.mean[1]
        torch.testing.assert_close(own, targets[rows, 1], rtol=1e-5, atol=1e-4)
    for name in QM9_TARGETS:
        torch.testing.assert_close(parts.train[name].std(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_without_the_division_one_target_drowns_the_others(tmp_path: Path) -> None:
    """``--scale-y False`` (FAMO's issue 5): squared errors ten orders of magnitude apart; with it, alike."""
    write_qm9(tmp_path, 100)
    files = qm9_files(tmp_path)
    raw = qm9_parts(0, (60, 20, 20), (torch.zeros(11), torch.ones(11)), files)
    scaled = qm9_parts(0, (60, 20, 20), paths=files)
    for parts, ratio in ((raw, 1e8), (scaled, 1.1)):
        spreads = torch.stack([parts.train[name].var() for name in QM9_TARGETS])
        assert (spreads.max() / spreads.min() > ratio) == (parts is raw)


def test_parts_shrink_with_the_files_and_not_with_the_package(tmp_path: Path) -> None:
    write_qm9(tmp_path, 40)
    parts = qm9_parts(0, (60, 20, 20), paths=qm9_files(tmp_path))
    assert [len(each["mu"]) for each in parts[:3]] == [24, 8, 8]
    write_qm9(tmp_path, 2)
    with pytest.raises(DataError, match="hold 2 molecules, too few"):
        qm9_parts(0, (60, 20, 20), paths=qm9_files(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'C'", "'Xe'", "line 2, should have 1 to 29 atoms of H, C, N, O and F"),
        ("'C',", "", "line 2, should have three finite coordinates for each of"),
        ("[[0.0,", "[[inf,", "line 2, should have three finite coordinates"),
        ("[[0.0,", "[[what,", "line 2, should have three finite coordinates"),
        ("LUMO_au", "LUMO_eV", "line 1, should have column 'LUMO_au', has 'LUMO_eV'"),
        ('"0","0","0"', '"0","0"', "line 2, should have 25 fields, has 24"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_qm9(tmp_path, 5)
    path = tmp_path / "qm9_part1.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"qm9_part1\.csv, {message}"):
        qm9_parts(0, paths=[path])


def test_first_use_shows_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package's files are read by; they take half a minute."""
    write_qm9(tmp_path, 60)
    said: list[str] = []
    monkeypatch.setattr("mtl_ops.data.qm9_pack.PROGRESS", 20)
    monkeypatch.setattr("mtl_ops.data.tables.PIECE", 10)
    qm9_parts(0, (40, 10, 10), paths=qm9_files(tmp_path), say=said.append)
    assert [line.split(" of ")[0] for line in said] == [f"Reading QM9: {k}" for k in (20, 40, 60)]


@pytest.mark.skipif(QM9_PACK.installed is None, reason=f"needs `{QM9_PACK.command}`")
def test_the_packages_files() -> None:
    parts = qm9_parts(0)
    assert [len(each["mu"]) for each in parts[:3]] == [110_831, 10_000, 10_000]
    mean, deviation = torch.tensor(list(QM9_SCALES.values()), dtype=torch.float64).T
    torch.testing.assert_close(parts.mean, mean, rtol=2e-2, atol=0)
    torch.testing.assert_close(parts.deviation, deviation, rtol=1e-2, atol=0)
