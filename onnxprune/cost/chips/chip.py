"""Target files: what is known of a chip, for each data type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError, nearest
from onnxprune.file_system.toml_file import read_toml
from onnxprune.labels import ops
from onnxprune.model.graph import Node

_FOLDER = Path(__file__).parent
_ITEM_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}

#: What TOML gives for the annotations of fields.
_TYPES: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}

#: No number of a chip comes near.
_LARGEST = 1 << 40


@dataclass(frozen=True)
class Precision:
    """How a chip computes in one data type. The keys of a ``[int8]``, ``[fp16]`` or ``[fp32]`` table of a target file.

    Blocks are channels. Only ``out_block`` and ``in_block`` have to be given: the rest defaults to no further cost.
    """

    out_block: int  #: output channels computed at once: fewer cost as much
    in_block: int  #: input channels multiplied at once
    item_bytes: int = 0  #: by the data type
    pixel_block: int = 1  #: output positions are rounded up to it
    depthwise_block: int = 0  #: channels that a depthwise convolution computes at once; 0: like any other
    least_blocks: int = 1  #: the least number of taps * input blocks that a convolution is charged
    store_block: int = 1  #: channels of an activation in memory are rounded up to it
    join_block: int = 1  #: parts of a Concat and Split should be multiples of it, or they are copied
    split_block: int = 1  #: a convolution behind a Concat is split if a part but the last is no multiple of it
    output_block: int = 1  #: channels of a graph output in memory are rounded up to it
    plain_inputs: tuple[int, ...] = ()  #: a graph input of so many channels is read as it is, not in blocks
    plain_weights: int = 0  #: input channels of weights that read such an input, rounded up to it; 0: like any other
    bias_bytes: int = 0  #: per output channel, rounded up to ``out_block``
    depthwise_bias_bytes: int = 0  #: the same of a depthwise convolution; 0: as ``bias_bytes``
    depthwise_bytes: int = 0  #: depthwise weights are stored in blocks of so many bytes; 0: ``depthwise_block``
    depthwise_store: str = ""  #: 'halves': a block that is more than half full is stored whole; 'blocks': each is
    pool_side: int = (
        0  #: pooling into one position is a depthwise convolution of at most this side, and another; 0: free
    )
    fused_through: tuple[str, ...] = ()  #: operators between a convolution and an Add that is fused into it
    tile_bytes: int = 0  #: the largest taps * input channels * bytes that is computed in one go; 0: no limit
    tile_block: int = 1  #: input channels that are computed in one go are a multiple of it
    always_bias: bool = False  #: also a convolution without a bias has one, and each row of one that is split
    even_weights: bool = False  #: weights of up to ``out_block`` channels are stored for an even number of them
    cycles_per_byte: float = 0.0  #: what moving a byte from or to memory costs; 0: not known

    @property
    def align(self) -> int:
        """What a width should be a multiple of: it is the output of one convolution and the input of others."""
        return math.lcm(self.out_block, self.in_block, self.store_block)


@dataclass(frozen=True)
class Chip:
    """A target file. ``measured``: the tool that measured its numbers; empty where they come from documents."""

    name: str
    title: str
    source: str
    precisions: Mapping[str, Precision] = field(repr=False)
    measured: str = ""
    clock_mhz: float = 0.0  #: of the unit that computes; 0: not known
    #: what the compiler places on the CPU: {op = "Resize", ...}, any other key being an attribute and its value
    elsewhere: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def is_elsewhere(self, node: Node) -> bool:
        """Whether the target's compiler places ``node`` on the CPU."""
        return any(ops.is_one_of(node, [e["op"]], {k: v for k, v in e.items() if k != "op"}) for e in self.elsewhere)

    def precision(self, dtype: str | None) -> tuple[str, Precision]:
        """The precision called ``dtype``, or the first one. Raises OptionError."""
        name = dtype or next(iter(self.precisions))
        if name not in self.precisions:
            raise OptionError(
                f"{self.name} has no {name}", where="--dtype", hint=f"it has {', '.join(self.precisions)}"
            )
        return name, self.precisions[name]


