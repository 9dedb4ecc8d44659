"""A run inside of a job, as `ray job submit` starts it: on the cluster, in a folder that Ray removes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from curation.errors import ConfigError

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable by which Ray tells a job what it is."""


def in_job() -> bool:
    """Whether this process was started as a job of a Ray cluster."""
    return bool(os.environ.get(_JOB))


def check_output_lasts(output: str) -> None:
    """Make sure that what a job writes is not written to the job's own folder, which Ray removes.

    Raises:
        ConfigError: it would be.
    """
    if not in_job() or ("://" in output and not output.startswith("file://")):
        return
    folder = Path(output.removeprefix("file://"))
    if not folder.is_absolute():
        raise ConfigError(
            f"{output} would lie in the job's working directory, which Ray removes; name a bucket, "
            "or a folder from / on that every node sees"
        )
    if _has_working_dir() and folder.resolve().is_relative_to(Path.cwd()):
        raise ConfigError(
            f"{output} lies in the job's working directory, which Ray removes; name a bucket, or "
            "another folder that every node sees"
        )


def _has_working_dir() -> bool:
    """Whether Ray made the working directory for this job."""
    try:
        settings = json.loads(os.environ[_JOB])
    except ValueError:
        return False
    return bool((settings.get("runtime_env") or {}).get("working_dir"))
