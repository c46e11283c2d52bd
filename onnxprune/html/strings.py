"""The words of the page in each language, out of one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES = ("en", "zh")

#: (key, values to fill in) -> text.
Say = Callable[..., str]


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Key -> language -> text."""
    return tomllib.loads((Path(__file__).parent / "strings.toml").read_text(encoding="utf-8"))


def sayer(language: str) -> Say:
    """What says a key in ``language``. It raises KeyError for a key or a value that is missing."""
    words = {key: texts[language] for key, texts in table().items()}
    return lambda key, **values: words[key].format(**values)


def of_locale(environment: Mapping[str, str]) -> str:
    """The language that the locale asks for: of LC_ALL, LC_MESSAGES and LANG the first that is set decides."""
    name = next((v for k in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := environment.get(k))), "")
    return "zh" if name.lower().startswith("zh") else "en"
