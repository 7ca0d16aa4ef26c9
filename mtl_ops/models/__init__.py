"""Models in which several tasks share parameters, and encoders for them."""

from .base import MultiTaskModel
from .cross_stitch import CrossStitch
from .digits import DigitsCNN
from .distances import DistanceNet
from .dselect_k import DSelectK
from .experts import CGC, PLE, MMoE
from .gcn import GCN, GraphBatch, normalised_adjacency
from .learning_to_branch import LearningToBranch
from .mtan import MTAN
from .pruning import Pruned, prune_shared
from .sequences import RNN, Sequences, Transformer
from .shared_backbone import SharedBackbone
from .shared_bottom import SharedBottom
from .stages import cnn, resnet18
from .tabular import Embedded, RecordEmbedding

__all__ = [
    "CGC",
    "GCN",
    "MTAN",
    "PLE",
    "RNN",
    "CrossStitch",
    "DSelectK",
    "DigitsCNN",
    "DistanceNet",
    "Embedded",
    "GraphBatch",
    "LearningToBranch",
    "MMoE",
    "MultiTaskModel",
    "Pruned",
    "RecordEmbedding",
    "Sequences",
    "SharedBackbone",
    "SharedBottom",
    "Transformer",
    "cnn",
    "normalised_adjacency",
    "prune_shared",
    "resnet18",
]
