"""Where a run says that its numbers are served."""

from __future__ import annotations

from curation.execution.driver.exported import served_by


def test_address_is_named_only_where_an_agent_serves_it() -> None:
    """Ray without `ray[default]` has no agent: its own record of the node then has port -1."""
    node = {"NodeManagerAddress": "192.0.2.2", "MetricsExportPort": 44217}
    assert served_by(node) == "http://192.0.2.2:44217/metrics"
    assert served_by({**node, "MetricsExportPort": -1}) is None
    assert served_by({}) is None
