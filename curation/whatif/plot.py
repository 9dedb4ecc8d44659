"""A plot of a sweep: what each point keeps, by Vega-Lite, as SVG, PNG or a page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curation.ledger.columns import OUTCOMES
from curation.records import Outcome
from curation.whatif.axes import Value
from curation.whatif.sweep import PointYield, Sweep

SUFFIXES = (".html", ".svg", ".png")
_COLORS = {
    Outcome.KEPT: "#0072b2",
    Outcome.REJECTED: "#d55e00",
    Outcome.FAILED: "#000000",
    Outcome.PENDING: "#999999",
}
"""Apart for every kind of color blindness (Okabe and Ito, 2008)."""


def draw(found: Sweep, suffix: str) -> bytes:
    """The plot as a file of this kind."""
    import vl_convert

    spec = plot_of(found)
    if suffix == ".html":
        page: str = vl_convert.vegalite_to_html(spec, bundle=True)
        return page.encode()
    if suffix == ".svg":
        picture: str = vl_convert.vegalite_to_svg(spec)
        return picture.encode()
    pixels: bytes = vl_convert.vegalite_to_png(spec, scale=2)
    return pixels


def plot_of(found: Sweep) -> dict[str, Any]:
    """The Vega-Lite description: outcomes over the first threshold, a panel per kind and other thresholds.

    A vertical rule shows the present setting.
    """
    first, *others = found.axes
    is_number = all(value is not None for value in first.values)
    x: dict[str, Any] = {
        "field": "value",
        "type": "quantitative" if is_number else "ordinal",
        "title": first.key,
        "sort": None,
    }
    if is_number:
        x["scale"] = {"zero": False}
    color = {
        "field": "outcome",
        "type": "nominal",
        "scale": {
            "domain": [str(outcome) for outcome in OUTCOMES],
            "range": [_COLORS[one] for one in OUTCOMES],
        },
    }
    y = {"field": "number", "type": "quantitative", "title": "samples"}
    line = {
        "transform": [{"filter": "!datum.present"}],
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {"x": x, "y": y, "color": color},
    }
    rule = {
        "transform": [{"filter": "datum.present"}],
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"x": x},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": f"Outcomes by {' and '.join(axis.key for axis in found.axes)}",
        "data": {"values": list(_values(found))},
        "facet": {"field": "panel", "type": "nominal", "title": None, "sort": None},
        "columns": 2 if len(others) or len(found.present.outcomes) > 1 else 1,
        "spec": {"width": 320, "height": 220, "layer": [line, rule]},
        "resolve": {"scale": {"y": "independent"}},
    }


def _values(found: Sweep) -> Iterator[dict[str, Any]]:
    present = found.present.point
    for at in found.points:
        for kind, counts in at.outcomes.items():
            for outcome in OUTCOMES:
                yield {
                    "panel": _panel(found, at, kind),
                    "value": "off" if at.point[0] is None else at.point[0],
                    "outcome": str(outcome),
                    "number": counts[outcome],
                }
    if present[0] is not None:
        for panel in dict.fromkeys(_panel(found, at, kind) for at in found.points for kind in at.outcomes):
            yield {"panel": panel, "value": present[0], "present": True}


def _panel(found: Sweep, at: PointYield, kind: str) -> str:
    others = zip([axis.key for axis in found.axes[1:]], at.point[1:], strict=True)
    return ", ".join([kind, *(f"{key} {_shown(value)}" for key, value in others)])


def _shown(value: Value) -> str:
    return "off" if value is None else str(value)
