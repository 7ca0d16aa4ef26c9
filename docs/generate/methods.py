"""The facts about each method that its code does not tell.

One place: the README's table, the overview and each method's own page come from :data:`ROWS`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GROUPS", "ROWS", "Row", "group_of"]


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: As :func:`mtl_ops.methods.get` takes it.
        paper: Authors, venue and year.
        needs: What it weighs by. G stands for the Gram matrix of the task gradients.
        memory: What it keeps between steps: T or T×T numbers, learned parameters, or T gradients.
        cost: Of the weights, in operations; a QP and Newton's method take a bounded number of steps of T³.
        holds: What holds of its result.
        others: Where other implementations differ.
    """

    name: str
    needs: str
    cost: str
    paper: str = ""
    memory: str = ""
    holds: str = ""
    others: str = ""


#: What each of the overview's tables holds, in order.
GROUPS = {
    "Inner products": "weigh the gradients by their inner products G: one backward for each task, two passes over them",
    "Losses": "weigh the losses: one backward of the weighted sum",
    "Another batch": "need inner products with the gradients of other losses, from `mtl_ops.cross_gram`",
    "Coordinates": "look at single coordinates: one backward for each task, and one more fused pass instead of two",
}


def group_of(row: Row) -> str:
    """The name in :data:`GROUPS`."""
    if "batch" in row.needs or "validation" in row.needs:
        return "Another batch"
    if row.needs.startswith("losses"):
        return "Losses"
    return "Coordinates" if row.needs == "coordinates" else "Inner products"


