"""The HTML page in a real browser: it opens without an error, works by mouse and by keyboard, and fits a phone.

Needs Chromium or Chrome, and ``pip install ".[browser]"``. ONNXPRUNE_BROWSER names another executable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from fixtures import build, trained
from onnxprune.cli import main as cli
from onnxprune.errors import thousands
from onnxprune.report.html.template import PAGE

sync_api = pytest.importorskip("playwright.sync_api", reason='needs a browser driver: pip install ".[browser]"')

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: The script marks the page when all of it can be used.
READY = "html[data-ready]"
TALL, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: of this machine, or of playwright's own."""
    found = os.environ.get("ONNXPRUNE_BROWSER") or next((p for n in NAMES if (p := shutil.which(n))), None)
    with sync_api.sync_playwright() as driver:
        if found is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("needs Chromium or Chrome: apt-get install chromium, or playwright install chromium")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium has no sandbox for root
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield started
        started.close()


class Opened:
    """A page of a report, the report as JSON, and what the console said."""

    def __init__(self, page: Any, report: dict[str, Any], complaints: list[str]) -> None:
        self.page, self.report, self.complaints = page, report, complaints

    def texts(self, selector: str) -> list[str]:
        """The text of each element that is shown."""
        found = self.page.locator(selector).filter(visible=True).all_inner_texts()
        return [plain(t) for t in found]


