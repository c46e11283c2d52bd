"""Proof that solving weights changed only numbers: apart from these, the written model is the one that was proven."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.errors import CheckError
from onnxprune.model.edits import copy_fields
from onnxprune.model.mapped_weights import raw
from onnxprune.model.onnx_model import Model


@dataclass(frozen=True)
class Revalued:
    """``changed``: how many constants, of ``of``, have other numbers; ``added``: how many biases are new.

    ``parameters``: how many more numbers that makes. Everything else is bit for bit as it was proven.
    """

    changed: int
    added: int
    of: int
    parameters: int


def prove_revalued(proven: Model, solved: Model) -> Revalued:
    """Compare a model with the one that it was made from by changing constants and adding biases.

    Constants must keep names, shapes and types, nodes all but an added bias, and the file everything else; but a bias
    that is one number for all outputs may make way for one that is added. Raises CheckError that names what else
    differs.
    """
    before, after = proven.constant_protos, solved.constant_protos
    given_way = {n for n, tensor in before.items() if n not in after and math.prod(tensor.dims) == 1}
    gone = next((n for n in before if n not in after and n not in given_way), None)
    if gone is not None:
        raise _changed(f"initializer '{gone}'")
    changed = 0
    for name, tensor in before.items():
        if name in given_way:
            continue
        if (tensor.data_type, *tensor.dims) != (after[name].data_type, *after[name].dims):
            raise _changed(f"the shape or type of initializer '{name}'")
        changed += not _same(name, proven, solved)
    _compare_nodes(proven, solved, given_way)
    if _rest(proven.proto) != _rest(solved.proto):
        raise _changed("something of the file beside nodes and initializers")
    new = [math.prod(tensor.dims) for name, tensor in after.items() if name not in before]
    return Revalued(changed, len(new), len(before), sum(new) - len(given_way))


def _same(name: str, proven: Model, solved: Model) -> bool:
    """Whether constant ``name`` has the same bytes; of one that no edit replaced nothing is read."""
    if name not in proven.weights and name not in solved.weights:
        return _bytes(proven.constant_protos[name]) == _bytes(solved.constant_protos[name])
    if proven.weights.get(name) is solved.weights.get(name):
        return True
    before, after = (np.asarray(raw(m.array(name))) for m in (proven, solved))
    return np.array_equal(before, after)


def _bytes(tensor: TensorProto) -> bytes:
    return bytes(tensor.SerializeToString(deterministic=True))


def _compare_nodes(proven: Model, solved: Model, given_way: set[str]) -> None:
    """Raise CheckError for a node that is not what it was but for a bias: it had none, or one of ``given_way``."""
    old, new = ([n for n in m.proto.graph.node if not _holds(m, n)] for m in (proven, solved))
    if len(old) != len(new):
        raise _changed("the number of nodes")
    biases = solved.constant_protos.keys() - proven.constant_protos.keys()
    for before, after in zip(old, new, strict=True):
        if before == after:
            continue
        without = NodeProto()
        without.CopyFrom(after)
        del without.input[:]
        kept = [before.input[i] if i < len(before.input) else "" for i in range(len(after.input))]
        filled = (n in biases and (not k or k in given_way) for k, n in zip(kept, after.input, strict=True))
        without.input.extend(k if new else n for new, k, n in zip(filled, kept, after.input, strict=True))
        while len(without.input) > len(before.input) and not without.input[-1]:
            del without.input[-1]
        if without != before:
            raise _changed(f"node '{before.name or before.output[0]}'")


def _holds(model: Model, node: NodeProto) -> bool:
    """Whether it is a Constant node, which is compared as what it holds."""
    return node.op_type == "Constant" and len(node.output) == 1 and node.output[0] in model.constant_protos


def _rest(proto: ModelProto) -> ModelProto:
    rest = ModelProto()
    copy_fields(proto, rest, {"graph"})
    copy_fields(proto.graph, rest.graph, {"initializer", "sparse_initializer", "node"})
    return rest


def _changed(what: str) -> CheckError:
    return CheckError(
        f"solving weights anew changed {what}", where="the pruned model", hint="please report this as a bug"
    )
