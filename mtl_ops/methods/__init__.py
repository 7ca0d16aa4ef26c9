"""Methods that merge the gradients of several tasks.

Every method is a class with keyword-only parameters and a name; :func:`available` lists the names
and :func:`get` makes one. :func:`register` adds your own.
"""

from ._base import CoordinateMethod, LossMethod, Method, NativeMethod
from ._learnable import LearnableMethod
from ._registry import available, get, register, resolve, unregister
from ._tracking import TrackingMethod
from .adaptive_sharing import AdaptiveSharing
from .aligned_mtl import AlignedMTL
from .auto_lambda import AutoLambda
from .cagrad import CAGrad
from .config import ConFIG
from .conicgrad import ConicGrad
from .constant import Constant
from .cosmos import COSMOS
from .cr_mogm import CRMOGM
from .db_mtl import DBMTL
from .dibs_mtl import DiBSMTL
from .dualproj import DualProj
from .dwa import DWA
from .epo import EPO
from .equal import Equal
from .excess_mtl import ExcessMTL
from .fairgrad import FairGrad
from .famo import FAMO
from .ferero import FERERO
from .forum import FORUM
from .geometric import Geometric
from .go4align import GO4Align
from .graddrop import GradDrop
from .gradnorm import GradNorm
from .gradops import GradOPS
from .gradvac import GradVac
from .imtl import IMTL
from .imtl_g import IMTLG
from .imtl_l import IMTLL
from .krum import Krum
from .ldc_mtl import LDCMTL
from .linear import Mean, Sum
from .median import Median
from .metabalance import MetaBalance
from .mgda import MGDA
from .moco import MoCo
from .modo import MoDo
from .momentum import Momentum
from .moml import MOML
from .nash_mtl import NashMTL
from .norm_balancing import NormBalancing
from .online_pcgrad import OnlinePCGrad
from .pbi import PBI
from .pcd import PCD
from .pcgrad import PCGrad
from .pmgda import PMGDA
from .random import Random
from .relobralo import ReLoBRaLo
from .sdmgrad import SDMGrad
from .sign_agreement import SignAgreement
from .softadapt import SoftAdapt
from .stch import STCH
from .trimmed_mean import TrimmedMean
from .uncertainty import Uncertainty
from .upgrad import UPGrad

__all__ = [
    "COSMOS",
    "CRMOGM",
    "DBMTL",
    "DWA",
    "EPO",
    "FAMO",
    "FERERO",
    "FORUM",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "LDCMTL",
    "MGDA",
    "MOML",
    "PBI",
    "PCD",
    "PMGDA",
    "STCH",
    "AdaptiveSharing",
    "AlignedMTL",
    "AutoLambda",
    "CAGrad",
    "ConFIG",
    "ConicGrad",
    "Constant",
    "CoordinateMethod",
    "DiBSMTL",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "FairGrad",
    "GO4Align",
    "Geometric",
    "GradDrop",
    "GradNorm",
    "GradOPS",
    "GradVac",
    "Krum",
    "LearnableMethod",
    "LossMethod",
    "Mean",
    "Median",
    "MetaBalance",
    "Method",
    "MoCo",
    "MoDo",
    "Momentum",
    "NashMTL",
    "NativeMethod",
    "NormBalancing",
    "OnlinePCGrad",
    "PCGrad",
    "Random",
    "ReLoBRaLo",
    "SDMGrad",
    "SignAgreement",
    "SoftAdapt",
    "Sum",
    "TrackingMethod",
    "TrimmedMean",
    "UPGrad",
    "Uncertainty",
    "available",
    "get",
    "register",
    "resolve",
    "unregister",
]
