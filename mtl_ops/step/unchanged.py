"""After an error nothing has changed: gradients, memories, counters and generators are what they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients.sparse import summed
from ..methods import Method
from ..ops.capture import capturing

__all__ = ["Before"]


class Before:
    """What there was before some work, to be put back if it fails; also if it is interrupted by Ctrl+C.

    Use it without a ``with``, whose ends can be interrupted between two of its instructions::

        before = Before(objects, generator, device)
        try:
            before.set_aside(params)  # `.grad` is None from here on
            ...  # writes `.grad` and what the objects remember
            before.add()  # last: adds what was set aside
        except BaseException:
            before.put_back()
            raise

    Nothing waits for a device. No gradient is copied: those that are there are held while new ones are
    made, and added to in one call. Of the objects' attributes, tensors are copied, as they may be
    written to: they hold a few numbers for each task.

    Args:
        objects: Whose attributes to remember; ``None`` among them is left out.
        generator: Where the work draws from, besides the default ones; ``None`` for those alone.
        device: The parameters' device.
        constant: A tensor among the attributes that the work does not write to, of which no copy is needed.
    """

    def __init__(
        self,
        objects: Iterable[object],
        generator: torch.Generator | None,
        device: torch.device,
        constant: Tensor | None = None,
    ) -> None:
        self._attributes = [_Attributes(one, constant) for one in objects if one is not None]
        self._generators = [(one, one.get_state()) for one in _generators(generator, device)]
        self._grads: list[tuple[Tensor, Tensor | None]] = []
        self._fresh = True
        self._held: list[tuple[Tensor, Tensor, int]] = []
        self._sums: list[tuple[Tensor, Tensor]] = []

    def set_aside(self, params: Sequence[Tensor]) -> bool:
        """Sets ``.grad`` to ``None``; returns whether all were."""
        found = [(param, param.grad) for param in params]
        self._grads += found
        fresh = True
        for param, grad in found:
            if grad is not None:
                param.grad, fresh = None, False
        self._fresh = self._fresh and fresh
        return fresh

    def forget(self, thing: object, name: str) -> None:
        """An attribute that cannot be put back, and becomes ``None``."""
        for one in self._attributes:
            if one.thing is thing:
                one.values[name] = None

    def add(self) -> None:
        """Adds new gradients to those that were there, in place wherever torch can."""
        if self._fresh:  # as after each `zero_grad`
            return
        arrived, held, sums = [], [], []
        for param, grad in self._grads:
            if grad is None:
                continue
            new = param.grad
            if new is None:
                sums.append((param, grad))
            elif _writable(grad) and new.layout == torch.strided:
                arrived.append(new)
                held.append((param, grad, grad._version))
            else:
                sums.append((param, summed(grad.detach(), new)))
        self._sums, self._held = sums, held
        if held:  # in one call, which is not interrupted half-way
            torch._foreach_add_([grad for _, grad, _ in held], arrived)
        self._attach()

    def put_back(self) -> None:
        """As it was before; or, if the last thing has been done already, as it is after."""
        if any(grad._version != version for _, grad, version in self._held):
            self._attach()
            return
        for param, grad in self._grads:
            if param.grad is not grad:
                param.grad = grad
        for one in self._attributes:
            one.put_back()
        for generator, state in self._generators:
            generator.set_state(state)

    def _attach(self) -> None:
        for param, grad, _ in self._held:
            param.grad = grad
        for param, grad in self._sums:
            param.grad = grad


#: For the types of an object's attributes, in order, the places of those that may be written to.
_WRITABLE: dict[tuple[type, ...], tuple[int, ...]] = {}


def _writable_places(kinds: tuple[type, ...]) -> tuple[int, ...]:
    """Places of containers, tensors and methods; remembered, as it is asked of the same few objects in every step."""
    places = tuple(
        place
        for place, kind in enumerate(kinds)
        if kind is dict or kind is list or issubclass(kind, (Tensor, Method))
    )
    _WRITABLE[kinds] = places
    return places


class _Attributes:
    """The attributes of an object and of the methods that it holds."""

    def __init__(self, thing: object, constant: Tensor | None = None) -> None:
        self.thing, self.constant = thing, constant
        self.values = values = vars(thing).copy()
        self.copies: list[tuple[Tensor, Tensor]] = []
        self.inner: list[_Attributes] = []
        kinds = tuple(map(type, values.values()))
        places = _WRITABLE.get(kinds)
        if places is None:
            places = _writable_places(kinds)
        if places:
            names = list(values)
            for place in places:
                self._copy(names[place])

    def _copy(self, name: str) -> None:
        value = self.values[name]
        kind = type(value)
        if kind is dict or kind is list:
            self.values[name] = _copied(value) if value else kind()
        elif isinstance(value, Method):
            if isinstance(self.thing, Method):
                self.inner.append(_Attributes(value))
        elif not value.requires_grad and value is not self.constant:
            self.copies.append((value, value.clone()))

    def put_back(self) -> None:
        attributes = vars(self.thing)
        for name in [name for name in attributes if name not in self.values]:
            del attributes[name]
        attributes.update(self.values)
        for tensor, copy in self.copies:
            tensor.copy_(copy)
        for one in self.inner:
            one.put_back()


def _copied(value: Any) -> Any:
    """Containers, as they may be written to; not what is in them."""
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    if type(value) is list:
        return [_copied(one) for one in value]
    return value


def _generators(given: torch.Generator | None, device: torch.device) -> list[torch.Generator]:
    """All that may be drawn from, each once."""
    found = [torch.default_generator]
    if device.type == "cpu" and given is None:
        return found
    if (
        capturing()
    ):  # torch does not tell the state of a generator of the device then, and nothing is drawn
        return found if given is None or given.device.type != "cpu" else _with(found, given)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        found.append(torch.cuda.default_generators[index])
    return found if given is None else _with(found, given)


def _with(generators: list[torch.Generator], one: torch.Generator) -> list[torch.Generator]:
    return generators if one in generators else [*generators, one]


def _writable(grad: Tensor) -> bool:
    """Whether a gradient can be added to in place: not a sparse or an expanded one, nor one with a graph.

    Here and not in a ``no_grad``, which stays on if it is interrupted where it ends.
    """
    if grad.layout != torch.strided or grad.requires_grad or grad.is_inference():
        return False
    return type(grad) is not Tensor or torch._debug_has_internal_overlap(grad) != 1
