"""The graph of a ModelProto as plain values, through onnx-graphsurgeon: the only door to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.errors import ModelError
from onnxprune.model.edits import captured
from onnxprune.model.graph import Graph, Node, TensorInfo
from onnxprune.model.mapped_weights import emptied
from onnxprune.model.nested import all_nodes, graphs_of


@contextlib.contextmanager
def _quiet_graphsurgeon() -> Iterator[Any]:
    """onnx-graphsurgeon, without its log lines."""
    import onnx_graphsurgeon as gs  # noqa: PLC0415 (heavy: only where it is used)
    from onnx_graphsurgeon.logger import G_LOGGER  # noqa: PLC0415

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield gs
    finally:
        G_LOGGER.severity = before


def read_graph(proto: ModelProto, tensors: Mapping[str, TensorProto]) -> Graph:
    """The graph of ``proto``, whose constants are ``tensors``."""
    with _quiet_graphsurgeon() as gs:
        try:
            parsed = gs.import_onnx(emptied(proto))
        except UnicodeDecodeError:
            raise ModelError(_not_text(proto), hint="export the model again") from None
    versions = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    nodes = tuple(
        Node(
            index=index,
            name=node.name,
            op=node.op,
            domain="" if node.domain in (None, "ai.onnx") else node.domain,
            version=versions.get(node.domain or "ai.onnx", 1),
            inputs=tuple(t.name for t in node.inputs),
            outputs=tuple(t.name for t in node.outputs),
            attrs=node.attrs,
            captured=captured(proto.graph.node[index]),
            has_graphs=bool(graphs_of(proto.graph.node[index])),
        )
        for index, node in enumerate(parsed.nodes)
    )
    constants = {n: (t.data_type, tuple(t.dims)) for n, t in tensors.items()}
    return Graph(
        nodes=nodes,
        inputs=tuple(_tensor_info(i) for i in proto.graph.input if i.name not in constants),
        outputs=tuple(_tensor_info(o) for o in proto.graph.output),
        constants=constants,
    )


def _tensor_info(info: ValueInfoProto) -> TensorInfo:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return TensorInfo(info.name, 0, None)
    dims = tuple(
        d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim
    )  # exporters write -1 or 0 for dynamic
    return TensorInfo(info.name, kind.elem_type, dims if kind.HasField("shape") else None)


def _not_text(proto: ModelProto) -> str:
    """Which text it is."""
    for node in all_nodes(proto.graph.node):
        for attribute in node.attribute:
            if not all(map(_is_text, (attribute.s, *attribute.strings))):
                return f"node '{node.name or node.op_type}': attribute '{attribute.name}' is no UTF-8"
    return "a text in it is no UTF-8"


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
