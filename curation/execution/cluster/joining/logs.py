"""What workers print, and what Ray prints about them.

Ray writes both to this process's standard output, in colors, also where nobody asked for the former. Here
they go to one function, or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

WorkerLog = Callable[[str, str], None]
"""Gets the name of a worker and a line that it printed."""


def forward_worker_logs(worker_log: WorkerLog | None) -> None:
    """Give what workers print to `worker_log`; None: to nobody.

    Ray has no option for it. Where a later Ray names its function otherwise, it prints by itself as before.
    """
    from ray._private import worker

    def print_lines(data: Mapping[str, Any], *_: object, **__: object) -> None:
        if worker_log is not None:
            name = _name_of(data)
            for line in data.get("lines", ()):
                worker_log(name, line.rstrip())

    worker.print_worker_logs = print_lines


def _name_of(data: Mapping[str, Any]) -> str:
    """Such as `Worker pid=4711, ip=10.0.0.2`."""
    what = data.get("actor_name") or data.get("task_name")
    process = f"pid={data.get('pid')}" if str(data.get("pid")).isdigit() else str(data.get("pid"))
    where = f", ip={data['ip']}" if data.get("ip") and data["ip"] != data.get("localhost") else ""
    return f"{what} {process}{where}" if what else f"{process}{where}"
