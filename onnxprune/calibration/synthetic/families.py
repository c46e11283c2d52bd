"""What an input is, told by its type, its shape, its name and who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxprune.calibration.model_inputs import Slot
from onnxprune.model.graph import Shape

Family = Literal["picture", "volume", "features", "points", "sequence", "vector", "number", "ids", "mask", "count"]

#: Channels of a picture, and how short a side of one may be.
_CHANNELS, _LEAST_SIDE = (1, 3, 4), 5

#: From here on a vector is a sound.
_SOUND = 1024


@dataclass(frozen=True)
class Kind:
    """The family of one input. ``core``: the axes of a sample without those in front that hold 1.

    ``last``: channels are the last axis, not the first of ``core``; ``table``: how many rows ids choose from.
    """

    family: Family
    core: Shape = field(default=())
    last: bool = False
    table: int = 0


def kind_of(slot: Slot, rows: Mapping[str, int]) -> Kind | None:
    """What ``slot`` is; None for types that nothing is drawn for. ``rows``: how many ids there are, by input."""
    dtype = slot.dtype
    core = slot.shape
    while len(core) > 3 and core[0] == 1:
        core = core[1:]
    if dtype.kind == "b" or (dtype.kind in "iuf" and "mask" in slot.name.lower() and len(core) <= 2):
        return Kind("mask", core)
    if dtype.kind in "iu":
        if dtype.itemsize == 1 and len(core) == 3:
            return _spatial(core, slot.pixels.layout)
        return Kind("ids", core, table=rows[slot.name]) if slot.name in rows else Kind("count", core)
    return _of_floats(core, slot.pixels.layout) if dtype.kind == "f" else None


def _of_floats(core: Shape, layout: str | None) -> Kind:
    if len(core) >= 4:
        return Kind("volume", core)
    if len(core) == 3:
        return _spatial(core, layout)
    if len(core) == 2:
        short, long = sorted(core)
        if short in (2, 3) and long >= 8 * short:
            return Kind("points", core, last=core[1] == short)
        return Kind("sequence", core, last=core[0] >= core[1])
    if len(core) == 1 and core[0] >= _SOUND:
        return Kind("sequence", core, last=True)
    return Kind("vector" if core and core != (1,) else "number", core)


def _spatial(core: Shape, layout: str | None) -> Kind:
    """A picture, where there are as many channels as one has, or a map of features."""
    first, last = core[0] in _CHANNELS, core[2] in _CHANNELS
    channels_last = layout == "NHWC" if layout is not None else last and not first
    sides = core[:2] if channels_last else core[1:]
    if (last if channels_last else first) and min(sides) >= _LEAST_SIDE:
        return Kind("picture", core, channels_last)
    return Kind("features", core, channels_last)
