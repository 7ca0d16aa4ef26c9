"""A network for images, text and speech, and the two examples that train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..data import Batch, Goal, Split, Task, digits
from ..data.folders import DataError
from ..data.idx import is_mnist, mnist
from ..data.speech import LETTERS, Transcript, fsdd, spoken_digits, voice_in_use
from ..data.text import VOCABULARY, ag_news, topics
from .base import Example, Size
from .encoded import image_text_model

__all__ = ["ImageText", "ImageTextSpeech", "ModalityNet"]


class ModalityNet(nn.Module):
    """Three modalities that share what they have in common, each with a loss of its own.

    * Convolutions over the pixels of an image, and over time and frequency of speech.
    * A recurrence (GRU) over the words of a text and over the frames of speech, on an embedding
      of the same width, which goes through one layer that both share.
    * A layer on what ends as one vector: images and texts.

    Inputs by task: images ``(B, 1, H, W)``; word numbers ``(B, words)``, 0 after the end; a pair of
    frames ``(B, frames, 13)`` and their numbers ``(B,)``.

    Args:
        goals: The tasks, of ``"image"``, ``"text"`` and ``"speech"``.
        width: Of embeddings and of the recurrence.

    Example:
        >>> import torch
        >>> from mtl_ops.data import Task
        >>> model = ModalityNet({"image": Task("image", 10, "classes"), "text": Task("text", 4, "classes")})
        >>> outputs = model({"image": torch.zeros(3, 1, 8, 8), "text": torch.ones(2, 5).long()})
        >>> {task: tuple(output.shape) for task, output in outputs.items()}
        {'image': (3, 10), 'text': (2, 4)}
    """

    def __init__(self, goals: Mapping[str, Goal], width: int = 64) -> None:
        super().__init__()
        self.goals = dict(goals)
        # Only what a task needs: the others would never get a gradient.
        if goals.keys() & {"image", "speech"}:
            self.convolutions = _convolutions()
        if goals.keys() & {"text", "speech"}:
            self.embedding = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())
            self.recurrence = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        if goals.keys() & {"image", "text"}:
            self.trunk = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        if "image" in goals:
            self.image = nn.Sequential(
                nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 16, width), nn.ReLU()
            )
        if "text" in goals:
            self.words = nn.Embedding(VOCABULARY, width, padding_idx=0)
        if "speech" in goals:
            self.frames = nn.Linear(32 * 4, width)
        self.heads = nn.ModuleDict({task: _head(goal, width) for task, goal in goals.items()})

    def forward(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs of the tasks that have an input."""
        features: dict[str, Callable[[Any], Any]] = {
            "image": self._image,
            "text": self._text,
            "speech": self._speech,
        }
        return {task: features[task](input[task]) for task in self.goals if task in input}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the tasks that are in the batch."""
        outputs = self(batch["input"])
        return {task: self.goals[task].loss(out, batch[task]) for task, out in outputs.items()}

    def _image(self, images: Tensor) -> Tensor:
        output: Tensor = self.heads["image"](self.trunk(self.image(self.convolutions(images))))
        return output

    def _text(self, numbers: Tensor) -> Tensor:
        lengths = (numbers != 0).sum(dim=1)
        states = self._read(self.words(numbers), lengths)
        mean = states.sum(dim=1) / lengths.unsqueeze(1)
        output: Tensor = self.heads["text"](self.trunk(mean))
        return output

    def _speech(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        frames, lengths = pair
        frames = frames[:, : int(lengths.max())]
        picture = self.convolutions(frames.unsqueeze(1))
        pooled = nn.functional.adaptive_avg_pool2d(picture, (picture.shape[2], 4))
        states = self._read(self.frames(pooled.transpose(1, 2).flatten(2)), lengths)
        return self.heads["speech"](states).log_softmax(dim=-1), lengths

    def _read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """States of the recurrence, zero after the end of a sequence."""
        packed = pack_padded_sequence(
            self.embedding(embedded), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        return states


def _convolutions() -> nn.Sequential:
    """``(B, 1, H, W)`` to ``(B, 32, H, W)``.

    Groups of channels are normalised, since the statistics of a batch differ between images and
    speech.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
    )


