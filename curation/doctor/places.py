"""Models, inputs, output and clock of a configuration."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from curation.config import Config
from curation.doctor.finding import Finding
from curation.errors import ConfigError, EnvironmentFault, StorageError
from curation.errors.redaction import redact
from curation.pipeline.fetching import refs_by_place
from curation.pipeline.models import check_package, check_reachable, resolve_revision
from curation.storage import open_storage
from curation.storage.access import check_input, check_output, clock_of
from curation.storage.hub.place import is_on_hub
from curation.storage.local import named_errors

MAX_SKEW_S = 5.0
"""Leases of two runs in one output are compared by time; so much apart does no harm."""


def check_models(config: Config) -> Iterator[Finding]:
    """Whether the weights and vocabularies of a configuration can be had, each once."""
    yield from _missing_packages(config)
    refs = dict.fromkeys(ref for _, refs in refs_by_place(config) for ref in refs)
    for ref in refs:
        check = f"model {redact(ref.name)}"
        if ref.stand_in:
            yield Finding(check, "warning", f"{ref.role}: an UNTRAINED stand-in", "its numbers mean nothing")
            continue
        try:
            revision = resolve_revision(ref)
            check_reachable(ref, revision)
        except (ConfigError, EnvironmentFault, StorageError) as error:
            why = str(error).removeprefix(f"{ref.role}: ")  # errors of buckets name no role
            yield Finding(check, "failed", f"{ref.role}: {why}")
        else:
            yield Finding(check, "ok", f"{ref.role}: revision {revision[:12]}")
    if not refs:
        yield Finding("models", "ok", "this configuration has none")


def _missing_packages(config: Config) -> Iterator[Finding]:
    """What the stages import and is not installed."""
    wanted = {item for choice in config.choices() for item in choice.build().packages().items()}
    for package, extra in sorted(wanted):
        try:
            check_package(package, extra)
        except EnvironmentFault as error:
            yield Finding(f"package {package}", "failed", str(error))


def check_inputs(config: Config) -> Iterator[Finding]:
    """Whether inputs can be read."""
    for root in config.general.input:
        shown = redact(root)
        try:
            if "://" not in root and not _can_be_read(Path(root)):
                yield Finding("input", "failed", f"{shown} is not there", "correct `input`, or mount it")
                continue
            check_input(root)
        except StorageError as error:
            yield Finding("input", "failed", str(error))
        else:
            listed_later = " (asked at the first listing)" if is_on_hub(root) else ""
            yield Finding("input", "ok", f"{shown} can be read{listed_later}")


def _can_be_read(path: Path) -> bool:
    """Whether a file or a folder is there; StorageError where it can't be opened, or nobody can tell."""
    with named_errors(path):
        if path.is_dir():
            with os.scandir(path):
                return True
        if path.is_file():
            with path.open("rb"):
                return True
        return path.exists()


def check_output_place(config: Config) -> Iterator[Finding]:
    """Whether the output can be written to; of a bucket, whether it knows conditional writes."""
    storage = open_storage(config.general.output)
    if storage.is_local:
        return  # its room was looked at
    check_output(storage.root)
    if storage.compares_versions:
        yield Finding("output", "ok", f"{redact(storage.root)} can be written to, and compares versions")
    else:
        yield Finding(
            "output",
            "warning",
            f"{redact(storage.root)} knows no conditional writes",
            "the lease alone keeps two runs apart: start one at a time",
        )


def check_clock(config: Config | None) -> Iterator[Finding]:
    """How far this machine's clock is from that of the place that it writes to."""
    root = config.general.output if config is not None else tempfile.gettempdir()
    before = time.time()
    there = clock_of(root)
    skew_s = there - (before + time.time()) / 2
    text = f"{abs(skew_s):.1f} s apart from {redact(root)}"
    if abs(skew_s) > MAX_SKEW_S:
        yield Finding("clock", "warning", text, "set this machine's time by NTP")
    else:
        yield Finding("clock", "ok", text)