@cache
def shipped() -> tuple[Chip, ...]:
    """The targets that come with onnxprune, by name."""
    return tuple(load(path) for path in sorted(_FOLDER.glob("*.toml")))


def find(name: str) -> Chip:
    """A shipped target by name, or one from a TOML file by its path. Raises OptionError."""
    found = next((chip for chip in shipped() if chip.name == name), None)
    if found is not None:
        return found
    if name.endswith(".toml"):
        return load(Path(name))
    names = [chip.name for chip in shipped()]
    hint = nearest(name, names, f"{', '.join(names)}, or the path of a .toml")
    raise OptionError(f"there is no target '{name}'", where="--target", hint=hint)


def load(path: Path) -> Chip:
    """Read a target file. Raises OptionError where it is missing or has keys that targets do not have."""
    given = read_toml(path, "the target")
    tables = {n: given.pop(n) for n in list(given) if n in _ITEM_BYTES and isinstance(given[n], dict)}
    if not tables:
        raise OptionError("has no table of a data type", where=str(path), hint=f"one of {', '.join(_ITEM_BYTES)}")
    precisions = {n: Precision(**_fitting(Precision, t, f"{path}, [{n}]")) for n, t in tables.items()}
    sized = {n: _with_bytes(n, p) for n, p in precisions.items()}
    return Chip(**_fitting(Chip, {**given, "precisions": sized}, str(path)))


def text(chip: Chip) -> str:
    """The target file that `load` reads back as ``chip``; keys at their default are left out."""
    lines = [f"{n} = {_value(getattr(chip, n))}" for n in ("name", "title", "measured", "source")]
    if chip.clock_mhz:
        lines.append(f"clock_mhz = {_value(chip.clock_mhz)}")
    for name, precision in chip.precisions.items():
        lines += ["", f"[{name}]"]
        for f in fields(precision):
            value = getattr(precision, f.name)
            if value != f.default and f.name != "item_bytes":
                lines.append(f"{f.name} = {_value(value)}")
    for entry in chip.elsewhere:
        lines += ["", "[[elsewhere]]", *(f"{key} = {_value(value)}" for key, value in entry.items())]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    """A TOML value: JSON's notation of text, numbers, booleans and lists is TOML's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _with_bytes(name: str, precision: Precision) -> Precision:
    values = {f.name: getattr(precision, f.name) for f in fields(precision)}
    return Precision(**{**values, "item_bytes": precision.item_bytes or _ITEM_BYTES[name]})


def _fits(key: Field[Any], value: object) -> bool:
    """Whether ``value`` is of the type of a key, and a number that can be counted with."""
    if key.name == "elsewhere":
        return isinstance(value, list) and all(isinstance(e, dict) for e in value)
    if key.name == "precisions":
        return isinstance(value, dict)
    items = value if isinstance(value, list) else [value]
    item = {"tuple[int, ...]": int, "tuple[str, ...]": str}.get(str(key.type))
    if item is not None and not (isinstance(value, list) and all(type(i) is item for i in items)):
        return False
    plain = isinstance(value, _TYPES.get(str(key.type), list)) and isinstance(value, bool) == (key.type == "bool")
    if item is None and not plain:
        return False
    least = 1 if key.name in ("in_block", "out_block") or key.default == 1 else 0
    return all(least <= i < _LARGEST for i in items if isinstance(i, (int, float)) and not isinstance(i, bool))


def _fitting(kind: type, given: dict[str, Any], where: str) -> dict[str, Any]:
    """``given``, if it has the keys of ``kind`` and values of their types."""
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(given) - set(known)):
        raise OptionError(f"unknown key '{unknown[0]}'", where=where, hint=nearest(unknown[0], known))
    needed = [n for n, f in known.items() if f.default is MISSING and n not in given]
    if needed:
        raise OptionError(f"'{needed[0]}' is missing", where=where)
    for name, value in given.items():
        if not _fits(known[name], value):
            raise OptionError(f"'{name}' cannot be {value!r:.60}", where=where)
    if not all(isinstance(e.get("op"), str) for e in given.get("elsewhere", ())):
        raise OptionError("an entry of 'elsewhere' names no 'op'", where=where)
    return {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
