"""How pages are rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def html_environment() -> Environment:
    """The templates of this package. All data is escaped, and every name must be known."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("curation.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "short": short}
    return environment


def render(template: str, **values: Any) -> str:
    """The text of a template, named by its path in this package."""
    return html_environment().get_template(template).render(values)


def number(value: int) -> str:
    """A count with separators: 1,234,567."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """A share: 88 %, below ten with a decimal; nothing of nothing."""
    if not whole:
        return ""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %"


def short(value: float) -> str:
    """A measured number in at most four digits: 0.02345, 5.5, 1920."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
