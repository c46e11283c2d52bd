"""Sparse initializers: read as the dense arrays that they stand for, and written as sparse again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import SparseTensorProto, TensorProto
from onnx import numpy_helper as nph

from onnxprune.model.dtypes import to_tensor


def dense(tensor: SparseTensorProto) -> TensorProto:
    """The dense tensor, under the name that the graph reads it by."""
    values, at = nph.to_array(tensor.values), nph.to_array(tensor.indices)
    array = np.zeros(tuple(tensor.dims), values.dtype)
    if at.ndim > 1:
        array[tuple(at.T)] = values
    else:
        array.reshape(-1)[at] = values
    return to_tensor(array, tensor.values.name, tensor.values.data_type)


def sparse(array: NDArray[Any], like: SparseTensorProto) -> SparseTensorProto:
    """``array`` as a sparse tensor, with the name, data type and form of indices of ``like``."""
    at = np.flatnonzero(array)
    out = SparseTensorProto(dims=array.shape)
    out.values.CopyFrom(to_tensor(array.reshape(-1)[at], like.values.name, like.values.data_type))
    if like.values.doc_string:
        out.values.doc_string = like.values.doc_string
    positions = np.argwhere(array) if len(like.indices.dims) > 1 else at
    out.indices.CopyFrom(nph.from_array(positions.astype(np.int64), like.indices.name))
    return out
