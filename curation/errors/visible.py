"""Text that comes from data, such as a name or an error, as a terminal or a page may show it."""

from __future__ import annotations

_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in ("\n", "\t")
}
# Those that turn the direction of all that follows, so that `gnp.exe` reads as `exe.png`; the marks within
# Arabic and Hebrew words stay.
_TURNS = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_SPELLED = _CONTROLS | _TURNS


def visible(text: str) -> str:
    """`text` with control characters spelled out, such as the escape that would color a terminal."""
    return text.translate(_SPELLED)


def on_one_line(text: str) -> str:
    """`visible`, with line breaks spelled out too, as a name may hold them."""
    return visible(text).replace("\n", "\\n")


def spelled(text: str) -> str:
    r"""`text` as it can be stored: half of a surrogate pair, which is no character, stands as \udc80."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
