"""The nodes that are known products, and those between a parameter and a product."""

from __future__ import annotations

from collections.abc import Callable

from torch.autograd.graph import Node

from .convolutions import read_convolution, size_of_convolution
from .lookups import read_bag, read_lookup, size_of_bag, size_of_lookup
from .products import MATRIX_PRODUCTS, Product, Size, Use, read_matrix, size_of_matrix

__all__ = ["PRODUCTS", "VIEWS"]

#: By name: what tells the size of a use, and what reads it.
PRODUCTS: dict[str, tuple[Callable[[Node, Use], Size], Callable[[Node, Use], Product]]] = {
    **dict.fromkeys(MATRIX_PRODUCTS, (size_of_matrix, read_matrix)),
    "ConvolutionBackward0": (size_of_convolution, read_convolution),
    "EmbeddingBackward0": (size_of_lookup, read_lookup),
    "EmbeddingBagBackward0": (size_of_bag, read_bag),
}

#: Those that only name the elements anew, or convert them.
VIEWS = frozenset(
    {
        "AliasBackward0",
        "CloneBackward0",
        "PermuteBackward0",
        "ReshapeAliasBackward0",
        "TBackward0",
        "ToCopyBackward0",
        "TransposeBackward0",
        "UnsafeViewBackward0",
        "UnsqueezeBackward0",
        "ViewBackward0",
    }
)
