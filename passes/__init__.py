"""Graph passes: model in, model out."""

from onnxprune.passes.base import Pass, PassResult, run
from onnxprune.passes.choose_outputs import CutToOutputs, JoinRows, KeepRows, cut_to
from onnxprune.passes.compensate import Compensate
from onnxprune.passes.distill import Distill
from onnxprune.passes.folding.batchnorm import FuseBatchNorm
from onnxprune.passes.folding.computed_parameters import FoldComputedParameters
from onnxprune.passes.remove_branches import RemoveBranches
from onnxprune.passes.remove_channels import RemoveChannels
from onnxprune.passes.restore_written_out import RestoreBranches, RestoreCalls

__all__ = [
    "Compensate",
    "CutToOutputs",
    "Distill",
    "FoldComputedParameters",
    "FuseBatchNorm",
    "JoinRows",
    "KeepRows",
    "Pass",
    "PassResult",
    "RemoveBranches",
    "RemoveChannels",
    "RestoreBranches",
    "RestoreCalls",
    "cut_to",
    "run",
]
