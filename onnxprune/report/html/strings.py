"""The words of the page in each language, out of one table."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES = ("en", "zh")

#: The table of sentences that are not the page's own, and where they have a name or a number.
_SAID, _HOLE = "said", re.escape("{}")

#: (key, values to fill in) -> text.
Say = Callable[..., str]


@cache
def _file() -> dict[str, dict[str, str]]:
    return tomllib.loads((Path(__file__).parent / "strings.toml").read_text(encoding="utf-8"))


def table() -> Mapping[str, Mapping[str, str]]:
    """Key -> language -> text."""
    return {key: texts for key, texts in _file().items() if key != _SAID}


@cache
def _sentences() -> list[tuple[re.Pattern[str], str]]:
    """What the rest of onnxprune says, the longest first: how it ends, and the same in Chinese."""
    said = sorted(_file()[_SAID].items(), key=lambda s: -len(s[0]))
    return [(re.compile(f"(?:^|(?<=: )){re.escape(en).replace(_HOLE, '(.+)')}$"), zh) for en, zh in said]


def translated(sentence: str, language: str) -> str | None:
    """A reason or a note in ``language``, names in it as they are; None where it is not known there."""
    if language == LANGUAGES[0]:
        return sentence
    for pattern, text in _sentences():
        if (found := pattern.search(sentence)) is not None:
            return sentence[: found.start()] + text.format(*found.groups())
    return None


def sayer(language: str) -> Say:
    """What says a key in ``language``. It raises KeyError for a key or a value that is missing."""
    words = {key: texts[language] for key, texts in table().items()}
    return lambda key, **values: words[key].format(**values)


def of_locale(environment: Mapping[str, str]) -> str:
    """The language that the locale asks for: of LC_ALL, LC_MESSAGES and LANG the first that is set decides."""
    name = next((v for k in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := environment.get(k))), "")
    return "zh" if name.lower().startswith("zh") else "en"
