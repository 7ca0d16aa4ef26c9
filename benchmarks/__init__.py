"""Measurements of mtl_ops against other implementations: ``python -m benchmarks.run``."""
