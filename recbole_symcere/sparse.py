"""Sparse matrices of PyTorch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

# PyTorch says once in a process, at the first CSR matrix, that these are in beta, which no user can act on.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    torch.sparse_csr_tensor([0], [], [], (0, 0), check_invariants=False)


def csr(crow: Tensor, column: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Makes a sparse CSR matrix without checking its parts."""
    return torch.sparse_csr_tensor(crow, column, values, size, check_invariants=False)


def dense(matrix: Tensor) -> Tensor:
    """Returns a matrix, which may be sparse, as a dense one."""
    return matrix.to_dense() if matrix.is_sparse else matrix
