"""Structured channel pruning of exported ONNX models, proven exact, without PyTorch.

>>> import onnxprune
>>> result = onnxprune.prune("model.onnx", ratio=0.3, align=16)
>>> result.save("small.onnx")

Every public name is imported on first use, so that importing the package itself takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.api import Result as Result
    from onnxprune.api import apply as apply
    from onnxprune.api import diff as diff
    from onnxprune.api import inspect as inspect
    from onnxprune.api import prune as prune
    from onnxprune.api import sensitivity as sensitivity
    from onnxprune.api import sparsity as sparsity
    from onnxprune.calibration.data_options import Data as Data
    from onnxprune.errors import CheckError as CheckError
    from onnxprune.errors import DataError as DataError
    from onnxprune.errors import MetricError as MetricError
    from onnxprune.errors import ModelError as ModelError
    from onnxprune.errors import OnnxPruneError as OnnxPruneError
    from onnxprune.errors import OptionError as OptionError
    from onnxprune.errors import OutputError as OutputError
    from onnxprune.errors import PlanError as PlanError
    from onnxprune.errors import ToolError as ToolError
    from onnxprune.plans.plan_file import Plan as Plan
    from onnxprune.report.diff import Comparison as Comparison
    from onnxprune.report.inspection import Inspection as Inspection
    from onnxprune.report.run_report import Report as Report

    __version__: str

_ERRORS = "CheckError DataError MetricError ModelError OnnxPruneError OptionError OutputError PlanError ToolError"
_HOMES = {
    **dict.fromkeys(("Result", "apply", "diff", "inspect", "prune", "sensitivity", "sparsity"), "api"),
    "Data": "calibration.data_options",
    "Comparison": "report.diff",
    **dict.fromkeys(_ERRORS.split(), "errors"),
    "Plan": "plans.plan_file",
    "Inspection": "report.inspection",
    "Report": "report.run_report",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 (names)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 (30 ms)

        return metadata.version("onnxprune")
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
    return getattr(import_module(f"onnxprune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
