"""The report's page in a real browser: sliders against Python's own rules, layout, escaping, keyboard."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from curation.execution.run import write_report
from curation.ledger import Ledger
from curation.ledger.columns import NONE, OUTCOMES
from curation.ledger.unit_state import RecomputePolicy
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import Row, Sample, Source, stable_id
from curation.report.page.steering import Slider, sliders_of
from curation.report.summary.summary import summarize
from curation.storage import open_storage
from curation.whatif.axes import parse_axes
from curation.whatif.sweep import sweep
from datasets_media import ROOT, built, config_data, write_vocabulary
from random_ledgers import a_value, random_ledger

LOUD = ("error", "warning")
"""Kinds of messages in a page's console that a good page has none of."""
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


def config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    data = config_data(media, tmp_path / "out", write_vocabulary(tmp_path / "v.tiktoken"), **changes)
    return {name: value for name, value in data.items() if value is not None}


def page_of(ledger: Ledger, pipeline: Pipeline) -> Path:
    """The report as a file."""
    return Path(write_report(pipeline, ledger)[1])


@dataclass
class Opened:
    """A page in the browser, with what it asked for and what went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


Show = Callable[..., Opened]


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens pages, and waits until their charts are drawn."""
    pages = []

    def open_page(path: Path, width: int = 1280) -> Opened:
        found = Opened(browser.new_page(viewport={"width": width, "height": 900}))
        pages.append(found.page)
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.faults.append(str(error)))
        found.page.on("console", lambda said: said.type in LOUD and found.faults.append(said.text))
        found.page.goto(path.as_uri())
        try:
            found.page.wait_for_selector("html[data-ready=true]", state="attached", timeout=60_000)
        except PlaywrightTimeout:
            pytest.fail(f"the page is not ready: {found.faults}")
        return found

    yield open_page
    for page in pages:
        page.close()


def move(page: Page, slider: Slider, value: float | None) -> None:
    """Bring a slider to a value, or switch its threshold off, as a hand would."""
    page.evaluate(
        """([key, place]) => {
            const box = document.querySelector(`[data-threshold="${CSS.escape(key)}"]`);
            const off = box.querySelector("input[type=checkbox]");
            const range = box.querySelector("input[type=range]");
            if (off && off.checked !== (place === null)) off.click();
            if (place !== null) { range.value = place; range.dispatchEvent(new Event("input")); }
        }""",
        [slider.key, None if value is None else slider.stops.index(value)],
    )


def shown(page: Page, kind: str) -> tuple[dict[str, int], dict[str, int]]:
    """Outcome -> samples, and step -> samples that it would have to measure, as the page says."""
    panel = page.locator(f"#steer-{kind}")
    totals = {
        box.get_attribute("data-outcome") or "": number_in(box.locator("b").inner_text())
        for box in panel.locator("[data-outcome]").all()
    }
    waiting = panel.locator(".waiting").inner_text().partition(": ")[2]
    found = [part.split(" by ") for part in waiting.split(", ")] if waiting else []
    said = {key: number_in(number) for number, key in found}
    in_table = {
        row.get_attribute("data-step") or "": number_in(
            row.locator('[data-ended="pending"] b').text_content() or "0"
        )
        for row in panel.locator("[data-step]").all()
    }
    assert {key: number for key, number in in_table.items() if number} == said
    return totals, said


def number_in(text: str) -> int:
    return int(text.replace(",", ""))


