"""The real RKNN compiler: convert a model, simulate it, and read what each layer is charged.

The cycles are the compiler's own estimate, not a measurement on a board.
"""

from onnxprune.cost.rknn.calibrate import measured
from onnxprune.cost.rknn.convert import Conversion, Request, convert
from onnxprune.cost.rknn.log import Layer, parse
from onnxprune.cost.rknn.toolkit import Built, Job, build, version

__all__ = ["Built", "Conversion", "Job", "Layer", "Request", "build", "convert", "measured", "parse", "version"]