ROWS = (
    Row(
        "sum",
        needs="G",
        cost="T",
        holds="`w = 1`",
    ),
    Row(
        "mean",
        needs="G",
        cost="T",
        holds="`w = 1/k`",
    ),
    Row(
        "constant",
        needs="losses",
        cost="T",
        holds="`w` as given",
    ),
    Row(
        "random",
        paper="Lin et al., TMLR 2022",
        needs="losses",
        cost="T",
        holds="`w > 0`, `Σw = 1`",
        others="TorchJD draws from the global generator",
    ),
    Row(
        "pcgrad",
        paper="Yu et al., NeurIPS 2020",
        needs="G",
        cost="T³",
        holds="T = 2: conflicts with neither",
        others="LibMTL and nash-mtl also project a gradient on itself",
    ),
    Row(
        "online_pcgrad",
        paper="rslearn, after Yu et al., NeurIPS 2020",
        needs="G",
        cost="T²",
        holds='no conflict with the sum so far; `memory="stream"` holds two gradients',
        others="rslearn adds 1e-12 to `‖a‖²`",
    ),
    Row(
        "gradops",
        paper="Zhu et al., WSDM 2025",
        needs="G",
        cost="eigen, T³",
        holds="conflicts with no task",
        others="no code found",
    ),
    Row(
        "momentum",
        paper="Liu, Chu & Thuerey, ICLR 2025 (M-ConFIG)",
        needs="G of averages",
        memory="gradients",
        cost="its method's",
        holds="a momentum: with `fresh=1` one backward a step; its method's promises hold for the averages",
        others='conflictfree: `second="pseudo_adam"`, `before="wait"`, `fresh=1`; one operator shared by all instances',
    ),
    Row(
        "gradvac",
        paper="Wang et al., ICLR 2021",
        needs="G",
        memory="T×T",
        cost="T³",
        holds="T = 2: cosine raised to its target",
        others="others add 1e-8 to norms, which hides conflict of small gradients",
    ),
    Row(
        "mgda",
        paper="Désidéri 2012; Sener & Koltun, NeurIPS 2018; `min_weights`: PE-LTR, RecSys 2019",
        needs="G",
        cost="QP",
        holds="shortest vector of the hull, `g·d ≥ ‖d‖²`; with `min_weights` the shortest with `w ≥ c`",
        others="others iterate: 1–6% off; PE-LTR projects an unbounded answer: up to 8% longer",
    ),
    Row(
        "cagrad",
        paper="Liu et al., NeurIPS 2021",
        needs="G",
        cost="QPs",
        holds="`‖d - g₀‖ = c‖g₀‖`, zero duality gap",
        others="TorchJD answers 0 below a norm of 0.01; SciPy's solver is up to 3% off",
    ),
    Row(
        "conicgrad",
        paper="Hassanpour et al., 2025",
        needs="G",
        cost="QPs",
        holds="`‖d‖ = ‖g₀‖`, `cos(d, g₀) ≥ c`, best there for the worst task",
        others="no code found; the remembered closed form is no maximum",
    ),
    Row(
        "upgrad",
        paper="Quinton & Rey, 2024",
        needs="G",
        cost="T QPs",
        holds="conflicts with no task",
        others="TorchJD's ridge is relative to the largest task: small ones are run over",
    ),
    Row(
        "dualproj",
        paper="Lopez-Paz & Ranzato, NeurIPS 2017",
        needs="G",
        cost="QP",
        holds="conflicts with no task",
        others="as `upgrad`",
    ),
    Row(
        "nash_mtl",
        paper="Navon et al., ICML 2022",
        needs="G",
        cost="Newton, T³",
        holds="`w_i (Gw)_i = 1`; each gradient's length is irrelevant",
        others="others stop at a residual of 1.0 for small gradients, or answer equal weights without ECOS; "
        "LibMTL weighs heads too",
    ),
    Row(
        "fairgrad",
        paper="Ban & Ji, ICML 2024",
        needs="G",
        cost="Newton, T³",
        holds="`(Gw)_i = w_i^(-1/α)`",
        others="others: residual 0.6 for small gradients; LibMTL weighs heads too",
    ),
    Row(
        "imtl_g",
        paper="Liu et al., ICLR 2021",
        needs="G",
        cost="eigen, T³",
        holds="equal projections",
        others='all: may ascend for many tasks; `on_ascent="config"`. LibMTL\'s `IMTL` is `imtl`',
    ),
    Row(
        "imtl",
        paper="Liu et al., ICLR 2021",
        needs="G, losses",
        memory="learned",
        cost="eigen, T³",
        holds="`imtl_l` scales the losses, `imtl_g` weighs their gradients",
    ),
    Row(
        "config",
        paper="Liu, Chu & Thuerey, ICLR 2025",
        needs="G",
        cost="eigen, T³",
        holds="equal positive cosines",
        others="others hide NaN; conflictfree in float32 is wrong by up to 1.7 times the length",
    ),
    Row(
        "aligned_mtl",
        paper="Senushkin et al., CVPR 2023",
        needs="G",
        cost="eigen, T³",
        holds="condition number 1",
        others="TorchJD in float32 drops a task of 3e-4 of the largest; LibMTL sums, here it averages: "
        "`preference=[1] * T`",
    ),
    Row(
        "krum",
        paper="Blanchard et al., NeurIPS 2017",
        needs="G",
        cost="T² log T",
        holds="robust to `n_byzantine` tasks",
        others="TorchJD sums distances, the paper their squares",
    ),
    Row(
        "pcd",
        paper="PCD, TMLR 2026",
        needs="G",
        memory="T",
        cost="QP",
        holds="`‖d‖ = ‖g₁‖`, secondary tasks progress",
        others="TorchJD's tolerance is relative to the largest",
    ),
    Row(
        "adaptive_sharing",
        paper="this package",
        needs="G",
        memory="T×T",
        cost="T²",
        holds="all related: mean; unrelated: sum",
    ),
    Row(
        "gradnorm",
        paper="Chen et al., ICML 2018",
        needs="G, losses",
        memory="T",
        cost="T",
        holds="`Σw = T`",
        others="LibMTL learns logits",
    ),
    Row(
        "norm_balancing",
        paper="Wang et al., SIAM J. Sci. Comput. 2021; arXiv 2308.08468",
        needs="G (losses for `ntk`)",
        memory="T",
        cost="T",
        holds="settled: equal weighted norms",
        others="jaxpi: NaN for a zero gradient; Wang 2021, PhysicsNeMo: elements, not norms",
    ),
    Row(
        "metabalance",
        paper="He et al., WWW 2022",
        needs="G",
        memory="T",
        cost="T",
        holds='auxiliary norms towards the main one\'s; by tensor: `granularity="tensor"`',
        others="official: stops at the first parameter that a loss does not reach",
    ),
    Row(
        "dibs_mtl",
        paper="Murthy et al., 2025",
        needs="G",
        cost="T²",
        holds="does not see gradients' lengths; one step: `sum` of unit gradients",
        others="official: 1e-10 in norms, the learning rate twice",
    ),
    Row(
        "epo",
        paper="Mahapatra & Rajan, ICML 2020",
        needs="G, losses",
        cost="linear program",
        holds="`w` in the simplex; goes to equal `r_i L_i`, the worst task never loses",
        others="official: cvxpy and GLPK",
    ),
    Row(
        "pmgda",
        paper="Zhang, Lin & Zhang, 2024",
        needs="G, losses",
        cost="linear program",
        holds="the distance from the ray `L ∥ r` falls; on it MGDA",
        others="official: interior point, up to 2% off",
    ),
    Row(
        "ferero",
        paper="Chen et al., NeurIPS 2024",
        needs="G, losses",
        cost="eigen, T³",
        holds="minimiser of its problem",
        others="official: T = 2, fixed steps that diverge on a quarter of random problems",
    ),
    Row(
        "db_mtl",
        paper="Lin et al., 2023",
        needs="G, losses",
        memory="gradients",
        cost="T",
        holds="equal norms of log-loss gradients; heads descend on log-losses",
    ),
    Row(
        "moco",
        paper="Fernando et al., ICLR 2023",
        needs="gradients",
        memory="gradients",
        cost="T²",
        holds="`w` in the simplex",
        others="LibMTL: softmax, normalised gradients",
    ),
    Row(
        "excess_mtl",
        paper="He et al., ICML 2024",
        needs="gradients",
        memory="gradients",
        cost="T",
        holds="`w > 0`, `Σw = T`",
        others="TorchJD's first step leaves one task for ever; LibMTL weighs heads too",
    ),
    Row(
        "sdmgrad",
        paper="Xiao, Ban & Ji, NeurIPS 2023",
        needs="second batch",
        memory="T",
        cost="20 T²",
        holds="`w` in the simplex",
        others="TorchJD may answer all zeros",
    ),
    Row(
        "modo",
        paper="Chen et al., NeurIPS 2023",
        needs="second batch",
        memory="T",
        cost="T²",
        holds="`w` in the simplex",
        others="step sizes differ by 100×",
    ),
    Row(
        "auto_lambda",
        paper="Liu et al., TMLR 2022",
        needs="losses, validation",
        memory="T",
        cost="T",
        holds="exact derivative",
        others="others: finite differences",
    ),
    Row(
        "moml",
        paper="Ye et al., NeurIPS 2021",
        needs="losses, validation",
        memory="T",
        cost="QP",
        holds="exact for one inner step",
    ),
    Row(
        "forum",
        paper="Ye et al., ECAI 2024",
        needs="losses, validation",
        memory="T",
        cost="QP",
        holds="the dual as stated",
        others="others: a factor of 2",
    ),
    Row(
        "equal",
        needs="losses",
        cost="T",
        holds="`w = 1`, one backward",
    ),
    Row(
        "uncertainty",
        paper="Kendall, Gal & Cipolla, CVPR 2018",
        needs="losses",
        memory="learned",
        cost="T",
        holds="`w = e^(-s)/2`",
        others="LibMTL starts at s = -0.5",
    ),
    Row(
        "imtl_l",
        paper="Liu et al., ICLR 2021",
        needs="losses",
        memory="learned",
        cost="T",
        holds="fixed point: log-losses",
    ),
    Row(
        "dwa",
        paper="Liu, Johns & Davison, CVPR 2019",
        needs="losses",
        memory="T",
        cost="T",
        holds="`Σw = T`",
        others="nash-mtl: windows of 25 steps",
    ),
    Row(
        "relobralo",
        paper="Bischof & Kraus, 2021",
        needs="losses",
        memory="T",
        cost="T",
        holds="`Σw = T`",
        others="official: `L(0)` of the second step; constants hide small losses",
    ),
    Row(
        "softadapt",
        paper="Heydari et al., 2019",
        needs="losses",
        memory="T",
        cost="T",
        holds="`w ≥ 0`, `Σw = 1`",
        others="official: a signed sum turns the order round",
    ),
    Row(
        "go4align",
        paper="Shen et al., NeurIPS 2024",
        needs="losses",
        memory="T",
        cost="T²",
        holds="`w > 0`, at most `groups` values",
        others="official: two groups or more raise an error; its default is equal weights",
    ),
    Row(
        "ldc_mtl",
        paper="Xiao et al., 2025",
        needs="losses",
        memory="learned",
        cost="T",
        holds="`w > 0` for `lam < 1/(2T)`",
        others="official: three forms, two with a router",
    ),
    Row(
        "geometric",
        paper="Chennupati et al., CVPRW 2019",
        needs="losses",
        cost="T",
        holds="`Σ w L` = geometric mean",
        others="LibMTL's product over- and underflows",
    ),
    Row(
        "stch",
        paper="Lin et al., ICML 2024",
        needs="losses",
        cost="T",
        holds="`Σ w/λ = 1`",
    ),
    Row(
        "famo",
        paper="Liu et al., NeurIPS 2023",
        needs="losses, again after the step",
        memory="T",
        cost="T",
        holds="`w > 0`, `Σw = 1`",
    ),
    Row(
        "cosmos",
        paper="Ruchte & Grabocka, ICDM 2021",
        needs="losses",
        cost="T",
        holds="derivative of its scalarisation",
    ),
    Row(
        "pbi",
        paper="Zhang & Li, TEVC 2007",
        needs="losses",
        cost="T",
        holds="derivative of its scalarisation",
    ),
    Row(
        "cr_mogm",
        paper="Zhou et al., NeurIPS 2022",
        needs="as the method it smooths",
        memory="T",
        cost="as that method",
        holds="convex weights stay convex",
    ),
    Row(
        "graddrop",
        paper="Chen et al., NeurIPS 2020",
        needs="coordinates",
        cost="T·N",
        holds="keeps one sign a coordinate",
    ),
    Row(
        "trimmed_mean",
        paper="Yin et al., ICML 2018",
        needs="coordinates",
        cost="T·N",
        holds="within the tasks' values",
        others="`torch.median` is the lower middle",
    ),
    Row(
        "median",
        paper="Yin et al., ICML 2018",
        needs="coordinates",
        cost="T·N",
        holds="within the tasks' values",
        others="`torch.median` is the lower middle",
    ),
    Row(
        "sign_agreement",
        paper="Parascandolo et al., ICLR 2021",
        needs="coordinates",
        cost="T·N",
        holds="moves only where signs agree",
    ),
)
