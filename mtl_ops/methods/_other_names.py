"""Names by which methods are known elsewhere, and what to use here instead."""

from __future__ import annotations

__all__ = ["OTHER_NAMES"]

_ANNEALING = "use `norm_balancing` with `target='reference'`, this scheme with norms instead of statistics of elements"

#: The rest of a sentence that begins with the name. ``docs/names.md`` says more.
OTHER_NAMES: dict[str, str] = {
    "autoscale": "it is a training procedure of two phases; use `norm_balancing` for some steps, then `constant`",
    "dcgd": "its center is `config` for two tasks, its projection `dualproj` with `preference=[1, 1]`, "
    "its average half of `pcgrad` where the sum conflicts with one",
    "dcgd_center": "use `config`, which is the same for two tasks",
    "dcgd_projection": "use `dualproj` with `preference=[1, 1]`, which is the same for two tasks",
    "dcgd_average": "use `pcgrad`, which is twice that for two tasks where their sum conflicts with one",
    "grad_norm": "use `norm_balancing` (jaxpi's weights) or `gradnorm` (Chen et al.)",
    "grad_norm_weighting": "use `norm_balancing`, which is the same",
    "gls": "use `geometric`",
    "learning_rate_annealing": _ANNEALING,
    "lr_annealing": _ANNEALING,
    "lrannealing": _ANNEALING,
    "ntk": "use `norm_balancing` with `measure='ntk'`, or with traces that you hand in as `measures`",
    "rlw": "use `random`",
    "sam_gs": "it is of degree 2 in the gradients and works on single coordinates with a momentum of their size; "
    "its equalisation is `sum` with `normalise='l2'` and `keep_scale=True`",
    "self_adaptive": "weights that ascend on losses only grow, which is a rising learning rate; use `uncertainty` "
    "or `ldc_mtl`",
    "uw": "use `uncertainty`",
}
