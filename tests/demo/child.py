"""Run the command line in a process of its own that gets a signal in the middle of an epoch.

``child.py SIGKILL sum train --out folder`` trains until the third step of the second epoch of ``sum``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from mtl_ops.cli import main
from mtl_ops.data import Split, digits
from mtl_ops.demo.trainer import Trainer
from mtl_ops.examples import digits as digits_example


def fewer_digits(seed: int) -> Split:
    """A quarter of the digits: five steps an epoch."""
    train, test = digits(seed)
    return Split(
        {name: values[:330] for name, values in train.items()},
        {name: values[:150] for name, values in test.items()},
    )


def _send_in_the_middle(name: str, label: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    step, steps = Trainer.step, 0

    def counted(self: Trainer, batch: Any) -> Any:
        nonlocal steps
        if self.run.label == label and self.epoch == 1:
            steps += 1
            if steps == 3:
                os.kill(os.getpid(), signal.Signals[name])
        return step(self, batch)

    Trainer.step = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    digits_example.digits = fewer_digits  # type: ignore[assignment]
    _send_in_the_middle(*sys.argv[1:3])
    sys.argv[1:] = sys.argv[3:]
    main()
