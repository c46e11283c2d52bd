"""The HTML page without a browser: its words, its numbers, what it draws, and that it stands alone."""

from __future__ import annotations

import ast
import base64
import json
import re
import string
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from fixtures.build import conv_chain
from onnxprune import pipeline
from onnxprune.cost.chips import Cycles, find
from onnxprune.model import onnx_model as model
from onnxprune.options import Options
from onnxprune.report import html
from onnxprune.report.gates import Gates, Measured, Requirement
from onnxprune.report.html import charts, number_format, strings
from onnxprune.report.html.template import PAGE
from onnxprune.report.run_report import Check, Report
from tests.commands import CHAIN
from tests.models import build

SKIP = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[8,3,1,1] w0, float[6,8,1,1] w1, float[8,6,1,1] w2, float[4,8,1,1] w3>
{ a = Conv(x, w0)
  b = Conv(a, w1)
  c = Conv(b, w2)
  d = Add(a, c)
  y = Conv(d, w3) }"""
GATE = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[8,3,1,1] w0, float[6,3,1,1] w1, float[1,6,1,1] w2, float[4,8,1,1] w3>
{ a = Conv(x, w0)
  b = Conv(x, w1)
  c = Conv(b, w2)
  s = Sigmoid(c)
  d = Mul(a, s)
  y = Conv(d, w3) }"""
FOLDER = Path(html.__file__).parent


def pruned(text: str, **options: object) -> Report:
    return pipeline.prune(model.from_proto(build(text)), Options(**options)).report  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a page holds: its text, and every attribute of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", strings.table())
def test_every_word_is_there_in_every_language_with_the_same_values(key: str) -> None:
    texts = strings.table()[key]
    assert set(texts) == set(html.LANGUAGES)
    assert all(texts.values())
    named = [{f for _, f, _, _ in string.Formatter().parse(t) if f} for t in texts.values()]
    assert named[0] == named[1]


def test_every_word_is_used() -> None:
    sources = " ".join(p.read_text(encoding="utf-8") for p in FOLDER.iterdir() if p.suffix in (".html", ".py", ".js"))
    quoted = set(re.findall(r"[\"'](\w+)[\"']", sources)) | {f"theme_{n}" for n in ("auto", "light", "dark")}
    quoted |= {f"kind_{n}" for n in quoted} | {f"same_{n}" for n in ("structure", "weights", "declarations")}
    assert set(strings.table()) - quoted == set()


@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.glob("*.html")))
def test_no_word_of_the_other_language_is_in_a_template(name: str) -> None:
    template = re.sub(r"\{[{%].*?[%}]\}", "", (FOLDER / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    template = re.sub(r"<script>.*?</script>", "", template, flags=re.DOTALL)
    words = set(re.findall(r"[A-Za-z]{3,}", "".join(Page(template).text)))
    assert words <= {"onnxprune", "SHA", "check"}


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh", "LC_ALL": ""}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_locale_decides_the_language(environment: dict[str, str], language: str) -> None:
    assert html.of_locale(environment) == language


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (number_format.count(1012627200), "1\u202f012\u202f627\u202f200"),
        (number_format.percent(0.29934), "29.9\u00a0%"),
        (number_format.change(0.453), "\u221254.7\u00a0%"),
        (number_format.change(1.25), "+25.0\u00a0%"),
        (number_format.error(2.34e-7), "2.3e-07"),
        (number_format.error(0.0), "0"),
        (number_format.decibel(-3.14159), "\u22123.1"),
        (number_format.decibel(float("inf")), "\u221e"),
        (number_format.decibel(float("-inf")), "\u2212\u221e"),
        (number_format.short(0.000091623), "9.16e-05"),
        (number_format.dims((48, 96, 3, 3)), "48\u00d796\u00d73\u00d73"),
    ],
)
def test_each_kind_of_number_is_written_in_one_way(text: str, wanted: str) -> None:
    assert text == wanted


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("is the graph output 'y'", "是图的输出“y”"),
        ("/a: b: is read inside Loop", "/a: b: 在 Loop 内部被读取"),
        ("n: cannot follow: X has no rule", "n: 无法随之改写\uff1aX has no rule"),
        (
            "cannot be narrower and a multiple of 16 in each of its 2 parts: left as it is",
            "2 个部分各自无法变窄且仍为 16 的倍数\uff1a保持不变",
        ),
        (
            "64 of 256 calibration samples are used: every layer finds positions enough in them",
            "使用了 64 / 256 个校准样本\uff1a每层从中已得到足够的位置",
        ),
        ("this is summed over nothing", None),
    ],
)
def test_sentences_are_translated_by_their_ends_and_names_stay(sentence: str, wanted: str | None) -> None:
    assert strings.translated(sentence, "en") == sentence
    assert strings.translated(sentence, "zh") == wanted


