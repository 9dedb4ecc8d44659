"""Vega-Lite for pages without a network: the library as one script, and charts as data.

Bundling takes about two CPU seconds, so the script is kept in the cache folder of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from curation.pipeline.model_files import cache_folder
from curation.report.summary.histogram import Histogram

NUM_BARS = 40
CHART_HEIGHT_PX = 130
STEP_HEIGHT_PX = 22
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
"""What a page needs of the bundle: `vegaEmbed(element, chart, options)`."""
_NUMBER = ".4~r"
"""Four digits at most, without an exponent."""
_STYLE: Mapping[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "#8888",
        "gridOpacity": 0.35,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelOverlap": True,
    },
}


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, safe inside of a script element."""
    kept = cache_folder() / "pages" / f"vega-embed-{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return kept.read_text("utf-8")
    import vl_convert

    script: str = _inlined(vl_convert.javascript_bundle(snippet=_SNIPPET))
    with contextlib.suppress(OSError):  # a home that can't be written to: bundled again next time
        _keep(kept, script)
    return script


def _inlined(script: str) -> str:
    """A script in which nothing ends or disturbs the script element around it."""
    script = script.replace("\r\n", "\n").replace("</script", "<\\/script")
    return script.replace("<!--", "<\\!--")


def _keep(path: Path, text: str) -> None:
    """Write a file that other processes see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def in_script(data: Any) -> str:
    """Data as JSON that no text in it can end the script element that holds it."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def histogram_chart(
    title: str, histogram: Histogram, limits: Mapping[str, float | None], *, whole: bool = False
) -> dict[str, Any]:
    """Bars of a column's values, and a line per threshold.

    Args:
        title: Of the value axis.
        histogram: The values.
        limits: Threshold -> where it stands. A signal of that name moves its line; null takes the line away.
        whole: Whether values are whole numbers, and nothing between them is named at the axis.
    """
    known = [value for value in limits.values() if value is not None]
    low, high = min([histogram.low, *known]), max([histogram.high, *known])
    high = high if high > low else low + 1.0
    width = (high - low) / NUM_BARS
    counts = histogram.bars(NUM_BARS, low, high)
    bars = [
        {"low": low + place * width, "high": low + (place + 1) * width, "samples": int(count)}
        for place, count in enumerate(counts)
    ]
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "height": CHART_HEIGHT_PX,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _STYLE,
        "params": [{"name": name, "value": value} for name, value in limits.items()],
        "layer": [
            _bars(title, bars, int(counts.max()), 1 if whole else 0),
            *(_line(name, low) for name in limits),
        ],
    }


def _bars(title: str, bars: Sequence[Mapping[str, Any]], top: int, min_step: int) -> dict[str, Any]:
    number = {"type": "quantitative", "format": _NUMBER}
    ticks: dict[str, Any] = (
        {"values": list(range(top + 1)), "format": "d"} if top < 4 else {"tickCount": 4, "format": "~s"}
    )
    return {
        "data": {"values": bars},
        "mark": {"type": "bar", "color": "#4a7fb5", "binSpacing": 1},
        "encoding": {
            "x": {
                "field": "low",
                "bin": {"binned": True},
                "type": "quantitative",
                "title": title,
                "scale": {"zero": False, "nice": False},
                "axis": {"tickCount": 6, "tickMinStep": min_step, "grid": False, "format": _NUMBER},
            },
            "x2": {"field": "high"},
            "y": {
                "field": "samples",
                "type": "quantitative",
                "title": "samples",
                "axis": ticks,
            },
            "tooltip": [
                {"field": "low", "title": "from", **number},
                {"field": "high", "title": "to", **number},
                {"field": "samples", "title": "samples", "type": "quantitative", "format": ","},
            ],
        },
    }


def _line(name: str, anywhere: float) -> dict[str, Any]:
    """A line where a threshold stands; one that is off is unseen and stands anywhere on the axis."""
    return {
        "data": {"values": [{}]},
        "transform": [{"calculate": f"isValid({name}) ? {name} : {anywhere!r}", "as": "at"}],
        "mark": {
            "type": "rule",
            "color": "#b3261e",
            "strokeWidth": 2,
            "strokeDash": [5, 3],
            "opacity": {"expr": f"isValid({name}) ? 1 : 0"},
        },
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }


def funnel_chart(rows: Sequence[Mapping[str, Any]], colors: Mapping[str, str]) -> dict[str, Any]:
    """A stacked bar per step.

    Args:
        rows: `step`, `outcome` and `number`, in order of the steps.
        colors: Outcome -> its color, in the order of the stack.
    """
    steps = list(dict.fromkeys(row["step"] for row in rows))
    order = {outcome: place for place, outcome in enumerate(colors)}
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "height": STEP_HEIGHT_PX * len(steps),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _STYLE,
        "data": {"values": [{**row, "order": order[row["outcome"]]} for row in rows]},
        "mark": {"type": "bar", "height": {"band": 0.72}},
        "encoding": {
            "y": {
                "field": "step",
                "type": "nominal",
                "sort": steps,
                "title": None,
                "axis": {"labelLimit": 150, "ticks": False, "domain": False, "labelPadding": 6},
            },
            "x": {
                "field": "number",
                "type": "quantitative",
                "stack": True,
                "title": "sources and samples",
                "axis": {"tickCount": 5, "format": "~s", "tickMinStep": 1},
            },
            "color": {
                "field": "outcome",
                "type": "nominal",
                "scale": {"domain": list(colors), "range": list(colors.values())},
                "legend": None,
            },
            "order": {"field": "order"},
            "tooltip": [
                {"field": "step", "type": "nominal"},
                {"field": "outcome", "type": "nominal"},
                {"field": "number", "type": "quantitative", "format": ","},
            ],
        },
    }
