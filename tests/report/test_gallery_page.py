"""The gallery, failures, captions and tokens of a report in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from curation.execution.run import write_report
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from datasets_media import config_data, contents, worked, write_media, write_photo, write_vocabulary

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>\"'><svg onload=hack()>"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline, Ledger]:
    """A report over photos and videos, some of which fail; captions are hostile texts that came with them."""
    folder = tmp_path_factory.mktemp("gallery")
    media = write_media(folder / "in")
    write_photo(media / "<img src=x onerror=alert(1)>.jpg", 3)
    for path in [*media.glob("*.jpg"), *media.glob("*.mp4")]:
        path.with_suffix(".json").write_text(json.dumps({"caption": f"a picture of {HOSTILE}"}))
    data = config_data(
        media,
        folder / "out",
        write_vocabulary(folder / "v.tiktoken"),
        captions={"engine": "sidecar", "column": "caption"},
    )
    data["images"] = {"filters": ["resolution", "color"], "resolution": {"min_width": 64, "min_height": 64}}
    del data["tokens"], data["shards"]
    pipeline, ledger, _ = worked(data)
    return Path(write_report(pipeline, ledger)[1]), pipeline, ledger


@pytest.fixture
def page(browser: Browser, made: tuple[Path, Pipeline, Ledger]) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    page.goto(made[0].as_uri())
    yield page
    assert not faults
    assert page.evaluate("window.hacked") is None
    page.close()


def loaded(page: Page, selector: str) -> list[bool]:
    """Whether each of these pictures has pixels."""
    found: list[bool] = page.eval_on_selector_all(selector, "all => all.map(one => one.naturalWidth > 0)")
    return found


def test_every_recipe_has_pictures_which_open_what_is_known(page: Page) -> None:
    images = loaded(page, ".look img")
    assert len(images) > 20
    assert all(images)
    first = page.locator("#gallery .look", has_text="photo0.jpg").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    text = dialog.inner_text()
    for fact in ("photo0.jpg", "colorfulness", "96x80", "images.resolution", HOSTILE):
        assert fact in text
    assert all(loaded(page, "dialog[open] img"))
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate("document.activeElement.dataset.opens") == first.get_attribute("data-opens")


def test_a_clip_has_a_filmstrip_and_arrows_lead_to_the_next(page: Page) -> None:
    clips = page.locator("#gallery .looks-at:has([aria-label^='long.mp4'])").first.locator(".look")
    clips.first.click()
    assert page.locator("dialog[open] .large img").count() > 1
    before = page.locator("dialog[open]").get_attribute("id")
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog[open]").count() == 1
    assert (
        page.locator("dialog[open]").get_attribute("id") == clips.nth(1).get_attribute("data-opens") != before
    )
    page.locator("dialog[open] [data-closes]").click()
    assert page.locator("dialog[open]").count() == 0


def test_a_threshold_stands_between_what_it_rejects_and_what_it_lets_through(page: Page) -> None:
    border = page.get_by_role("group", name="images.resolution, min_width")
    below, above = border.locator(".side").all()
    assert "small.jpg" in below.inner_text()
    assert "30" in below.inner_text()
    assert "rejected here · 1 in all" in below.inner_text()
    assert "photo0.jpg" in above.inner_text()


def test_failures_stand_by_type_with_examples(page: Page) -> None:
    text = page.locator("#failures").inner_text()
    for shown in ("ProbeError", "DecodeError", "cut_off.jpg", "text.mp4", "empty.mp4"):
        assert shown in text


def test_captions_tell_what_repeats(page: Page) -> None:
    text = page.locator("#captions").inner_text()
    assert "a picture of" in text
    assert "100 %" in text


def test_a_phone_never_scrolls_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#gallery .look").first.click()
    assert page.evaluate("document.querySelector('dialog[open]').scrollWidth <= 390")


@pytest.mark.parametrize("width", [390, 1280])
def test_names_shares_and_options_are_shown_whole(page: Page, width: int) -> None:
    """Of a clip's name the end tells it from the video's other clips; `--` and `100` alone say nothing."""
    page.set_viewport_size({"width": width, "height": 800})
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".look .whose")]
            .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"""
    )
    assert cut == []
    broken = page.evaluate(
        """() => {
            const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
            const found = [];
            while (texts.nextNode()) {
                const text = texts.currentNode.data.trim();
                if (!/^[0-9.]+ %$|^curation run --retry-failed$/.test(text)) continue;
                const range = document.createRange();
                range.selectNodeContents(texts.currentNode);
                if (new Set([...range.getClientRects()].map((line) => line.top)).size > 1) found.push(text);
            }
            return found;
        }"""
    )
    assert broken == []


def test_a_report_that_is_written_again_changes_no_file(made: tuple[Path, Pipeline, Ledger]) -> None:
    place, pipeline, ledger = made
    before = contents(place.parent.parent)
    write_report(pipeline, ledger)
    assert contents(place.parent.parent) == before


def test_the_page_is_rendered_anew_without_media(made: tuple[Path, Pipeline, Ledger], tmp_path: Path) -> None:
    place, pipeline, ledger = made
    media = Path(pipeline.config.general.input[0])
    before = place.read_bytes()
    media.rename(tmp_path / "away")
    try:
        place.unlink()
        write_report(pipeline, ledger)
    finally:
        (tmp_path / "away").rename(media)
    assert place.read_bytes() == before
