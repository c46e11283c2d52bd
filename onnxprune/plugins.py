"""Loading the functions of users, which options name as ``module:function``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OnnxPruneError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

#: What code of the user may raise: its ``sys.exit(0)`` is no run that is done.
RAISED = (Exception, SystemExit)


def is_code(name: str) -> bool:
    """Whether ``name`` has the form ``module:function``, and is not the path of a file."""
    return _FUNCTION.fullmatch(name) is not None and not Path(name).exists()


def user_function(name: str, option: str) -> Callable[..., Any]:
    """Import the function ``name`` from the current folder or sys.path. Raises OptionError that names ``option``."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except RAISED as error:
        hint = "module:function, in this folder or on PYTHONPATH"
        said = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise OptionError(f"cannot load '{name}': {said}", where=option, hint=hint) from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise OptionError(f"'{name}' is not a function", where=option)
    chosen: Callable[..., Any] = found
    return chosen


def giving_numbers(function: Callable[[Any], Any], option: str) -> Callable[[Any], NDArray[np.float64]]:
    """``function``, the user's, as one that gives numbers, or raises OptionError that names ``option``."""
    import numpy as np  # noqa: PLC0415 (not for the command line's help)

    def called(given: Any) -> NDArray[np.float64]:
        try:
            return np.asarray(function(given), np.float64)
        except OnnxPruneError:
            raise
        except RAISED as error:
            raise OptionError(f"raises {type(error).__name__}: {error}", where=option) from None

    return called
