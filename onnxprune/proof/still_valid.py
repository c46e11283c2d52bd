"""The new model is as valid as the original: by onnx's checker."""

from __future__ import annotations

from onnxprune.errors import CheckError, ModelError
from onnxprune.model.onnx_model import Model, check


def check_valid(original: Model, pruned: Model) -> None:
    """onnx.checker's full check, strict shape inference included, wherever the original passes it.

    Raises CheckError, and ModelError where the original does not pass the plain one: with its functions written out,
    of which the checker does not ask what their calls leave away.
    """
    try:
        check(original.skeleton(), "original", full=True)
    except ModelError:
        full = False
        check(original.skeleton(), f"{original.path or 'model'}, with its functions written out")
    else:
        full = True
    try:
        check(pruned.skeleton(), "the pruned model", full=full)
    except ModelError as error:
        raise CheckError(error.what, where=error.where, hint="please report this as a bug") from None
