"""Invariants: what a stage promises and later stages must keep.

A pruner promises its zeros and their pattern, clustering its codebook, quantization-aware training
its grid. ``project_`` restores the promise after an optimizer step, ``check`` tells how far a module
keeps it, and ``check_tensors`` asks the same of an exported file.
"""

from .base import Invariant, Kept, StoredTensor
from .blocks import BlockSparsity, Pattern
from .folder import load_invariants, save_invariants
from .sparsity import SparsityMask

__all__ = [
    "BlockSparsity",
    "Invariant",
    "Kept",
    "Pattern",
    "SparsityMask",
    "StoredTensor",
    "load_invariants",
    "save_invariants",
]
