"""`status`, `report` and `table` of 100,000 images: seconds of the slowest, times ten (goal 15)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.ledger_scale import config_of, fill
from benchmarks.measure import high_water_bytes
from curation.config import parse_config
from curation.execution.run import compact, open_pipeline, write_report
from curation.ledger import Ledger
from curation.pipeline import build_pipeline
from curation.report.summary.funnel import print_funnel
from curation.report.summary.summary import summarize
from curation.report.tables.flatfile import write_table
from curation.report.tables.table import FlatTable
from curation.storage import open_storage

COMMANDS = ("status", "report", "table.parquet", "table.csv")


def ratio() -> float:
    """Seconds per million images."""
    return _seconds(100_000) * 10


def _seconds(number: int) -> float:
    """Wall-clock seconds of the slowest of a ledger as runs leave it, with unit files merged."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline, ledger = build_pipeline(parse_config(config_of(folder))), Ledger(open_storage(folder))
        fill(ledger, pipeline, number)
        print("      before unit files are merged")
        _slowest(folder)
        compact(pipeline, ledger)
        print("      and after")
        return _slowest(folder)


def _slowest(folder: str) -> float:
    """Each command has a process of its own."""
    found = []
    for command in COMMANDS:
        run = [sys.executable, "-m", "benchmarks.reports", command, folder]
        said = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
        print(f"      {command}: " + "{wall_s:.1f} s, {cpu_s:.1f} CPU s, {peak_mb:.0f} MB".format(**said))
        found.append(said["wall_s"])
    return max(found)


def _measure(command: str, folder: str) -> None:
    """Do what the command does, and print what it took."""
    started, started_cpu = time.perf_counter(), time.process_time()
    pipeline, ledger = open_pipeline(parse_config(config_of(folder)))
    if command == "status":
        with Path("/dev/null").open("w") as nowhere:
            print_funnel(Console(file=nowhere), pipeline, summarize(ledger, pipeline))
    elif command == "report":
        write_report(pipeline, ledger)
    else:
        table = FlatTable(ledger, pipeline)
        layout = "csv" if command.endswith("csv") else "parquet"
        write_table(table.schema, table.parts(), f"{folder}/{command}", layout)
    took = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - started_cpu}
    print(json.dumps(took | {"peak_mb": high_water_bytes() / 1e6}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _measure(*sys.argv[1:])
    else:
        _seconds(int(sys.argv[1]))
