"""Checks that the written model is valid wherever the original is, and that the original is, where a check fails.

A model may pass onnx.checker's plain check and still run nowhere: types and shapes that contradict each other show only
when something changes. Then the original is refused, and not the result.
"""

from __future__ import annotations

from onnxprune.errors import CheckError, ModelError
from onnxprune.model.onnx_model import Model, check
from onnxprune.model.written_out.functions import inline
from onnxprune.running import session as runtime
from onnxprune.running.unknown_operators import sever


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


def check_original(model: Model) -> None:
    """Raise ModelError where onnx.checker's full check or onnxruntime refuses ``model``, the original."""
    where = str(model.path or "model")
    check(model.skeleton(), where, full=True)
    try:
        with runtime.session(sever(inline(model).written).part, where):
            pass
    except ModelError as error:
        raise ModelError(error.what, where=where, hint=error.hint) from None
