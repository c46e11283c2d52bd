"""What judges a model: a function of the user's, or one that is ready, as a value that measures models.

A function takes an onnxruntime session, or, where its argument is annotated ``str`` or ``Path``, the path of the model.
It returns a number; or one for each sample; or parts of each sample [N, ...] and a function that makes one number of
any of them. It is code, found as `onnxprune.plugins` finds all code of users.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import numpy as np

from onnxprune.errors import MetricError, OnnxPruneError
from onnxprune.file_system import scratch
from onnxprune.model import files
from onnxprune.model.onnx_model import Model
from onnxprune.plugins import RAISED, user_function
from onnxprune.running import session as runtime
from onnxprune.search.drop import Measurement
from onnxprune.widths.metric_options import MetricSource, name_of

_GIVES = "it returns a number, one a sample, or (parts, combine)"


class Metric(Protocol):
    """Something that judges models."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def lower(self) -> bool:
        """Whether less is better."""

    def measure(self, model: Model) -> Measurement:
        """Raises MetricError."""


@dataclass(frozen=True)
class UserMetric:
    """A function of the user's; ``option``: where it was named."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    option: str
    lower: bool = False

    def measure(self, model: Model) -> Measurement:
        """Call it on ``model``. Raises MetricError where it raises, or gives no number."""
        where = f"{self.option} {self.name}"
        try:
            found = self._called(model)
        except OnnxPruneError:
            raise
        except RAISED as error:
            raise MetricError(f"raises {type(error).__name__}: {error}", where=where) from None
        return measurement(found, where)

    def _called(self, model: Model) -> Any:
        takes = first_hint(self.function)
        if takes in (str, Path):
            with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as folder:
                path = Path(folder, "model.onnx")
                files.write({path: model})
                return self.function(takes(path))
        with runtime.session(model, str(model.path or "model"), optimize=True) as active:
            return self.function(active)


def user_metric(source: MetricSource, option: str, *, lower: bool) -> UserMetric:
    """By its name, or as it is. Raises OptionError where it cannot be loaded."""
    function = user_function(source, option) if isinstance(source, str) else source
    return UserMetric(name_of(source), function, option, lower)


def first_hint(function: Callable[..., Any]) -> Any:
    """The annotation of a function's first argument; None where there is none."""
    try:
        names = list(inspect.signature(function).parameters)
        hints = get_type_hints(function if inspect.isfunction(function) else function.__call__)  # type: ignore[operator]
    except (TypeError, ValueError, NameError):
        return None
    return hints.get(names[0]) if names else None


def measurement(found: Any, where: str) -> Measurement:
    """What a metric gave, as a value. Raises MetricError where it is none."""
    combine = None
    if isinstance(found, tuple) and len(found) == 2 and callable(found[1]):
        found, combine = found
    try:
        array = np.asarray(found)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or not array.size:
        kind = f"an array of {array.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        raise MetricError(f"gives {kind}, not a number", where=where, hint=_GIVES)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise MetricError("gives NaN", where=where, hint=_GIVES)
    if combine is None and array.ndim > 1:
        raise MetricError(f"gives an array of shape {list(array.shape)}", where=where, hint=_GIVES)
    if not array.ndim:
        return Measurement(float(array))
    value = float(array.mean()) if combine is None else _combined(combine, array, where)
    return Measurement(value, array, combine)


def alike(found: Measurement, original: Measurement, where: str) -> Measurement:
    """``found``, which is of as many samples as ``original``. Raises MetricError where it is not."""
    counts = [m.samples for m in (found, original)]
    if counts[0] != counts[1]:
        told = " samples, and ".join("no" if c is None else str(c) for c in counts)
        raise MetricError(f"gives {told} of the original", where=where, hint="the same ones of every model")
    return found


def _combined(combine: Callable[[Any], Any], parts: Any, where: str) -> float:
    try:
        value = float(combine(parts))
    except RAISED as error:
        raise MetricError(f"its combine raises {type(error).__name__}: {error}", where=where) from None
    if np.isnan(value):
        raise MetricError("gives NaN", where=where, hint=_GIVES)
    return value
