"""``python -m mtl_ops.check``; see :mod:`mtl_ops.check.command`."""

from __future__ import annotations

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