def truth(
    ledger: Ledger, pipeline: Pipeline, kind: str, recompute: RecomputePolicy | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """The same from the rules that runs follow."""
    totals, waiting = Counter[str](), Counter[str]()
    for group in verdict_groups(ledger, pipeline, recompute=recompute or RecomputePolicy()):
        verdicts = group.leaves[kind].verdicts
        for code, outcome in enumerate(OUTCOMES):
            totals[outcome.value] += int((verdicts.outcome == code).sum())
        for code in verdicts.needs[verdicts.needs != NONE]:
            waiting[group.steps[code].key] += 1
    return dict(totals), dict(+waiting)


def changed(data: dict[str, Any], values: dict[str, float | None]) -> Pipeline:
    """The pipeline of a configuration in which thresholds stand elsewhere."""
    sections = {name: dict(value) for name, value in data.items() if name in ("images", "videos")}
    for key, value in values.items():
        kind, stage, name = key.split(".")
        sections[kind][stage] = {**sections[kind].get(stage, {}), name: value}
    return built(data | sections)[1]


def as_flags(page: Page) -> dict[str, str]:
    said = page.locator("#as-flags").text_content() or ""
    return dict(part.strip().split("=") for part in said.split("--set ") if part.strip())


@pytest.mark.parametrize("seed", [4, 5])
def test_sliders_give_what_runs_would_decide(show: Show, tmp_path: Path, seed: int) -> None:
    """Several thresholds moved at once, some off, on every kind of rule and row."""
    data = config(tmp_path)
    pipeline, draw = built(data)[1], random.Random(seed)
    ledger = random_ledger(pipeline, tmp_path / "out", seed, contradictions=False)
    opened = show(page_of(ledger, pipeline))
    page = opened.page
    joints = summarize(ledger, pipeline).joints
    outcomes = set()
    for kind, joint in joints.items():
        sliders = sliders_of(pipeline, kind, joint)
        assert len(sliders) >= 3
        assert shown(page, kind) == truth(ledger, pipeline, kind)
        for _ in range(8):
            values = {
                slider.key: draw.choice([*slider.stops, *([None] if slider.can_be_off else [])])
                for slider in sliders
            }
            for slider in sliders:
                move(page, slider, values[slider.key])
            expected = truth(ledger, changed(data, values), kind)
            assert shown(page, kind) == expected, values
            outcomes.add(tuple(expected[0].values()))
            moved = {one.key: values[one.key] for one in sliders if values[one.key] != one.value}
            flags = {key: None if value == "null" else float(value) for key, value in as_flags(page).items()}
            assert flags == moved
        page.locator("#reset-all").click()
        assert shown(page, kind) == truth(ledger, pipeline, kind)
    assert len(outcomes) > 5
    assert opened.faults == []


def test_every_stop_alone_is_exact(show: Show, tmp_path: Path) -> None:
    """Scores spread out, so that sliders have many stops and bins many samples."""
    data = config(tmp_path, videos=None)
    pipeline = built(data)[1]
    ledger = spread_ledger(pipeline, tmp_path / "out")
    page = show(page_of(ledger, pipeline)).page
    joint = summarize(ledger, pipeline).joints["image"]
    (slider,) = (one for one in sliders_of(pipeline, "image", joint) if one.column == "aesthetic_score")
    assert len(slider.stops) > 12
    stops = slider.stops[::2]
    axes = parse_axes([f"{slider.key}={','.join(map(str, stops))}"], pipeline)
    seen = set()
    for stop, at in zip(stops, sweep(ledger, pipeline, axes).points, strict=True):
        move(page, slider, stop)
        found = shown(page, "image")
        assert found == truth(ledger, changed(data, {slider.key: stop}), "image")
        assert found[0] == {outcome.value: at.outcomes["images"][outcome] for outcome in OUTCOMES}
        seen.add(tuple(found[0].values()))
    assert len(seen) > 5


def spread_ledger(pipeline: Pipeline, folder: Path) -> Ledger:
    """300 images with scores all over the range."""
    draw = random.Random(1)
    ledger = Ledger(open_storage(str(folder)))
    sources = [
        Source(source_id=stable_id(f"s{place}"), uri=f"{place}.jpg", kind="image", size_bytes=1, etag="e")
        for place in range(300)
    ]
    ledger.commit_sources(0, sources)
    for step in pipeline.steps():
        if step.key.startswith("images."):
            rows = [Row(Sample.of_image(source).sample_id, spread_values(draw, step)) for source in sources]
            ledger.commit(step.name, step.fingerprint, 0, rows, step.stage.columns)
    return ledger


def spread_values(draw: random.Random, step: Step) -> dict[str, Any]:
    found = {name: a_value(draw, column.type) for name, column in step.stage.columns.items()}
    for name in {mark.column for mark in step.stage.thresholds().values()}:
        value = draw.gammavariate(4, 40 if name in ("width", "height") else 2)
        found[name] = pa.scalar(value).cast(step.stage.columns[name].type, safe=False).as_py()
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A page with a hostile name and a hostile error."""
    pipeline = built(config(tmp_path))[1]
    ledger = random_ledger(pipeline, tmp_path / "out", 6, contradictions=False)
    hostile = Source(
        source_id=stable_id("hostile"),
        uri=HOSTILE,
        kind="image",
        size_bytes=1,
        etag="e",
        error_type="ProbeError",
        error=HOSTILE,
    )
    ledger.commit_sources(7, [hostile])
    return page_of(ledger, pipeline)


def test_dataset_wide_step_waits_when_a_threshold_before_it_moves(show: Show, tmp_path: Path) -> None:
    images = config(tmp_path)["images"]
    rule = ["resolution", "aesthetic", "phash", "duplicates"]
    own = {key: value for key, value in images.items() if key in ("resolution", "aesthetic")}
    data = config(tmp_path, videos=None, images={"filters": rule, **own})
    pipeline = built(data)[1]
    ledger = spread_ledger(pipeline, tmp_path / "out")
    page = show(page_of(ledger, pipeline)).page
    sliders = {
        one.key: one for one in sliders_of(pipeline, "image", summarize(ledger, pipeline).joints["image"])
    }
    slider = sliders["images.aesthetic.min_score"]
    value = slider.stops[0]
    assert value != slider.value
    move(page, slider, value)
    anew = RecomputePolicy(frozenset({"duplicates"}), only_failed=False)
    expected = truth(ledger, changed(data, {slider.key: value}), "image", anew)
    assert expected[1]["images.duplicates"] > 0
    assert shown(page, "image") == expected


def test_keyboard_moves_marks_and_resets(show: Show, small: Path) -> None:
    page = show(small).page
    key = "images.aesthetic.min_score"
    box = page.locator(f'[data-threshold="{key}"]')
    slider, line = (
        box.locator("input[type=range]"),
        f'.tile:has([data-threshold="{key}"]) .mark-rule line[stroke="#b3261e"]',
    )
    before, stood = slider.input_value(), page.locator(line).evaluate("(line) => line.outerHTML")
    assert page.locator("#settings").is_hidden()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert int(slider.input_value()) == int(before) - 1
    value = box.locator("output").inner_text()
    assert slider.get_attribute("aria-valuetext") == value
    page.locator("#steer-image").get_by_text("How to use these settings").click()
    assert page.locator("#as-flags").is_visible()
    assert page.locator("#as-flags").text_content() == f"--set {key}={value}"
    assert page.locator("#as-yaml").text_content() == f"images:\n  aesthetic:\n    min_score: {value}"
    page.wait_for_function(
        "([where, stood]) => document.querySelector(where).outerHTML !== stood", arg=[line, stood]
    )
    assert box.locator(".present").inner_text() == "now 9.9"
    slider.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert slider.input_value() == before
    assert not page.get_by_text("How to use these settings").first.is_visible()
    assert page.locator("#settings").is_hidden()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_off_the_screen(show: Show, small: Path, width: int) -> None:
    page = show(small, width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((one) => !one.closest(".scroll, svg, [hidden], section > table"))
            .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_tables_fit_a_phone(show: Show, small: Path) -> None:
    page = show(small, 390).page
    for closed in page.locator("details:not([open]) > summary").all():
        if closed.is_visible():
            closed.click()
    wider = page.evaluate(
        """() => [...document.querySelectorAll(".scroll")]
            .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.ariaLabel)"""
    )
    assert wider == []


def test_hostile_names_are_text_and_nothing_is_requested(show: Show, small: Path) -> None:
    opened = show(small)
    page = opened.page
    assert page.evaluate("window.hacked") is None
    assert HOSTILE in (page.locator("#failures").text_content() or "")
    others = [url for url in opened.requests if not url.startswith(("data:", small.as_uri()))]
    assert others == []
    assert opened.faults == []
    blocked = page.evaluate(
        """() => fetch("http://127.0.0.1:1/").then(() => "sent", (error) => error.name)"""
    )
    assert blocked == "TypeError"


def test_notice_of_stand_ins_is_first_also_in_print(show: Show, small: Path) -> None:
    page = show(small).page
    page.emulate_media(media="print")
    assert page.locator("main > *").first.inner_text().startswith("UNTRAINED stand-in models")
    assert page.locator("input[type=range]:visible").count() == 0
    assert page.pdf().startswith(b"%PDF")


def test_print_shows_every_sample_and_whole_charts(show: Show, small: Path) -> None:
    page = show(small).page  # charts are drawn for the screen
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within margins: 190 mm at 96 dpi
    looks = page.locator("main section button.look")
    assert looks.count() > 0
    assert page.locator("main section button.look:visible").count() == looks.count()
    assert page.locator("button:visible:not(.look)").count() == 0
    cut = page.evaluate(
        """() => [...document.querySelectorAll("[data-chart]")].filter((box) =>
            box.querySelector("svg").getBoundingClientRect().right > box.getBoundingClientRect().right + 1)
            .map((box) => box.dataset.chart)"""
    )
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth") == 718


def colors_of(style: str) -> Iterator[dict[str, str]]:
    """The variables of the light theme, and of the dark one."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block)) for block in blocks[:2])
    yield light
    yield light | dark


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("ink", ["ink", "soft", "accent", "failed-ink", "kept-ink"])
def test_text_has_the_contrast_of_wcag_aa(ink: str) -> None:
    for colors in colors_of((ROOT / "curation/report/page/page.css").read_text()):
        for back in ("paper", "card"):
            low, high = sorted(luminance(colors[name]) for name in (ink, back))
            assert (high + 0.05) / (low + 0.05) >= 4.5
