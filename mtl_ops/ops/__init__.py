"""The operators: typed wrappers of ``torch.ops.mtl_ops.*``, with their fake kernels.

Each runs this build's kernel where there is one for the tensors' device and at most as many
tasks as :data:`MAX_TASKS` names for it, and its definition in :mod:`mtl_ops.reference` everywhere else;
solvers go to the CPU's kernel before that.

``rows`` is the ``T × P`` matrix of per-task gradients as one flat list, row-major: ``rows[t*P + p]``
is the gradient of task t with respect to parameter p, or ``None`` where the task does not reach it.
``segments`` names for each parameter the segment it is measured and merged in; empty means one
segment for all. T tasks, P parameters, S segments.
"""

from .coordinates import (
    merge_graddrop_,
    merge_median_,
    merge_sign_agreement_,
    merge_trimmed_mean_,
)
from .gram_merge import gram, gram_and_scales, merge_, task_scales
from .losses import (
    weigh_dwa,
    weigh_famo,
    weigh_geometric,
    weigh_ldc_mtl,
    weigh_log_scales,
    weigh_relobralo,
    weigh_softadapt,
    weigh_stch,
)
from .operator import MAX_TASKS, Rows
from .rounding import EXACT, rounding_of
from .solve import (
    solve_adaptive_sharing,
    solve_aligned_mtl,
    solve_cagrad,
    solve_config,
    solve_conicgrad,
    solve_dibs_mtl,
    solve_dualproj,
    solve_fairgrad,
    solve_gradops,
    solve_gradvac,
    solve_imtl_g,
    solve_krum,
    solve_mean,
    solve_mgda,
    solve_mgda_frank_wolfe,
    solve_modo,
    solve_nash_mtl,
    solve_online_pcgrad,
    solve_pcd,
    solve_pcgrad,
    solve_sdmgrad,
    solve_sum,
    solve_upgrad,
)
from .solve_preference import solve_epo, solve_ferero, solve_pmgda

__all__ = [
    "EXACT",
    "MAX_TASKS",
    "Rows",
    "gram",
    "gram_and_scales",
    "merge_",
    "merge_graddrop_",
    "merge_median_",
    "merge_sign_agreement_",
    "merge_trimmed_mean_",
    "rounding_of",
    "solve_adaptive_sharing",
    "solve_aligned_mtl",
    "solve_cagrad",
    "solve_config",
    "solve_conicgrad",
    "solve_dibs_mtl",
    "solve_dualproj",
    "solve_epo",
    "solve_fairgrad",
    "solve_ferero",
    "solve_gradops",
    "solve_gradvac",
    "solve_imtl_g",
    "solve_krum",
    "solve_mean",
    "solve_mgda",
    "solve_mgda_frank_wolfe",
    "solve_modo",
    "solve_nash_mtl",
    "solve_online_pcgrad",
    "solve_pcd",
    "solve_pcgrad",
    "solve_pmgda",
    "solve_sdmgrad",
    "solve_sum",
    "solve_upgrad",
    "task_scales",
    "weigh_dwa",
    "weigh_famo",
    "weigh_geometric",
    "weigh_ldc_mtl",
    "weigh_log_scales",
    "weigh_relobralo",
    "weigh_softadapt",
    "weigh_stch",
]
