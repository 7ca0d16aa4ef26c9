"""Checks this build on this machine: ``mtl-ops check``, or ``python -m mtl_ops.check``."""