def texts_of(path: Path) -> Iterator[str]:
    """All texts in a module, with names in them as it would fill them in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "n" for v in node.values)


def test_every_reason_that_a_rule_gives_is_known_in_chinese() -> None:
    root = FOLDER.parents[1]
    modules = [
        *sorted((root / "labels").rglob("*.py")),
        root / "widths" / "choose_channels.py",
    ]
    verbs = "is|has|needs|makes|masks|scales|reads|goes through|runs through|gives|meets|stands for|would go"
    start = re.compile(rf"({verbs}|its (parts|channels)|\w+ has no rule)\b")
    reasons = {t for m in modules for t in texts_of(m) if start.match(t) and "\n" not in t}
    assert len(reasons) > 40
    assert {r for r in reasons if strings.translated(r, "zh") is None} == set()


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", html.LANGUAGES)
def test_page_stands_alone(language: str) -> None:
    """Nothing is fetched: no address, no file, no import, and a policy that would forbid it."""
    text = html.page(pruned(CHAIN), language)
    page = Page(text)
    assert "default-src 'none'" in text
    assert re.findall(r"https?://|@import|url\(", text) == []
    links = {value for _, name, value in page.attributes if name in ("src", "href", "action", "poster", "srcset")}
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {"#network", "#plan"} <= links
    assert {v for v in links if v != "data:,"} <= {f"#{i}" for i in ids}
    assert ("html", "lang", "zh-CN" if language == "zh" else "en") in page.attributes


def test_page_says_all_without_a_script() -> None:
    """Summary, network and layers are in the text itself; the plan says that it needs one."""
    report = pruned(CHAIN, ratio=0.5)
    text = "".join(Page(re.sub(r"<script.*?</script>", "", html.page(report, "en"), flags=re.DOTALL)).text)
    for size in (report.channels, report.parameters, report.macs, report.file_bytes):
        assert number_format.count(size.before) in text
        assert number_format.count(size.after) in text
    assert all(g.name in text for g in report.groups)
    assert all(x.weight in text for x in report.layers)
    assert "needs JavaScript" in text


def test_what_a_long_page_does_not_show_at_once_is_packed_whole() -> None:
    report = pipeline.prune(model.from_proto(conv_chain(PAGE + 3, width=4, size=2)), Options(check_n=0)).report
    text = html.page(report, "en")
    (block,) = re.findall(r'id="packed">([^<]+)<', text)
    more = json.loads(zlib.decompress(base64.b64decode(block)))
    assert more["network"].count("<tr") == len(report.parts) - PAGE
    assert more["layers"].count("<tr") == len(report.layers) - PAGE
    assert len(more["plan"]["rows"]) == len(report.slices)
    assert text.count("<tr") < 2 * PAGE + 100
    assert 'id="packed"' not in html.page(pruned(CHAIN), "en")


def test_names_cannot_break_out_of_the_page() -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    proto = build(CHAIN)
    for node in proto.graph.node:
        node.name = f"{node.output[0]}{evil}"
    report = pipeline.prune(model.from_proto(proto), Options(ratio=0.5)).report
    text = html.page(replace(report, command=evil, notes=(evil,)), "en")
    assert "img" not in Page(text).tags
    assert text.count("</script>") == 3


@pytest.mark.parametrize("language", html.LANGUAGES)
def test_two_models_are_compared_on_a_page_that_stands_alone(language: str) -> None:
    before, after = build(CHAIN), onnxprune.prune(build(CHAIN), ratio=0.5, check_n=1).model
    after.metadata_props.add(key="made", value="</script><img src=x>")
    found = onnxprune.diff(before, after)
    text = html.comparison(found, language)
    page = Page(text)
    assert "default-src 'none'" in text
    assert re.findall(r"https?://|@import|url\(", text) == []
    assert "img" not in page.tags
    said = "".join(page.text)
    for resized in found.resized:
        assert f"{number_format.dims(resized.before)}{number_format.dims(resized.after)}" in said
    for size in (found.parameters, found.macs, found.file_bytes):
        assert number_format.count(size.before) in said
        assert number_format.count(size.after) in said
    assert "metadata 'made'" in said
    assert f"{number_format.cosine(found.outputs[0].cosine)}" in said
    assert text == html.comparison(found, language)


def test_two_models_that_are_the_same_differ_in_nothing() -> None:
    text = html.comparison(onnxprune.diff(build(CHAIN), build(CHAIN), check_n=0), "en")
    assert "Nothing differs." in text
    assert "the models were not run" in text


def test_same_report_gives_the_same_page() -> None:
    report = pruned(CHAIN)
    assert html.page(report, "en") == html.page(report, "en")


def test_page_of_a_model_that_nothing_can_be_pruned_of() -> None:
    report = pruned("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    assert "Nothing is cut" in html.page(report, "en")


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_parts_are_in_execution_order_and_feed_the_next() -> None:
    report = pruned(CHAIN, ratio=0.5)
    assert [(p.name, p.group, p.width, p.kept, p.feeds) for p in report.parts] == [
        ("Conv:a", 0, 16, 8, (1,)),
        ("Conv:c", 1, 32, 16, (2,)),
        ("Conv:y", None, 4, 4, ()),
    ]
    assert report.parts[2].reasons == ("is the graph output 'y'",)


def test_a_residual_leads_back_to_the_channels_that_it_is_added_to() -> None:
    parts = pruned(SKIP).parts
    assert [(p.name, p.feeds) for p in parts] == [("Conv:a", (1, 2)), ("Conv:b", (0,)), ("Conv:y", ())]


def test_a_gate_without_channels_carries_what_it_was_made_of() -> None:
    parts = {p.name: p for p in pruned(GATE).parts}
    names = list(parts)
    assert "Conv:y" in [names[i] for i in parts["Conv:b"].feeds]
    assert "Conv:y" in [names[i] for i in parts["Conv:a"].feeds]


@pytest.mark.parametrize("text", [CHAIN, SKIP, GATE])
def test_layers_add_up_to_the_whole(text: str) -> None:
    report = pruned(text, ratio=0.5)
    assert sum(x.macs.before for x in report.layers) == report.macs.before
    assert sum(x.macs.after for x in report.layers) == report.macs.after
    assert sum(x.parameters.before for x in report.layers) == report.parameters.before
    assert sum(x.parameters.after for x in report.layers) == report.parameters.after


def test_layers_without_names_are_found_again_behind_a_folded_normalization() -> None:
    norm = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[16,3,1,1] w0, float[16] s, float[16] o, float[16] m, float[16] var, float[4,16,1,1] w1>
{ a = Conv(x, w0)
  b = BatchNormalization(a, s, o, m, var)
  y = Conv(b, w1) }"""
    report = pruned(norm, ratio=0.5)
    assert sum(x.parameters.after for x in report.layers) == report.parameters.after
    assert report.layers[0].after == (8, 3, 1, 1)


