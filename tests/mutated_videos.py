"""Small videos of many codecs and containers, and damaged copies of them on their way through a worker.

    PYTHONPATH=tests python -m mutated_videos FOLDER NUMBER [MORE_VIDEOS]

damages the videos made here and the small ones in the folder MORE_VIDEOS by turns, NUMBER times, and
prints a JSON line: how many ended how, what was raised that should not be, which killed or hung the
process, and the memory held at most. The work is done in a process of its own, which is replaced when
it dies or says nothing for `LIMIT_S`.
"""

from __future__ import annotations

import faulthandler
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from curation.execution.plan import Task
from curation.execution.worker.worker import UnitWorker
from curation.ledger.unit_state import load_unit, source_verdict
from curation.records import Source
from datasets_media import ROOT, Bench, environment
from generated import moving_square, scenes_of, write_video
from mutated import cut, damage, edit_header, flip, held_bytes, insert, repeat, zero

MAX_PIXELS = 1_000_000
"""Limit for the damaged videos, whose headers may promise anything."""
LIMIT_S = 60.0
"""A file that takes longer hangs: undamaged ones take less than a second."""
MORE_BYTES = 110_000
"""Larger files of MORE_VIDEOS are left out."""
UNFORESEEN = re.compile(r"\w*([Ee]rror|Exception): |\w+Error$")
"""A message that begins with the type of an exception."""
FORMATS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264", "pix_fmt": "yuv420p", "g": "8"},
    "front.mp4": {"codec": "libx264", "pix_fmt": "yuv420p", "movflags": "faststart"},
    "fragments.mp4": {
        "codec": "libx264",
        "pix_fmt": "yuv420p",
        "movflags": "frag_keyframe+empty_moov",
        "g": "8",
    },
    "h264.mkv": {"codec": "libx264", "pix_fmt": "yuv420p", "g": "8"},
    "h264.ts": {"codec": "libx264", "pix_fmt": "yuv420p", "g": "8"},
    "h264.flv": {"codec": "libx264", "pix_fmt": "yuv420p"},
    "hevc.mov": {"codec": "libx265", "pix_fmt": "yuv420p", "x265-params": "log-level=none"},
    "vp8.webm": {"codec": "libvpx", "pix_fmt": "yuv420p", "deadline": "realtime"},
    "vp9.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuv420p", "deadline": "realtime", "cpu-used": "8"},
    "av1.mp4": {"codec": "libsvtav1", "pix_fmt": "yuv420p", "preset": "12"},
    "mpeg4.avi": {"codec": "mpeg4", "pix_fmt": "yuv420p"},
    "mpeg2.mpg": {"codec": "mpeg2video", "pix_fmt": "yuv420p"},
    "mpeg2.ts": {"codec": "mpeg2video", "pix_fmt": "yuv420p"},
    "mpeg1.mpeg": {"codec": "mpeg1video", "pix_fmt": "yuv420p"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"codec": "wmv2", "pix_fmt": "yuv420p"},
    "flv1.flv": {"codec": "flv1", "pix_fmt": "yuv420p"},
    "h263.3gp": {"codec": "h263", "pix_fmt": "yuv420p"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}
"""Name -> how it is written."""


def small_videos() -> dict[str, bytes]:
    """Name -> file: 30 frames of two scenes, the second one moving; some with pixels that are not square."""
    height, width = 96, 128
    frames = [*scenes_of([14], height, width), *moving_square(16, 4, side=128, square=48)[:, :height, :width]]
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, how) in enumerate(FORMATS.items()):
            path = Path(folder) / name
            aspect = Fraction(12, 11) if number % 4 == 3 else None
            write_video(path, frames, rate=25, aspect=aspect, **how)
            files[name] = path.read_bytes()
    return files


