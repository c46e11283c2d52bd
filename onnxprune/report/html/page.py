"""The report value as a page: what the template is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from onnxprune.report.html import charts, number_format
from onnxprune.report.html.front import dots, front
from onnxprune.report.html.strings import Say, sayer
from onnxprune.report.html.template import PAGE, Size, checked, layer_table, ranked, rendered
from onnxprune.report.run_report import GroupReport, PartReport, Report
from onnxprune.search.drop import told

#: How many tensors inside are listed, of the largest errors.
_MOST_INSIDE = 100

_NONE = "\u2013"


def page(report: Report, language: str) -> str:
    """The page's text in ``language``. The same report gives the same text."""
    say, recovered = sayer(language), report.recovered
    logarithmic = charts.skewed(g.scores for g in report.groups)
    return rendered(
        "report.html",
        language,
        (report.model, report.output),
        ("found", "parts", "layers", "slices"),
        title="title",
        find="find",
        failed_about="failed_about",
        contents=_contents(report),
        told=report,
        report=report,
        sizes=list(_sizes(report, say)),
        parts=list(_parts(report, logarithmic=logarithmic)),
        decades=charts.DECADES if logarithmic else 0,
        lanes=charts.diagram([p.feeds for p in report.parts]),
        widest=max((p.width for p in report.parts), default=1),
        **layer_table(report.layers),
        samples=ranked([(s.sample, (s.pruned, s.final)) for s in recovered.by_sample] if recovered else ()),
        long=max(len(report.parts), len(report.layers), len(report.slices)) > PAGE,
        drawn={"plan": _slices(report, say)},
        inside=sorted(report.proof.inside, key=lambda e: -e.relative)[:_MOST_INSIDE] if report.proof else (),
        shapes=_shapes(report.proof.shapes) if report.proof else "",
        made=list(_made(report, say, language)),
        front=front([*dots(report.search)], report.search.permitted) if report.search else None,
        lost=partial(told, sign="\u00b1"),
    )


def _contents(report: Report) -> list[str]:
    """The sections of the page, in order."""
    errors = report.proof is not None or report.recovered is not None
    return [*(["search"] if report.search else []), "network", "layers", *(["errors"] if errors else []), "plan"]


def _sizes(report: Report, say: Say) -> Iterator[Size]:
    budget = report.options.get("budget")
    asked = say("budget", budget=budget) if budget else say("asked", share=number_format.percent(report.asked))
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


def _parts(report: Report, *, logarithmic: bool) -> Iterator[Part]:
    for part in report.parts:
        group = None if part.group is None else report.groups[part.group]
        chart = None
        if group is not None and group.scores:
            chart = charts.scores(group.scores, group.removed, logarithmic=logarithmic)
        yield Part(part, group, chart)


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {number_format.dims(tuple(shape))}" for name, shape in shapes.items())


def _made(report: Report, say: Say, language: str) -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
    """Tables of two columns: their title, their heads and their rows."""
    options = [(name, _option(value, say)) for name, value in report.options.items()]
    yield say("options"), say("option"), say("value"), options
    yield from checked(report.checks, say, language)
    if report.grids is not None:
        found, count = report.grids, number_format.count
        rows = [(n, say("bits_of_weight", bits=b, size=count(size))) for n, (b, size) in found.layers.items()]
        rows += [(n, say("bits_of_tensor", bits=b)) for n, b in found.activations.items()]
        whole = {"size": count(found.weights), "missed": count(found.missed), "bytes": count(found.bytes)}
        yield say("bits"), say("number_of"), say("value"), [("", say("bits_of_all", **whole)), *rows]
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
