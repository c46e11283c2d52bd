"""Weights with zeros as sparse initializers, which hold the other values and their positions.

onnxruntime makes them dense again when it loads them. An index takes 8 bytes, so a file only gets smaller from two
thirds of zeros on; a weight that would not get smaller is left as it is.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, SparseTensorProto
from onnx import numpy_helper as nph

from onnxprune.formats.read_back import check_same, read_back
from onnxprune.model.dtypes import to_tensor
from onnxprune.model.onnx_model import Model

#: Bytes of an index.
_INDEX = 8

#: The IR version that brought them.
_IR = 5


def write(model: Model) -> Model:
    """``model`` with every weight sparse that takes fewer bytes that way."""
    out = ModelProto()
    out.CopyFrom(model.proto)
    out.ir_version = max(out.ir_version, _IR)
    graph = out.graph
    dense = []
    for tensor in model.proto.graph.initializer:
        array = model.array(tensor.name)
        at = np.flatnonzero(array)
        if (
            array.dtype.kind != "f"
            or not array.ndim
            or tensor.name in model.defaults
            or len(at) * (array.itemsize + _INDEX) >= array.nbytes
        ):
            dense.append(tensor)
            continue
        sparse = SparseTensorProto(dims=array.shape)
        sparse.values.CopyFrom(to_tensor(array.reshape(-1)[at], tensor.name, tensor.data_type))
        sparse.indices.CopyFrom(nph.from_array(at.astype(np.int64), f"{tensor.name}__indices"))
        graph.sparse_initializer.append(sparse)
    gone = {s.values.name for s in graph.sparse_initializer}
    del graph.initializer[:]
    graph.initializer.extend(dense)
    return Model(out, None, {n: w for n, w in model.weights.items() if n not in gone})


def verify(model: Model, written: Model) -> None:
    """Read ``written`` back and check that it has the constants of ``model``, bit for bit. Raises CheckError."""
    again = read_back(written)
    for name in model.graph.constants:
        check_same(name, again.array(name), model.array(name))