def videos_in(folder: Path) -> dict[str, bytes]:
    """Name -> file: those in a folder that are small and not broken by intent."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if 0 < path.stat().st_size < MORE_BYTES and not path.name.startswith("made_")
    }


def mutations(files: dict[str, bytes], first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """The damaged files of these numbers, by turns of every format; a number always gives the same file."""
    names = list(files)
    for number in range(first, last):
        draw = random.Random(number)
        name = names[number % len(names)]
        other = files[draw.choice(names)]

        def splice(draw: random.Random, data: bytearray, other: bytes = other) -> None:
            """Part of another video in place of a part of this one."""
            start = draw.randrange(len(other))
            part = other[start : start + draw.randint(1, 4000)]
            at = draw.randrange(len(data) + 1)
            data[at : at + draw.choice((0, len(part)))] = part

        ways = (flip, _flip_all_over, edit_header, _edit_anywhere, _edit_end, cut, insert, zero, repeat)
        yield f"{number:05d}-{name}", damage(draw, files[name], (*ways, splice, splice))


def _flip_all_over(draw: random.Random, data: bytearray) -> None:
    for _ in range(max(1, len(data) // draw.choice((100, 1000, 10_000)))):
        flip(draw, data)


def _edit_anywhere(draw: random.Random, data: bytearray) -> None:
    """Sizes, times and offsets stand in headers all over a video."""
    at = draw.randrange(len(data) + 1)
    part = data[at : at + 200]
    edit_header(draw, part)
    data[at : at + len(part)] = part


def _edit_end(draw: random.Random, data: bytearray) -> None:
    """An index often stands at the end."""
    part = data[-2000:]
    edit_header(draw, part)
    data[len(data) - len(part) :] = part


class Line:
    """A worker that is given one video after the other."""

    def __init__(self, folder: Path) -> None:
        (folder / "in").mkdir(exist_ok=True)
        data = {
            "name": "fuzz",
            "input": [str(folder / "in")],
            "output": str(folder / "out"),
            "max_pixels": MAX_PIXELS,
            "videos": {
                "scenes": {"min_clip_s": 0.1, "adaptive_threshold": 3.0},
                "filters": ["flow", "thumbnail"],
                "flow": {"min_score": None, "max_score": None, "short_side": 64, "fps": 4.0},
            },
        }
        self._bench = Bench(data)
        self._worker = UnitWorker(self._bench.pipeline)
        self._steps = frozenset(step.key for step in self._bench.pipeline.steps())
        self._unit = 0

    def outcome(self, path: Path) -> tuple[str, list[str]]:
        """How a file ends, "ok" or "failed" and the types of its errors, and what they say."""
        source = Source(source_id=path.name, uri=str(path), kind="video", size_bytes=1, etag="e")
        self._unit += 1
        self._worker.work(Task("probe", self._unit, (source,)))
        self._worker.work(Task("filter", self._unit, steps=self._steps))
        pipeline, ledger = self._bench.pipeline, self._bench.ledger
        state = load_unit(ledger, pipeline, self._unit)
        (probed,) = state.sources
        judged = source_verdict(pipeline, state, probed)
        assert judged.verdict.needs is None, judged.verdict
        errors = [(row.error_type, row.error) for leaf in judged.leaves() for row in leaf.rows.values()]
        errors.append((judged.error and judged.verdict.reason, judged.error))
        types = sorted({kind for kind, _ in errors if kind})
        return " ".join(["failed", *types]) if types else "ok", [text for _, text in errors if text]


def work(folder: Path, first: int, last: int) -> None:
    """Take these numbers; two JSON lines each."""
    faulthandler.enable()
    files = {path.name: path.read_bytes() for path in sorted((folder / "base").iterdir())}
    line = Line(Path(tempfile.mkdtemp(dir=folder)))
    for name, data in mutations(files, first, last):
        path = folder / name.replace("-", ".", 1)
        path.write_bytes(data)
        _say(name=name)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        try:
            outcome, errors = line.outcome(path)
            _say(outcome=outcome, errors=errors, **_memory())
        except Exception as error:  # noqa: BLE001  this is what is looked for
            _say(escaped=f"{name}: {type(error).__name__}: {error}", **_memory())
        faulthandler.cancel_dump_traceback_later()
        path.unlink()


def _say(**said: Any) -> None:
    sys.stdout.write(f"{json.dumps(said)}\n")
    sys.stdout.flush()


def _memory() -> dict[str, int]:
    most = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return {"held": held_bytes(), "most": most}


@dataclass
class Findings:
    """What became of all files."""

    counts: Counter[str] = field(default_factory=Counter)
    escaped: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    """Files that ended the process or hung, with its exit code: 1 is a hang, -11 a segmentation fault."""
    unforeseen: Counter[str] = field(default_factory=Counter)
    """Among the failures, what was raised that nobody had declared: type, and what it says."""
    held_bytes: list[int] = field(default_factory=list)
    """By the last process, after each of its files."""
    most_bytes: int = 0

    def add(self, said: dict[str, Any]) -> None:
        self.held_bytes.append(said["held"])
        self.most_bytes = max(self.most_bytes, said["most"])
        if "escaped" in said:
            self.escaped.append(said["escaped"])
        else:
            self.counts[said["outcome"]] += 1
            self.unforeseen.update(filter(UNFORESEEN.match, said["errors"]))


def run(folder: Path, number: int, more: Path | None = None, first: int = 0) -> Findings:
    """Damage and try so many videos."""
    (folder / "base").mkdir()
    for name, data in (small_videos() | (videos_in(more) if more else {})).items():
        (folder / "base" / name).write_bytes(data)
    found, last = Findings(), first + number
    while first < last:
        command = [sys.executable, "-m", "mutated_videos", folder, "--work", str(first), str(last)]
        done = subprocess.run(
            command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, "the process could not begin"
        found.held_bytes.clear()
        for said in lines[1::2]:
            found.add(said)
        if len(lines) % 2:
            found.crashed.append(f"{lines[-1]['name']}: exit {done.returncode}")
        first += (len(lines) + 1) // 2
    return found


def main(args: list[str]) -> None:
    folder = Path(args[0])
    if args[1] == "--work":
        work(folder, int(args[2]), int(args[3]))
        return
    found = run(folder, int(args[1]), Path(args[2]) if len(args) > 2 else None)
    _say(**vars(found) | {"held_bytes": [found.held_bytes[0], found.held_bytes[-1]]})


if __name__ == "__main__":
    main(sys.argv[1:])
