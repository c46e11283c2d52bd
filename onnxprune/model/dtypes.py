"""Element types: between numpy arrays and TensorProto, for all that onnx can hold.

numpy has no bfloat16. onnx gives it as ml_dtypes' from 1.19 on and as float32 before, and so writes it back as float32.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx import numpy_helper as nph

#: Element types of floats that numpy has, and all that networks compute in.
NUMPY_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
FLOATS = NUMPY_FLOATS | {TensorProto.BFLOAT16}

#: Element types that take two bytes and that numpy may hold in more.
_TWO_BYTES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def dtype_of(elem_type: int) -> np.dtype[Any]:
    """The numpy type that arrays of ``elem_type`` (TensorProto.DataType) have."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))


def item_bytes(elem_type: int) -> int:
    """Bytes of one element in a file; 1 for those that are packed into less."""
    return 2 if elem_type in _TWO_BYTES else dtype_of(elem_type).itemsize


def to_tensor(array: NDArray[Any], name: str, elem_type: int) -> TensorProto:
    """``array`` as a tensor of ``elem_type``, rounded to nearest even where that is narrower."""
    tensor = nph.from_array(np.asarray(array, order="C"), name)
    if tensor.data_type == elem_type:
        return tensor
    if elem_type != TensorProto.BFLOAT16:
        return helper.make_tensor(name, elem_type, array.shape, np.asarray(array).reshape(-1))
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    half = np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2")
    return TensorProto(name=name, data_type=elem_type, dims=array.shape, raw_data=half.tobytes())


def _bits(name: str) -> int:
    digits = re.search(r"\d+", name)
    named = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}
    bits = named.get(name) or int(digits[0] if digits else 0)
    return bits if bits >= 8 or bits in (1, 2, 4) else 0


#: Bits that an element takes in raw_data, by element type; 0 for text, and where elements are not a part of a byte.
BITS = {number: _bits(name) for name, number in TensorProto.DataType.items() if name != "UNDEFINED"}
