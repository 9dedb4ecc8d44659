"""Samples with their pictures, names, values and outcomes on one sheet: a PNG, or a page by itself."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from curation.records import Outcome
from curation.report.page.html import render
from curation.whatif.drawn import DrawnSample, said_values

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 5
_CELL = (256, 256)
"""Pixels of a cell, its lines of text included."""
_PICTURE = (240, 180)
_LINE_PX = 17
_FONT_PX = 13
_MAX_LETTERS = 36
_COLORS = {
    Outcome.KEPT: "#0072b2",
    Outcome.REJECTED: "#b34700",
    Outcome.FAILED: "#000000",
    Outcome.PENDING: "#666666",
}

Pictures = Mapping[str, Sequence[bytes]]
"""Sample id -> its pictures as JPEG files; of a clip several."""


def sheet_html(title: str, drawn: Sequence[DrawnSample], pictures: Pictures, notice: str | None) -> str:
    """The page; all that comes from data is escaped."""
    cells = [
        {
            "pictures": [base64.b64encode(one).decode() for one in pictures.get(found.sample.sample_id, ())],
            "sample_id": found.sample.sample_id,
            "lines": _lines(found),
            "outcome": str(found.outcome),
            "uri": found.uri,
        }
        for found in drawn
    ]
    return render("sheet.html.j2", title=title, cells=cells, notice=notice)


def sheet_png(title: str, drawn: Sequence[DrawnSample], pictures: Pictures) -> bytes:
    """The sheet as one picture; of a clip its middle frame."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = _CELL
    num_rows = max(1, -(-len(drawn) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * width + 8, num_rows * height + 40), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    draw.text((8, 10), title, fill="black", font=font)
    for place, found in enumerate(drawn):
        row, column = divmod(place, COLUMNS)
        left, top = 8 + column * width, 40 + row * height
        frames = pictures.get(found.sample.sample_id, ())
        picture = _fitted(frames[len(frames) // 2]) if frames else None
        if picture is None:
            draw.rectangle((left, top, left + _PICTURE[0], top + _PICTURE[1]), fill="#dddddd")
            draw.text((left + 8, top + 8), "no picture", fill="black", font=font)
        else:
            sheet.paste(picture, (left, top))
        for number, (line, fill) in enumerate(_colored_lines(found)):
            at = (left, top + _PICTURE[1] + 4 + number * _LINE_PX)
            draw.text(at, line, fill=fill, font=font)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _fitted(data: bytes) -> Image:
    """A picture that this program has made, at most as large as a cell's."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.thumbnail(_PICTURE)
    return picture


def _lines(found: DrawnSample) -> list[str]:
    """Name, outcome with reason, values."""
    sample = found.sample
    span = f" {sample.start_s:.1f}-{sample.end_s:.1f} s" if sample.kind == "clip" else ""
    by = f" by {found.reason}" if found.reason else ""
    return [f"{PurePosixPath(found.uri).name}{span}", f"{found.outcome}{by}", said_values(found)]


def _colored_lines(found: DrawnSample) -> list[tuple[str, str]]:
    """The lines below a picture with their colors, four at most: the reason may take two."""
    name, outcome, values = _lines(found)
    return [
        *((line, "black") for line in _wrapped(name, 1)),
        *((line, _COLORS[found.outcome]) for line in _wrapped(outcome, 2)),
        *((line, "black") for line in _wrapped(values, 1)),
    ]


def _wrapped(text: str, max_lines: int) -> list[str]:
    """A text in lines of a cell; what goes beyond them is cut off, and shown to be."""
    lines = textwrap.wrap(text, _MAX_LETTERS, break_on_hyphens=False)
    if len(lines) > max_lines:
        lines[max_lines - 1 :] = [f"{lines[max_lines - 1][: _MAX_LETTERS - 1]}…"]
    return lines
