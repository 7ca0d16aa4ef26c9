"""A plugin of pytest: the tests run with the extension that ``MTL_OPS_EXTENSION`` names.

``make sanitize`` uses it. Children that a test starts have the usual one.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch  # noqa: F401  (the extension needs its libraries)

spec = importlib.util.spec_from_file_location("mtl_ops._C", os.environ["MTL_OPS_EXTENSION"])
assert spec is not None
assert spec.loader is not None
sys.modules["mtl_ops._C"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
