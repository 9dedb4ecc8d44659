"""The report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.pipeline.rules import describe_rule
from curation.report.page.facts import Facts
from curation.report.page.headline import headlines
from curation.report.page.html import render
from curation.report.page.sections import (
    captions,
    changes,
    failures,
    funnel,
    gallery,
    listing,
    scores,
    setup,
    tokens,
    work,
)
from curation.report.page.vega import vega_script
from curation.report.summary.decided import decided_otherwise
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.summary import Summary

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What the page may load: nothing. Of scripts it runs those whose hashes are added."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        name: Of its template and styles in `sections/`, and its anchor in the page.
        title: Its heading.
        fill: Gives the values of its template; None leaves the section out.
    """

    name: str
    title: str
    fill: Callable[[Facts], dict[str, Any] | None]


SECTIONS = (
    Section("funnel", "Funnel", funnel.fill),
    Section("scores", "Scores and thresholds", scores.fill),
    Section("gallery", "Samples", gallery.fill),
    Section("failures", "Failures", failures.fill),
    Section("listing", "Listing", listing.fill),
    Section("captions", "Captions", captions.fill),
    Section("tokens", "Tokens", tokens.fill),
    Section("work", "Last work", work.fill),
    Section("changes", "Since the run before", changes.fill),
    Section("setup", "Models", setup.fill),
)


@dataclass(frozen=True)
class RenderedSection:
    """A section as the frame shows it; its content is HTML in which all data is escaped."""

    name: str
    title: str
    content: str


def render_page(ledger: Ledger, pipeline: Pipeline, summary: Summary, run: dict[str, Any]) -> str:
    """The page. Everything that comes from data is escaped."""
    facts = Facts(ledger, pipeline, summary, run)
    scripts = _scripts()
    return render(
        "page.html.j2",
        name=pipeline.config.general.name,
        notice=untrained_notice(pipeline),
        decided_otherwise=decided_otherwise(ledger.storage, pipeline.config),
        branches=[(f"{kind}s", describe_rule(branch.rule)) for kind, branch in pipeline.branches.items()],
        sections=[rendered for section in SECTIONS if (rendered := _rendered(section, facts))],
        headlines=headlines(facts),
        policy=_policy(scripts),
        scripts=scripts,
        style=_styles(),
    )


def _rendered(section: Section, facts: Facts) -> RenderedSection | None:
    values = section.fill(facts)
    if values is None:
        return None
    content = render(f"sections/{section.name}.html.j2", **values)
    return RenderedSection(section.name, section.title, content)


def _policy(scripts: Sequence[str]) -> str:
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return f"{_POLICY}; script-src {' '.join(hashes)}"


def _scripts() -> list[str]:
    """Charts, the frame's script, then those of the sections."""
    folder = files("curation.report.page")
    own = [folder / "sections" / f"{section.name}.js" for section in SECTIONS]
    scripts = (folder / "page.js", *own)
    return [vega_script(), *(script.read_text("utf-8") for script in scripts if script.is_file())]


def _styles() -> str:
    """The styles of the frame, then those of the sections."""
    folder = files("curation.report.page")
    own = [folder / "sections" / f"{section.name}.css" for section in SECTIONS]
    return "\n".join(sheet.read_text("utf-8") for sheet in (folder / "page.css", *own) if sheet.is_file())
