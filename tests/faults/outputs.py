"""A data set for runs that are disturbed, and what a run leaves that must not depend on what happened.

expected = left_by(settings(inputs, "undisturbed", vocabulary))
differences(left_by(settings(inputs, "disturbed", vocabulary)), expected)      # names, hopefully none
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.config import parse_config
from curation.execution.record.run_record import read_run
from curation.execution.run import open_pipeline
from curation.ledger import Ledger
from curation.report.summary.summary import summarize
from datasets_media import cut_off, write_photo, write_video

NUM_PHOTOS, NUM_IN_TAR, NUM_VIDEOS = 20, 4, 2
LAST_WORK = re.compile(r'\s*<section id="work">.*?</section>|<a href="#work">.*?</a>', re.DOTALL)
"""Of the report: what the last run that had work did, and how fast; absent if that run was killed."""
OF_ONE_RUN = ("started", "ended", "command", "sources", "last_work")
"""Of run.json: what depends on how often a run was broken off, and when."""


def write_inputs(folder: Path) -> Path:
    """Photos, one of them cut off and one without color; a tar of four; two videos, one of which is long."""
    folder.mkdir(parents=True)
    for seed in range(NUM_PHOTOS):
        write_photo(folder / f"photo{seed:02}.jpg", seed, gray=seed == 3)
    cut_off(folder / "photo05.jpg")
    with tarfile.open(folder / "archive.tar", "w") as archive:
        for seed in range(NUM_IN_TAR):
            write_photo(folder / "member.jpg", 100 + seed)
            archive.add(folder / "member.jpg", f"member{seed}.jpg")
    (folder / "member.jpg").unlink()
    for number in range(NUM_VIDEOS):
        length = 40 if number == 0 else 20
        write_video(folder / f"video{number}.mp4", [(length, 2 * number + 1), (length, 2 * number + 2)])
    return folder


def settings(inputs: str, output: str, vocabulary: Path) -> dict[str, Any]:
    """Every pass, quick but not instant, in many small units; the ledger is compacted at the end."""
    color = {"min_untinted_colorfulness": None}
    return {
        "name": "chaos",
        "input": [inputs],
        "output": output,
        "stand_ins": "allow",
        "stages": {
            "paced_color": "fault_stages:PacedColor",
            "quick_tokens": "fault_stages:QuickTokens",
        },
        "images": {"filters": ["paced_color"], "paced_color": color},
        "videos": {"filters": ["paced_color"], "paced_color": color, "scenes": {"min_clip_s": 0.5}},
        "captions": {"engine": "stand-in"},
        "quick_tokens": {"weights": "stand-in", "area": 4096, "fps": 1, "max_frames": 8},
        "shards": {"vocabulary": str(vocabulary), "shard_bytes": 4000},
        "run": {
            "unit_images": 2,
            "unit_videos": 1,
            "segment_s": 5,  # the first video is shared out
            "workers": 2,
            # Who kills workers at random may hit one source again and again, and it would be blamed.
            "max_kills": 1000,
            "max_failed_fraction": 0.9,
            "report_samples": 0,
            "compact_files": 4,
        },
    }


def left_by(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in an output that must not depend on what happened meanwhile, by name.

    Raises:
        LedgerError: the summary does not balance.
    """
    config = parse_config(dict(data))
    pipeline, ledger = open_pipeline(config)
    storage = ledger.storage
    keys = [item.key for item in storage.list("")]
    summary = summarize(ledger, pipeline)
    record = read_run(storage)
    record["config"].pop("output")
    for name in OF_ONE_RUN:
        record.pop(name)
    page = (storage.read("report/index.html") or b"").decode()
    found: dict[str, Any] = {key: storage.read(key) for key in keys if key.startswith("shards/")}
    found |= {f"rows of {step.key}": _rows(ledger, step.name, step.fingerprint) for step in pipeline.steps()}
    units = ledger.units()
    found["sources"] = [(unit, source) for unit in units for source in ledger.sources(unit)]
    found["books"] = summary.outcome_totals()
    found["report"] = LAST_WORK.sub("", page)
    found["run.json"] = record
    found["keys"] = sorted({re.sub(r"(unit-\d+|compact/.*)\.parquet", "rows", key) for key in keys})
    found["half-written"] = storage.leftovers("")
    return found


def _rows(ledger: Ledger, stage: str, fingerprint: str) -> list[dict[str, Any]]:
    """Every row of a stage with all columns but the seconds, in one order."""
    snapshot = ledger.snapshot(stage, fingerprint)
    columns = _Everything()
    parts = [
        part.drop_columns(["seconds"]).append_column("unit", pa.array([unit] * part.num_rows))
        for unit, part in snapshot.scan(snapshot.units(), columns)
    ]
    return sorted(pa.concat_tables(parts).to_pylist(), key=lambda row: (row["unit"], row["sample_id"]))


class _Everything(frozenset[str]):
    """All names of columns."""

    def __contains__(self, _: object) -> bool:
        return True


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what is not as it should be."""
    return sorted(name for name in {*found, *expected} if found.get(name, None) != expected.get(name, None))
