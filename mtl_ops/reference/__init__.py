"""The definition of every operator: plain PyTorch in float64, no cleverness.

Each function has the name and the arguments of its operator in ``torch.ops.mtl_ops``. It is what
the kernels are tested against, and what runs on devices without kernels and for more tasks than
the kernels take. A kernel that disagrees is wrong.
"""

from .aligned import solve_aligned_mtl
from .cagrad import solve_cagrad
from .conicgrad import solve_conicgrad
from .dual_cone import solve_dualproj, solve_upgrad
from .elementwise import (
    merge_graddrop_,
    merge_median_,
    merge_sign_agreement_,
    merge_trimmed_mean_,
)
from .equal_angle import solve_config, solve_imtl_g
from .fairness import solve_fairgrad, solve_nash_mtl
from .gradients import gram, merge_
from .gradops import solve_dibs_mtl, solve_gradops
from .krum import solve_krum
from .linear import solve_mean, solve_sum
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
from .mgda import solve_mgda, solve_mgda_frank_wolfe
from .pcd import solve_pcd
from .preference import solve_epo, solve_ferero, solve_pmgda
from .scales import gram_and_scales, task_scales
from .sharing import solve_adaptive_sharing
from .simplex import solve_modo, solve_sdmgrad
from .surgery import solve_gradvac, solve_online_pcgrad, solve_pcgrad

__all__ = [
    "gram",
    "gram_and_scales",
    "merge_",
    "merge_graddrop_",
    "merge_median_",
    "merge_sign_agreement_",
    "merge_trimmed_mean_",
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
