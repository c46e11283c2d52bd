"""Loading the functions of users, which options name as ``module:function``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_code(name: str) -> bool:
    """Whether ``name`` has the form ``module:function``, and is not the path of a file."""
    return _FUNCTION.fullmatch(name) is not None and not Path(name).exists()


def user_function(name: str, option: str) -> Callable[..., Any]:
    """Import the function ``name`` from the current folder or sys.path. Raises OptionError that names ``option``."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        hint = "module:function, in this folder or on PYTHONPATH"
        raise OptionError(f"cannot load '{name}': {error}", where=option, hint=hint) from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise OptionError(f"'{name}' is not a function", where=option)
    chosen: Callable[..., Any] = found
    return chosen