def test_slices_are_those_of_the_plan() -> None:
    result = pipeline.prune(model.from_proto(build(CHAIN)), Options(ratio=0.5))
    shown = {(s.tensor, s.axis): (s.size, s.kept) for s in result.report.slices}
    planned = {(n, a.axis): (a.size, a.keep.shape[-1]) for n, axes in result.plan.initializers.items() for a in axes}
    assert shown == planned
    assert {s.tensor: s.groups for s in result.report.slices if s.axis == 0}["w1"] == ("Conv:c",)
    gone = {g.name: g.removed for g in result.report.groups}
    (cut,) = (s for s in result.report.slices if s.tensor == "b0")
    ranges = [[int(n) for n in part.split("-")] for part in cut.removed.split(",")]
    assert tuple(n for r in ranges for n in range(r[0], r[-1] + 1)) == gone["Conv:a"]


def test_the_lowest_scores_went() -> None:
    groups = pruned(CHAIN, ratio=0.5).groups
    assert len(groups) == 2
    for group in groups:
        gone = [group.scores[i] for i in group.removed]
        stay = [s for i, s in enumerate(group.scores) if i not in group.removed]
        assert len(group.scores) == group.width
        assert max(gone) <= min(stay)


def test_a_saved_plan_has_no_scores() -> None:
    loaded = model.from_proto(build(CHAIN))
    plan = pipeline.prune(loaded, Options(ratio=0.5)).plan
    report = pipeline.prune(loaded, Options(ratio=0.5), plan).report
    assert [g.scores for g in report.groups] == [(), ()]
    assert "from a saved plan" in html.page(report, "en")


