"""Spoken digits: their features, their texts, and the files they come from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import wav, write_fsdd

from mtl_ops.data.folders import DataError
from mtl_ops.data.speech import LETTERS, Transcript, edit_distance, fsdd, spoken_digits


def test_the_digits_are_written_out() -> None:
    pytest.importorskip("librosa")
    train, test = spoken_digits(10, 3, voice="synthesiser")
    letters, lengths = train["speech"]
    words = [
        "".join(LETTERS[number - 1] for number in row[:length])
        for row, length in zip(letters.tolist(), lengths.tolist(), strict=True)
    ]
    assert words == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    frames, counts = test["input"]
    assert frames.shape == (3, int(counts.max()), 13)
    assert (counts > 8).all()
    torch.testing.assert_close(frames[0, : counts[0]].mean(0), torch.zeros(13), atol=1e-4, rtol=0)
    assert (frames[0, counts[0] :] == 0).all()


def test_voices_are_decided_by_the_seed() -> None:
    pytest.importorskip("librosa")
    one, two, three = (spoken_digits(2, 1, seed, voice="synthesiser") for seed in (0, 0, 1))
    assert torch.equal(one.train["input"][0], two.train["input"][0])
    assert not torch.equal(one.train["input"][0][:, :5], three.train["input"][0][:, :5])


def _espeak(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_espeak_is_asked_for_each_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that notes what it was asked, and answers with a wav file."""
    pytest.importorskip("librosa")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 11025)
    (tmp_path / "out.wav").write_bytes(wav(noise, 22050))
    _espeak(tmp_path, f'echo "$@" >> {tmp_path}/asked; cat {tmp_path}/out.wav', monkeypatch)
    train, _ = spoken_digits(2, 1)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["zero", "one", "two"]
    assert all("--stdout" in line and "-v en+" in line for line in asked)
    assert train["input"][1].tolist() == [32, 32]


def test_espeak_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _espeak(tmp_path, "echo no voice >&2; exit 1", monkeypatch)
    with pytest.raises(DataError, match="espeak-ng failed: no voice"):
        spoken_digits(1, 1, voice="espeak-ng")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is not installed"):
        spoken_digits(1, 1, voice="espeak-ng")


def test_recordings(tmp_path: Path) -> None:
    pytest.importorskip("librosa")
    write_fsdd(tmp_path / "recordings")
    train, test = fsdd(tmp_path)
    assert len(train["speech"][1]) == 20
    assert len(test["speech"][1]) == 50
    assert len(fsdd(tmp_path, limit=10).test["speech"][1].tolist()) == 10
    assert sorted(fsdd(tmp_path / "recordings", limit=10).train["speech"][1].tolist()) == sorted(
        map(len, ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated, or no wav file"),
        (b"RIFFxxxxWAVE", "truncated, or no wav file"),
        (wav(np.zeros(4000))[:-100], "is truncated"),
        (wav(np.zeros(0)), "is truncated"),
        (wav(np.zeros(4000), width=1), "16 bits a sample and has 8"),
    ],
)
def test_a_broken_recording_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    write_fsdd(tmp_path, count=1)
    write_fsdd(tmp_path, count=6)
    path = tmp_path / "0_ann_5.wav"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        fsdd(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_recordings(tmp_path: Path) -> None:
    write_fsdd(tmp_path, count=3)
    with pytest.raises(DataError, match=r"lacks wav files .* get them from github"):
        fsdd(tmp_path)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`train` should be positive\. Found `train = 0`"):
        spoken_digits(0, 1)
    with pytest.raises(ValueError, match="`voice` should be"):
        spoken_digits(1, 1, voice="mine")


@pytest.mark.parametrize(
    ("one", "two", "distance"),
    [([], [], 0), ([1], [], 1), ([], [1, 2], 2), ([1, 2], [2, 1], 2), ([1, 2, 3], [1, 3], 1)],
)
def test_edit_distance(one: list[int], two: list[int], distance: int) -> None:
    assert edit_distance(one, two) == distance


def test_the_best_path_is_read_without_repetitions_and_blanks() -> None:
    path = torch.tensor([[0, 2, 2, 0, 2, 1, 3]])
    output = torch.nn.functional.one_hot(path, 4).float().log_softmax(-1)
    task = Transcript("t")
    right = (torch.tensor([[2, 2, 1]]), torch.tensor([3]))
    assert task.score((output, torch.tensor([6])), right) == 0
    assert task.score((output, torch.tensor([7])), right) == pytest.approx(1 / 3)


def test_the_loss_falls_when_the_text_is_heard() -> None:
    path = torch.tensor([[2, 0, 1]])
    target = (torch.tensor([[2, 1]]), torch.tensor([2]))
    scores = torch.nn.functional.one_hot(path, 3).float()
    losses = [
        Transcript("t").loss(((k * scores).log_softmax(-1), torch.tensor([3])), target)
        for k in (1, 9)
    ]
    assert losses[1] < 0.01 < losses[0]
