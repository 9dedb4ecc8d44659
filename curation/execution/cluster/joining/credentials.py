"""Gives workers on a cluster the variables by which this process reaches buckets and the hub.

Workers get the environment of their node, not of the run that asks for them. A run that joins a cluster by
its address hands them its own; in a job, they get what the job's runtime environment says and no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from curation.execution.cluster.joining.jobs import in_job

_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "CURATION_STORAGE_")
_NAMES = ("HF_TOKEN", "HF_ENDPOINT")
_OF_THIS_MACHINE = ("AWS_CONTAINER_", "AWS_EXECUTION_ENV")
"""Valid nowhere else: each machine has its own."""


def environment_hook() -> Callable[[], None] | None:
    """A function that sets our variables, for workers to call as they start; None if there is nothing to do.

    Ray's own way, `env_vars`, would show them in the record of the job, its dashboard and its logs.
    """
    given = {
        name: value
        for name, value in os.environ.items()
        if name in _NAMES or (name.startswith(_PREFIXES) and not name.startswith(_OF_THIS_MACHINE))
    }
    if not given or in_job():
        return None

    # Nested, so that it travels by value, with the variables in it.
    def set_environment() -> None:
        import os

        if "AWS_ACCESS_KEY_ID" in given:
            os.environ.pop("AWS_SESSION_TOKEN", None)  # the node's would belong to another key
        os.environ.update(given)

    return set_environment
