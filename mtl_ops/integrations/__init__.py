"""What other packages need to train with a :class:`mtl_ops.MultiTaskOptimizer`; each imports its package."""