def ends(path: str) -> set[tuple[int, int]]:
    """Where the lines of one row meet the edges of its box and its dot: (x, y)."""
    points = set()
    for part in path.split("M")[1:]:
        x, y = map(int, re.match(r"(\d+) (\d+)", part).groups())  # type: ignore[union-attr]
        points.add((x, y))
        for kind, numbers in re.findall(r"([HVQ])([\d ]+)", part):
            last = [int(n) for n in numbers.split()]
            x, y = (last[0], y) if kind == "H" else (x, last[0]) if kind == "V" else (last[2], last[3])
        points.add((x, y))
    return points


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 14), max_size=4), min_size=15, max_size=15))
def test_lines_join_each_part_with_what_it_feeds(wanted: list[list[int]]) -> None:
    """Of each source: its rows' lines meet at the edges of the rows, and touch the dots of just what it joins."""
    feeds = [[t for t in targets if t != i] for i, targets in enumerate(wanted)]
    found = charts.diagram(feeds)
    middle = (found.dot, charts.ROW // 2)
    for back in (False, True):
        for source, targets in enumerate(feeds):
            own = {t for t in targets if (t < source) == back}
            rows = [
                set().union(*(ends(line.path) for line in row if line.source == source and line.back == back))
                for row in found.rows
            ]
            touched = {i for i, points in enumerate(rows) if middle in points}
            assert touched == (own | {source} if own else set())
            for above, below in pairwise(rows):
                leaves = {x for x, y in above if y == charts.ROW}
                assert leaves == {x for x, y in below if y == 0}


def test_lines_that_lead_back_to_one_part_share_a_lane() -> None:
    apart = charts.diagram([[1, 2, 3, 4, 5], [], [0], [], [0], []])
    assert apart.width == charts.diagram([[1, 2, 3, 4, 5], [], [], [], [0], []]).width


@pytest.mark.parametrize(
    ("values", "removed", "cut"),
    [
        ([3.0, 1.0, 2.0, 4.0], [1, 2], (2.0, 3.0)),
        ([3.0, 1.0, 2.0, 4.0], [0], None),
        ([3.0, 1.0], [], None),
        ([3.0, 1.0], [0, 1], None),
        ([1.0, 1.0, 1.0, 2.0], [2], (1.0, 1.0)),
        ([0.0, 0.0], [1], (0.0, 0.0)),
        (list(map(float, range(1000))), list(range(250)), (249.0, 250.0)),
    ],
)
def test_a_cut_is_drawn_where_the_scores_are_cut(
    values: list[float], removed: list[int], cut: tuple[float, float] | None
) -> None:
    chart = charts.scores(values, removed)
    assert ((chart.below, chart.above) if chart.cut is not None else None) == cut
    assert bool(chart.removed) == bool(removed)
    assert bool(chart.kept) == (len(removed) < len(values))
    assert (chart.removed + chart.kept).count("h") == min(len(values), charts.MOST_BARS) == chart.width


def test_bars_are_logarithmic_where_most_scores_are_small_beside_the_largest() -> None:
    even, uneven = [1.0, 2.0, 3.0], [0.0, 1e-9, 1e-3, 1e-2, 1e-1, 1.0]
    assert not charts.skewed([even, even, uneven])
    assert charts.skewed([even, uneven, uneven])
    assert not charts.skewed([[0.0, 0.0], []])
    high = 1 - 1 / charts.DECADES
    bars = charts.scores(uneven, [0], logarithmic=True).kept
    tops = [round(charts.HEIGHT - float(part.split("h")[0]), 1) for part in bars.split("V") if "h" in part]
    assert tops == [0.5, *(round(charts.HEIGHT * share, 1) for share in (0.25, 0.5, high, 1.0))]


def test_dots_of_equal_and_of_far_apart_values_stay_inside() -> None:
    for first, second in (([5.0], [5.0]), ([-120.0, 120.0], [0.0, 3.0]), ([1.01, 1.02], [1.03, 1.04])):
        chart = charts.dots(first, second)
        assert all(0 <= y <= chart.height for _, y in (*chart.first, *chart.second))
        assert 2 <= len(chart.scale) <= 8


def test_a_target_adds_its_cycles_and_what_of_them_is_padding() -> None:
    target = Cycles.of(find("rk3588"), "int8")
    report = pruned(CHAIN, ratio=0.5, target=target)
    assert sum(x.cycles.before for x in report.layers if x.cycles) == report.costs["cycles"].before
    assert sum(x.cycles.after for x in report.layers if x.cycles) == report.costs["cycles"].after
    first = report.layers[0]
    assert first.cycles is not None
    assert first.padding is not None
    assert 0 < first.padding.before < first.cycles.before
    text = html.page(report, "en")
    assert "Cycles, rk3588 int8" in text
    assert number_format.count(first.cycles.before) in text
    assert "<small>padding" in text
    assert "<small>padding" not in html.page(pruned(CHAIN), "en")


@pytest.mark.parametrize(
    ("language", "says"), [("en", ["1 of 2 checks failed", "not measured"]), ("zh", ["2 项检查中有 1 项", "未测量"])]
)
def test_a_failed_check_is_said_first(language: str, says: list[str]) -> None:
    checks = (Check("proof", passed=True, found="rewrite error 1e-07 of the output's range, limit 1e-04"),)
    failed = Check("--require cycles<=0.5", passed=False, found="not measured")
    text = "".join(Page(html.page(replace(pruned(CHAIN), checks=(*checks, failed)), language)).text)
    assert all(said in text for said in says)
    assert text.index(failed.name) < text.index(html.strings.table()["channels"][language])
    assert html.strings.table()["failed"][language] in text
    passed = html.page(replace(pruned(CHAIN), output="out.onnx", checks=checks), language)
    assert 'role="alert"' not in passed
    assert html.strings.table()["failed"][language] not in passed


def test_every_finding_of_a_gate_is_known_in_chinese() -> None:
    gates = Gates(1e-9, 1.0, 99.0, (Requirement.parse("macs<=0.1"), Requirement.parse("cycles<=1")))
    report = pruned(CHAIN, ratio=0.5)
    assert report.proof is not None
    unproven = replace(report, proof=replace(report.proof, rtol=0.0))
    measured = [Measured.of_report(r) for r in (report, unproven)]
    found = {c.found for m in measured for c in (*m.proof, *gates.checks(m))}
    assert len(found) == 7
    assert {f for f in found if strings.translated(f, "zh") is None} == set()
