"""A model from what a caller has of it: a path, the bytes of a file, or a ModelProto; and back to a ModelProto."""

from __future__ import annotations

import os
from typing import TypeAlias

from onnx import ModelProto

from onnxprune.errors import ModelError, OutputError
from onnxprune.model import files, onnx_model
from onnxprune.model.onnx_model import PROTO_LIMIT, Model

#: What functions that take a model take. Bytes and a ModelProto hold their weights; a path may have external data.
Source: TypeAlias = str | os.PathLike[str] | bytes | ModelProto


def opened(source: Source) -> Model:
    """The model. Raises ModelError for one that cannot be read or is not valid."""
    if isinstance(source, ModelProto):
        return onnx_model.from_proto(source)
    if not isinstance(source, bytes):
        return files.load(source)
    proto = ModelProto()
    try:
        proto.ParseFromString(source)
    except Exception:  # noqa: BLE001 (protobuf's DecodeError has no public home in all versions)
        raise ModelError("not an ONNX model, or truncated", where="bytes", hint="give all of a file's bytes") from None
    return onnx_model.from_proto(proto)


def to_proto(model: Model) -> ModelProto:
    """The model with all its weights as one message. Raises OutputError over protobuf's 2 GB."""
    if model.byte_size >= PROTO_LIMIT:
        raise OutputError("is over protobuf's 2 GB for one message", where="model", hint="save() it to a file")
    proto = ModelProto()
    proto.ParseFromString(b"".join(model.pieces()))
    return proto