def plain(text: str) -> str:
    """Without the spaces and the minus that are there to look at."""
    for shown, typed in (("\u202f", ""), ("\u00a0", " "), ("\u2212", "-")):
        text = text.replace(shown, typed)
    return " ".join(text.split())


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Prune through the command line, once for each set of arguments."""
    made: dict[tuple[object, ...], tuple[Path, dict[str, Any]]] = {}

    def make(source: Callable[[], Path], *args: object, code: int = 0) -> tuple[Path, dict[str, Any]]:
        key = (source, *args)
        if key not in made:
            folder = tmp_path_factory.mktemp("report")
            files: tuple[object, ...] = ("--report", folder / "report.html", "--json", folder / "report.json")
            if source() != Path("diff"):
                files = (*files, "-o", folder / "out.onnx", "-q")
            with pytest.raises(SystemExit) as exit_:
                cli.main([str(a) for a in (source(), *args, *files)])
            assert exit_.value.code == code
            made[key] = (folder / "report.html", json.loads((folder / "report.json").read_text()))
        return made[key]

    return make


@pytest.fixture
def opened(browser: Any, reports: Callable[..., tuple[Path, dict[str, Any]]]) -> Iterator[Open]:
    """Open the report on a model, offline."""
    contexts: list[Any] = []

    def open_(
        source: Callable[[], Path],
        *args: object,
        code: int = 0,
        before: str = "",
        viewport: dict[str, int] = TALL,
        **context: Any,
    ) -> Opened:
        path, report = reports(source, *args, code=code)
        contexts.append(browser.new_context(viewport=viewport, offline=True, **context))
        page, complaints = contexts[-1].new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.add_init_script(before)
        page.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            page.wait_for_selector(READY, state="attached")
        return Opened(page, report, complaints)

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    path = tmp_path_factory.mktemp("unet") / "unet.onnx"
    onnx.save(build.unet(fold_bn=False, size=32, base=8, classes=3), path)
    data = np.random.default_rng(0).standard_normal((20, 1, 32, 32)).astype(np.float32)
    np.savez(path.with_name("data.npz"), input=data)
    return lambda: path


def with_data(path: Path) -> tuple[str, ...]:
    return ("--data", str(path.with_name("data.npz")), "--budget", "macs=0.6", "--importance", "l2")


@pytest.fixture(params=["unet", pytest.param("yolo", marks=pytest.mark.models)])
def shown(request: pytest.FixtureRequest, opened: Open, unet: Callable[[], Path]) -> Opened:
    """A report of each model."""
    if request.param == "unet":
        return opened(unet, "--ratio", "0.4")
    return opened(yolo, "--ratio", "0.3", "--align", "16", "--input-shape", "images:1,3,320,320")


def yolo() -> Path:
    return trained.path("nudenet")


def test_it_opens_with_the_right_numbers_and_no_complaint(shown: Opened) -> None:
    report = shown.report
    for key in ("channels", "parameters", "macs", "file_bytes"):
        size = report[key]
        (text,) = shown.texts(f"[data-key={key}]")
        assert f"{size['before']} → {size['after']}" in text
        assert f"{100 * (size['ratio'] - 1):.1f} %" in text
    assert f"{report['proof']['rewrite_error']:.1e}" in shown.texts("[data-key=rewrite]")[0]
    assert f"{report['proof']['pruning'][0]['snr_db']:.1f} dB" in shown.texts("[data-key=pruning]")[0]
    groups = {g["name"]: g for g in report["groups"]}
    rows = shown.page.locator("table.network tbody tr:not(.held)")
    assert rows.count() == len(groups)
    for text in map(plain, rows.all_inner_texts()):
        name = next(word for word in text.split() if word in groups)
        group = groups[name]
        both = f"{group['width']} → {group['kept']}" if group["kept"] < group["width"] else f"{group['width']}"
        assert both in text
    assert shown.complaints == []


def test_columns_sort_both_ways(shown: Opened) -> None:
    page, report = shown.page, shown.report
    widths = [p["width"] for p in report["parts"]]
    head = page.locator("table.network th", has_text="Channels")

    def now() -> list[int]:
        cells = page.locator("table.network tbody td.w")
        return [int(c.get_attribute("data-v")) for c in cells.all()]

    assert now() == widths
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert now() == sorted(widths, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert now() == sorted(widths)
    page.locator("table.network th.g button").click()
    assert head.get_attribute("aria-sort") is None
    assert now() == widths


def test_search_filters_all_tables(shown: Opened) -> None:
    slices = shown.report["slices"]
    name = slices[-1]["tensor"]
    shown.page.locator("#find").fill(name)
    wanted = [s for s in slices if name in "\n".join((s["tensor"], s["node"], *s["groups"]))]
    shown.page.locator("table.plan").scroll_into_view_if_needed()  # what is far below is not laid out
    assert shown.texts("table.plan tbody th") == [s["tensor"] for s in wanted]
    assert shown.texts("table.plan tbody td:last-child") == [s["removed"] for s in wanted]
    assert f"{len(wanted)} slices" in shown.texts("#found")[0]
    assert all(name in text for text in shown.texts("table.layers tbody tr"))
    shown.page.locator("#find").fill("no such tensor")
    assert shown.texts("table tbody tr td.w") == []
    shown.page.locator("#find").fill("")
    assert len(shown.texts("table.network tbody tr")) == len(shown.report["parts"])


def test_a_group_leads_to_its_slices(shown: Opened) -> None:
    name = next(g["name"] for g in shown.report["groups"] if g["kept"] < g["width"])
    shown.page.locator("table.network a", has_text=name).first.click()
    assert shown.page.locator("#find").input_value() == name
    own = {s["tensor"] for s in shown.report["slices"] if name in s["groups"]}
    assert own <= set(shown.texts("table.plan tbody th"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """250 layers: more than a page of rows."""
    path = tmp_path_factory.mktemp("chain") / "chain.onnx"
    onnx.save(build.conv_chain(250, width=4, size=2), path)
    return lambda: path


def test_long_reports_are_shown_as_they_are_wanted(opened: Open, chain: Callable[[], Path]) -> None:
    """Of 250 layers a page at first; the others on request, and where a search or a sort finds them."""
    shown = opened(chain, "--check-n", "0", "--lang", "en")
    page, parts = shown.page, shown.report["parts"]
    for table, wanted in (("network", len(parts)), ("layers", 250), ("plan", len(shown.report["slices"]))):
        rows = page.locator(f"table.{table} tbody tr")
        assert rows.count() == PAGE
        more = page.locator(f"section:has(table.{table}) button.more")
        assert plain(more.text_content()) == f"Show {wanted - PAGE} more"
        more.click()
        assert rows.count() == wanted
        assert not more.is_visible()
    page.reload()
    page.wait_for_selector(READY, state="attached")
    page.locator("#find").fill("conv249.weight")
    page.wait_for_selector("table.layers tbody tr")  # rows may still be unpacked while somebody types
    assert len(shown.texts("table.layers tbody tr")) == 1
    page.reload()
    page.wait_for_selector(READY, state="attached")
    page.locator("table.network th.g button").click()
    assert page.locator("table.network tbody tr td.g").first.get_attribute("data-v") == str(len(parts) - 1)
    assert shown.complaints == []


def test_what_cannot_be_unpacked_is_said(opened: Open, chain: Callable[[], Path]) -> None:
    """Without JavaScript, or in a browser that cannot unpack: the first page of rows, and how many more there are."""
    bare = opened(chain, "--check-n", "0", "--lang", "en", java_script_enabled=False)
    assert bare.page.locator("table.layers tbody tr").count() == PAGE
    assert f"{250 - PAGE} more rows need JavaScript; --json writes them." in bare.texts(".no-more")
    old = opened(chain, "--check-n", "0", "--lang", "en", before="delete window.DecompressionStream")
    assert old.texts(".no-more") == bare.texts(".no-more")
    old.page.locator("#find").fill("conv1.weight")
    assert len(old.texts("table.layers tbody tr")) == 1
    assert old.complaints == []


def test_held_parts_say_why_on_hover_and_on_focus(shown: Opened) -> None:
    held = next(p for p in shown.report["parts"] if p["group"] is None)
    button = shown.page.locator("tr.held button", has_text=held["name"]).first
    tip = shown.page.locator(f"#{button.get_attribute('aria-describedby')}")
    assert not tip.is_visible()
    button.hover()
    assert tip.is_visible()
    assert plain(tip.inner_text()) == " ".join(held["reasons"])
    shown.page.mouse.move(0, 0)
    assert not tip.is_visible()
    button.focus()
    assert tip.is_visible()
    shown.page.keyboard.press("Escape")
    assert not tip.is_visible()


def luminance(shown: Opened) -> float:
    color = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, color[4:-1].split(","))) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(opened: Open, unet: Callable[[], Path], scheme: str) -> None:
    shown = opened(unet, "--ratio", "0.4", color_scheme=scheme)
    assert (luminance(shown) > 128) == (scheme == "light")
    other = "dark" if scheme == "light" else "light"
    shown.page.locator(f"input[value={other}]").check()
    assert (luminance(shown) > 128) == (other == "light")
    shown.page.reload()
    shown.page.wait_for_selector(READY, state="attached")
    assert (luminance(shown) > 128) == (other == "light")  # it is remembered
    shown.page.locator("input[value=auto]").check()
    assert (luminance(shown) > 128) == (scheme == "light")
    assert shown.complaints == []


def test_chinese(opened: Open, unet: Callable[[], Path]) -> None:
    shown = opened(unet, "--ratio", "0.4", "--lang", "zh")
    assert shown.page.locator("html").get_attribute("lang") == "zh-CN"
    assert shown.texts("nav a") == ["网络", "各层", "误差", "计划", "生成方式"]
    shown.page.locator("#find").fill("conv")
    assert "个切片" in shown.texts("#found")[0]
    assert shown.complaints == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_fits_a_phone(opened: Open, unet: Callable[[], Path], language: str) -> None:
    shown = opened(unet, "--ratio", "0.4", "--lang", language, viewport=PHONE)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert len(shown.texts("table.network tbody tr")) == len(shown.report["parts"])


def test_keyboard_reaches_every_control(shown: Opened) -> None:
    """By Tab alone, from the top: the link to the content first, then all that can be operated, each with a mark."""
    page = shown.page
    reached: list[str] = []
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input[type=search], summary, pre")]
             .filter((e) => e.checkVisibility()).length"""
    )
    for _ in range(wanted + 1):  # the three radio buttons are one stop
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                     const e = document.activeElement;
                     const style = getComputedStyle(e.matches("[type=radio]") ? e.nextElementSibling : e);
                     return e.tagName + " " + (style.outlineStyle !== "none");
                   }"""
            )
        )
    assert reached[0] == "A true"
    assert [r for r in reached if not r.endswith("true")] == []
    assert {r.split()[0] for r in reached} >= {"A", "BUTTON", "INPUT", "SUMMARY", "PRE"}
    assert "BODY true" not in reached


def test_sorting_works_from_the_keyboard(shown: Opened) -> None:
    button = shown.page.locator("table.layers th", has_text="MACs").locator("button")
    button.focus()
    shown.page.keyboard.press("Enter")
    found = [int(c.get_attribute("data-v")) for c in shown.page.locator("table.layers td.w:nth-child(2)").all()]
    assert found == sorted((x["macs"]["before"] for x in shown.report["layers"]), reverse=True)


@pytest.mark.parametrize(("scheme", "language"), [("light", "en"), ("dark", "zh")])
@pytest.mark.parametrize("viewport", [TALL, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_violation(
    opened: Open, unet: Callable[[], Path], scheme: str, language: str, viewport: dict[str, int]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason='pip install ".[browser]"')
    shown = opened(unet, *with_data(unet()), "--lang", language, viewport=viewport, color_scheme=scheme)
    shown.page.locator("details summary").click()
    found = axe.Axe().run(shown.page)
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found.response["violations"]] == []


def test_samples_are_shown_where_there_is_data(opened: Open, unet: Callable[[], Path]) -> None:
    shown = opened(unet, *with_data(unet()), "--lang", "en")
    recovered = shown.report["learnt"]
    assert shown.page.locator("svg.dots circle.stay").count() == len(recovered["by_sample"]) == recovered["held_out"]
    worst = max(recovered["by_sample"], key=lambda s: s["final"])
    first = shown.texts("table[aria-labelledby=samples-h] tbody tr")[0]
    assert first.split()[0] == str(worst["sample"])
    assert f"{-10 * np.log10(worst['final']):.1f}" in first
    assert f"{recovered['final'][0]['snr_db']:.1f} dB" in shown.texts("[data-key=output]")[0]
    assert shown.complaints == []


@pytest.mark.parametrize(("language", "says"), [("en", "no model written"), ("zh", "未写出模型")])
def test_a_failed_gate_is_the_first_thing_to_see(
    opened: Open, unet: Callable[[], Path], language: str, says: str
) -> None:
    limits = ("--require", "macs<=0.01", "--require", "cycles<=1", "--min-snr", "-90")
    shown = opened(unet, "--ratio", "0.4", *limits, "--lang", language, code=1, viewport=PHONE)
    failed = [c for c in shown.report["checks"] if not c["passed"]]
    assert [c["name"] for c in failed] == ["--require macs<=0.01", "--require cycles<=1"]
    macs = shown.report["macs"]
    rows = shown.texts(".failed li")
    assert [r.startswith(c["name"]) for r, c in zip(rows, failed, strict=True)] == [True, True]
    assert f"{thousands(macs['before'])} -> {thousands(macs['after'])}" in rows[0]
    assert says in shown.texts("h1")[0]
    alert, first = (shown.page.locator(s).first.bounding_box() for s in ("[role=alert]", ".card"))
    assert alert["y"] + alert["height"] <= first["y"]
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert shown.complaints == []


def test_print_shows_reasons_and_the_whole_plan(shown: Opened) -> None:
    shown.page.emulate_media(media="print")
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not shown.page.locator("#find").is_visible()
    assert shown.page.locator("[role=tooltip]").first.is_visible()
    assert shown.page.locator("table.plan tbody tr").count() == len(shown.report["slices"])


@pytest.mark.parametrize(("language", "viewport"), [("en", TALL), ("zh", PHONE)], ids=["en", "zh"])
def test_a_comparison_opens_sorts_and_filters(
    opened: Open, unet: Callable[[], Path], tmp_path: Path, language: str, viewport: dict[str, int]
) -> None:
    small = tmp_path / "small.onnx"
    onnx.save(onnxprune.prune(unet(), ratio=0.4, check_n=0).model, small)
    shown = opened(lambda: Path("diff"), unet(), small, "--lang", language, viewport=viewport)
    page, found = shown.page, shown.report
    for key in ("parameters", "macs", "file_bytes"):
        assert f"{found[key]['before']} → {found[key]['after']}" in shown.texts(f"[data-key={key}]")[0]
    assert f"{found['outputs'][0]['snr_db']:.1f} dB" in shown.texts("[data-key=output]")[0]
    assert page.locator("svg.dots circle.stay").count() == len(found["by_sample"])
    changes = [len(found[k]) for k in ("resized", "removed", "added", "nodes", "changed", "revalued")]
    rows = page.locator("table.changes tbody tr")
    assert rows.count() == sum(changes)
    names = [r["weight"] for r in found["resized"]]
    assert shown.texts("table.changes tbody th .name:first-child")[: len(names)] == names
    page.locator("table.layers th button").nth(1).click()
    costs = [int(c.get_attribute("data-v")) for c in page.locator("table.layers td.w:nth-child(2)").all()]
    assert costs == sorted((x["macs"]["before"] for x in found["layers"]), reverse=True)
    page.locator("#find").fill("down2.0.conv")
    page.locator("#find").scroll_into_view_if_needed()
    assert 0 < rows.count() < sum(changes)
    assert all("down2.0.conv" in text for text in rows.all_text_contents())
    assert str(rows.count()) in shown.texts("#found")[0] if viewport == TALL else True
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason='pip install ".[browser]"')
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations] == []
    assert shown.complaints == []