def _head(goal: Goal, width: int) -> nn.Linear:
    """A linear layer for classes, or for letters and CTC's blank."""
    if isinstance(goal, Task):
        return nn.Linear(width, goal.outputs)
    head = nn.Linear(width, len(LETTERS) + 1)
    with torch.no_grad():
        # Otherwise CTC begins with blanks only, and stays there for hundreds of steps.
        head.weight.mul_(3.0)
        head.bias[0] -= 2.0
    return head


class ImageTextSpeech(Example):
    """Digits that are seen, prose to be sorted by topic, digits that are heard.

    Each task has inputs of its own, of which there are 1,347, 600 and 480: the smaller sets are
    missing from some batches.
    """

    name: ClassVar[str] = "image-text-speech"
    title: ClassVar[str] = "images, text and speech"
    note: str = "char. error: edits over letters, of spoken digits written out."
    formats: ClassVar[tuple[str, ...]] = ("MNIST (IDX)", "AG News (CSV)", "FSDD (wav)")
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "upgrad", "famo")
    epochs: ClassVar[int] = 8
    batch_size: ClassVar[int] = 16
    seeds: ClassVar[tuple[int, ...]] = (0, 1)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text", "speech")

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if "speech" in self.modalities:
            recorded = folder is not None and "speech" in self._held()
            self.note = f"{self.note} Speech: {'recordings' if recorded else voice_in_use()}."

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        classes = 8 if self.folder is None or not (self.folder / "train.csv").exists() else 4
        every: dict[str, Goal] = {
            "image": Task("image", 10, "classes"),
            "text": Task("text", classes, "classes"),
            "speech": Transcript("speech"),
        }
        return {name: every[name] for name in self.modalities}

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; what a folder does not hold is the embedded set."""
        make = {"image": self._images, "text": self._texts, "speech": self._sounds}
        if self.folder is not None and not self._held():
            raise DataError(
                f"Folder {self.folder} holds none of what example '{self.name}' reads: "
                f"{', '.join(self.formats)}."
            )
        parts = {name: make[name](seed, size == "tiny") for name in self.modalities}
        return Split(
            {name: part.train for name, part in parts.items()},
            {name: part.test for name, part in parts.items()},
        )

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = self.tasks
        return ModalityNet({task: goals[task] for task in tasks})

    def _held(self) -> list[str]:
        """The modalities of which the folder holds data."""
        assert self.folder is not None
        found = {
            "image": is_mnist(self.folder),
            "text": (self.folder / "train.csv").exists(),
            "speech": bool([*self.folder.glob("*.wav"), *self.folder.glob("recordings/*.wav")]),
        }
        return [name for name in self.modalities if found[name]]

    def _images(self, seed: int, tiny: bool) -> Split:
        if self.folder is not None and "image" in self._held():
            train, test = mnist(self.folder, 128 if tiny else None)
        else:
            train, test = digits(seed)
        count = 128 if tiny else None
        return Split(
            *({"input": p["input"][:count], "image": p["digit"][:count]} for p in (train, test))
        )

    def _texts(self, seed: int, tiny: bool) -> Split:
        if self.folder is not None and "text" in self._held():
            return ag_news(self.folder, 128 if tiny else None)
        return topics(seed, each=20 if tiny else 100)

    def _sounds(self, seed: int, tiny: bool) -> Split:
        if self.folder is not None and "speech" in self._held():
            return fsdd(self.folder, 40 if tiny else None)
        return spoken_digits(*((40, 20) if tiny else (480, 160)), seed)


class ImageText(ImageTextSpeech):
    """Digits that are seen and prose to be sorted by topic; the layer above the encoders is shared."""

    name: ClassVar[str] = "image-text"
    title: ClassVar[str] = "images and text"
    note: str = "Images are digits, texts are sorted by topic."
    formats: ClassVar[tuple[str, ...]] = ("MNIST (IDX)", "AG News (CSV)")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    architectures: ClassVar[tuple[str, ...]] = ("rnn", "transformer")

    def variant(self, architecture: str, tasks: dict[str, Task], split: Split) -> nn.Module:
        """Encoders of their own, and a layer that both share."""
        side = split.train["image"]["input"].shape[-1] if "image" in tasks else 0
        kind: Literal["rnn", "transformer"] = "rnn" if architecture == "rnn" else "transformer"
        return image_text_model(kind, tasks, side, VOCABULARY)
