"""The report value as a page: what the template is given, and the template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path, PurePath
from typing import Any

from onnxprune.html import charts, figures
from onnxprune.html.packed import packed
from onnxprune.html.strings import Say, sayer, translated
from onnxprune.report import GroupReport, LayerReport, Learnt, PartReport, Report, SizeReport

_FOLDER = Path(__file__).parent

#: Rows of a table that are there from the start; the script shows the others when they are wanted.
PAGE = 200

#: How many of the worst samples are named.
_WORST = 10

#: Behind which characters of a name a line may break.
_BREAKS = re.compile("(?<=[/._:])")

#: Between elements: they would be a third of the nodes of the page.
_MARGINS = re.compile(r"(?<=>)\s*\n\s*(?=<)")

#: How many tensors inside are listed, of the largest errors.
_MOST_INSIDE = 100

_NONE = "\u2013"

#: A sample that differs in nothing, or in everything, in decibels.
_MOST_DB = 120.0


def page(report: Report, language: str) -> str:
    """The page's text in ``language``. The same report gives the same text."""
    import jinja2  # noqa: PLC0415 (only who asks for the page waits for them)
    import markupsafe  # noqa: PLC0415

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["said"] = lambda text: _said(text, language)
    environment.globals["packed"] = packed
    environment.filters["tight"] = lambda text: _MARGINS.sub("", text)
    environment.filters["broken"] = lambda text: markupsafe.Markup("<wbr>").join(_BREAKS.split(text))
    say = sayer(language)
    template = environment.get_template("report.html")
    text = template.render(
        lang=language,
        say=say,
        f=figures,
        report=report,
        model=PurePath(report.model).name,
        output=PurePath(report.output).name,
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "report.js").read_text(encoding="utf-8"),
        page=PAGE,
        sizes=list(_sizes(report, say)),
        parts=list(_parts(report)),
        lanes=charts.diagram([p.feeds for p in report.parts]),
        widest=max((p.width for p in report.parts), default=1),
        layers=report.layers,
        most_macs=max((x.macs.before for x in report.layers), default=0) or 1,
        padding=_padding,
        most_cycles=max((x.cycles.before for x in report.layers if x.cycles), default=0) or 1,
        priced=any(x.cycles for x in report.layers),
        most_parameters=max((x.parameters.before for x in report.layers), default=0) or 1,
        samples=_samples(report.learnt),
        long=max(len(report.parts), len(report.layers), len(report.slices)) > PAGE,
        slices=_slices(report, say),
        words={key: say(key, **{n: "{" + n + "}" for n in names}) for key, names in _SCRIPT_WORDS.items()},
        inside=sorted(report.proof.inside, key=lambda e: -e.relative)[:_MOST_INSIDE] if report.proof else (),
        shapes=_shapes(report.proof.shapes) if report.proof else "",
        made=list(_made(report, say, language)),
        zip=zip,
    )
    return _MARGINS.sub("", text)


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


def _sizes(report: Report, say: Say) -> Iterator[Size]:
    budget = report.options.get("budget")
    asked = say("budget", budget=budget) if budget else say("asked", share=figures.percent(report.asked))
    yield Size("channels", say("channels"), report.channels, asked)
    for key in ("parameters", "macs", "file_bytes"):
        yield Size(key, say(key), getattr(report, key))
    for name, size in report.costs.items():
        label = say("activations") if name == "activations" else say("cycles_of", target=report.options["target"])
        yield Size(name, label, size)


@dataclass(frozen=True)
class Part:
    """One row of the network: a part, and of a group its report and the chart of its scores."""

    part: PartReport
    group: GroupReport | None
    chart: charts.Scores | None

    @property
    def feeds(self) -> str:
        """The numbers of the rows that read it, as they are counted for a reader."""
        return ", ".join(str(i + 1) for i in self.part.feeds)

    @property
    def share(self) -> float:
        """What went of its channels."""
        return 1 - self.part.kept / self.part.width if self.part.width else 0.0


def _parts(report: Report) -> Iterator[Part]:
    for part in report.parts:
        group = None if part.group is None else report.groups[part.group]
        chart = charts.scores(group.scores, group.removed) if group is not None and group.scores else None
        yield Part(part, group, chart)


@dataclass(frozen=True)
class Samples:
    """Held-out samples by their error, the worst first: (position, dB with the channels gone, dB as written)."""

    worst: tuple[tuple[int, float, float], ...]
    chart: charts.Dots


def _samples(learnt: Learnt | None) -> Samples | None:
    if learnt is None or not learnt.by_sample:
        return None
    found = [(s.sample, _db(s.pruned), _db(s.final)) for s in learnt.by_sample]
    found.sort(key=lambda s: (s[2], s[1], s[0]))
    return Samples(tuple(found[:_WORST]), charts.dots([s[1] for s in found], [s[2] for s in found]))


def _db(noise: float) -> float:
    """Signal over noise, within bounds that can be drawn."""
    return max(-_MOST_DB, min(_MOST_DB, -10 * log10(noise) if 0 < noise < inf else (inf if noise == 0 else -inf)))


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {figures.dims(tuple(shape))}" for name, shape in shapes.items())


def _padding(layer: LayerReport) -> tuple[float, float]:
    """The share of a layer's cycles that is padding, before and after."""
    if layer.cycles is None or layer.padding is None:
        return 0.0, 0.0
    cycles, padding = layer.cycles, layer.padding
    return padding.before / max(cycles.before, 1), padding.after / max(cycles.after, 1)


def _made(report: Report, say: Say, language: str) -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
    """Tables of two columns: their title, their heads and their rows."""
    options = [(name, _option(value, say)) for name, value in report.options.items()]
    yield say("options"), say("option"), say("value"), options
    checks = [(c.name, f"{'✓' if c.passed else '✗'} {translated(c.found, language) or c.found}") for c in report.checks]
    if checks:
        yield say("checks"), say("check"), say("found_head"), checks
    yield say("versions"), say("package"), say("version"), list(report.versions.items())
    seconds = [(stage, f"{spent:.2f}") for stage, spent in report.seconds.items()]
    yield say("seconds"), say("stage"), say("seconds"), seconds


def _option(value: Any, say: Say) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_option(v, say)}" for k, v in value.items()) or _NONE
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or _NONE
    if isinstance(value, bool):
        return say("yes" if value else "no")
    return _NONE if value is None else str(value)


def _slices(report: Report, say: Say) -> Mapping[str, Any]:
    """What the script draws the plan from: texts, each once, and rows that name them by position."""
    texts: dict[str, int] = {}

    def at(text: str) -> int:
        return texts.setdefault(text, len(texts))

    rows = [
        [
            at(", ".join(s.groups)),
            at(s.node),
            at(s.tensor),
            s.axis,
            s.size,
            s.kept,
            at(s.removed + (f" ({say('first_block', blocks=s.blocks)})" if s.blocks > 1 else "")),
        ]
        for s in report.slices
    ]
    return {"texts": list(texts), "rows": rows}


#: What the script says by itself, with the values that it fills in.
_SCRIPT_WORDS = {"found": ("parts", "layers", "slices"), "more": ("count",), "copied": (), "copy": ()}
