"""What all pages have in common: the template that they fill, the words, the script, and how tables are told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path, PurePath
from typing import Any

from onnxprune.report.html import charts, number_format
from onnxprune.report.html.packed_json import packed
from onnxprune.report.html.strings import Say, sayer, translated
from onnxprune.report.run_report import Check, LayerReport, SizeReport

_FOLDER = Path(__file__).parent

#: Rows of a table that are there from the start; the script shows the others when they are wanted.
PAGE = 200

#: How many of the worst samples are named.
_WORST = 10

#: Behind which characters of a name a line may break.
_BREAKS = re.compile("(?<=[/._:])")

#: Options in a sentence: browsers would break a line behind their hyphens.
_OPTION = re.compile(r"((?<![\w-])--[a-z][\w-]*)")

#: Between elements: they would be a third of the nodes of the page.
_MARGINS = re.compile(r"(?<=>)\s*\n\s*(?=<)")

#: A sample that differs in nothing, or in everything, in decibels.
_MOST_DB = 120.0

#: What the script says by itself, with the values that it fills in; beside what it has ``found``.
_SCRIPT_WORDS = {"more": ("count",), "copied": (), "copy": ()}


def rendered(name: str, language: str, paths: Sequence[str], found: Sequence[str], **values: Any) -> str:
    """The template ``name``. ``paths``: what was before and what came of it; ``found``: key and values of a count."""
    import jinja2  # noqa: PLC0415 (only who asks for a page waits for them)
    import markupsafe  # noqa: PLC0415

    from onnxprune import __version__  # noqa: PLC0415

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = lambda text: _MARGINS.sub("", text)
    markup = markupsafe.Markup
    environment.filters["broken"] = lambda text: markup("<wbr>").join(_BREAKS.split(text))
    environment.filters["sentence"] = lambda text: markup().join(
        markup('<span class="whole">{}</span>').format(part) if number % 2 else environment.filters["broken"](part)
        for number, part in enumerate(_OPTION.split(text))
    )
    say = sayer(language)
    words = {key: say(key, **_holes(names)) for key, names in _SCRIPT_WORDS.items()}
    words["found"] = say(found[0], **_holes(found[1:]))
    before, after = (PurePath(path).name for path in paths)
    text = environment.get_template(name).render(
        lang=language,
        say=say,
        said=lambda text: _said(text, language),
        f=number_format,
        packed=packed,
        version=__version__,
        before=before,
        after=after,
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "report.js").read_text(encoding="utf-8"),
        page=PAGE,
        data={"words": words, "page": PAGE},
        zip=zip,
        **values,
    )
    return _MARGINS.sub("", text)


def _holes(names: Sequence[str]) -> dict[str, str]:
    return {name: "{" + name + "}" for name in names}


def _said(text: str, language: str) -> tuple[str, str]:
    """A sentence that is not the page's own, and the language that it is in."""
    found = translated(text, language)
    return (text, "en") if found is None else (found, "zh-CN" if language == "zh" else language)


@dataclass(frozen=True)
class Size:
    """One card."""

    key: str
    label: str
    size: SizeReport
    hint: str = ""


def layer_table(layers: Sequence[LayerReport]) -> Mapping[str, Any]:
    """What the table of layers is drawn from."""

    def most(sizes: Sequence[SizeReport]) -> int:
        return max((n for s in sizes for n in (s.before, s.after)), default=0) or 1

    return {
        "layers": layers,
        "padding": _padding,
        "priced": any(x.cycles for x in layers),
        "most_macs": most([x.macs for x in layers]),
        "most_cycles": most([x.cycles for x in layers if x.cycles]),
        "most_parameters": most([x.parameters for x in layers]),
    }


def _padding(layer: LayerReport) -> tuple[float, float]:
    """The share of a layer's cycles that is padding, before and after."""
    if layer.cycles is None or layer.padding is None:
        return 0.0, 0.0
    cycles, padding = layer.cycles, layer.padding
    return padding.before / max(cycles.before, 1), padding.after / max(cycles.after, 1)


@dataclass(frozen=True)
class Samples:
    """Samples by their error, the worst first: of some the position and errors in dB; a chart of all."""

    worst: tuple[tuple[int, tuple[float, ...]], ...]
    chart: charts.Dots


def ranked(samples: Sequence[tuple[int, tuple[float, ...]]]) -> Samples | None:
    """Of the noise over signal by position; the last of each decides, and is drawn over the one before it."""
    if not samples:
        return None
    found = sorted(((at, tuple(map(decibels, errors))) for at, errors in samples), key=lambda s: (s[1][::-1], s[0]))
    first = [errors[0] for _, errors in found if len(errors) > 1]
    return Samples(tuple(found[:_WORST]), charts.dots(first, [errors[-1] for _, errors in found]))


def decibels(noise: float) -> float:
    """Signal over noise, within bounds that can be drawn."""
    return max(-_MOST_DB, min(_MOST_DB, -10 * log10(noise) if 0 < noise < inf else (inf if noise == 0 else -inf)))


def checked(checks: Sequence[Check], say: Say, language: str) -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
    """A table of two columns, where anything was checked: its title, its heads and its rows."""
    if checks:
        rows = [(c.name, f"{'✓' if c.passed else '✗'} {translated(c.found, language) or c.found}") for c in checks]
        yield say("checks"), say("check"), say("found_head"), rows
