"""What `plan --pilot` says against the run: the largest ratio of CPU seconds, clips, tokens and bytes.

    python -m benchmarks.estimate [SEED ...]

Photos of very different sizes, and videos of one to six scenes, under every kind of step, with stand-ins. Of
each seed the media are made, a pilot is drawn and run, then the whole, each in a process of its own. Wall
times are printed, and do not count: other programs share the machine.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from curation.config import Config, parse_config
from curation.estimate.forecast import forecast_of
from curation.estimate.outlook import look_ahead
from curation.estimate.pilot import run_pilot
from curation.estimate.tables import forecast_record
from curation.execution.progress import LineProgress
from curation.execution.run import RunOptions, run
from curation.storage import open_storage

NUM_PHOTOS, NUM_VIDEOS, NUM_DRAWN = 300, 24, 80
SEEDS = (0, 1, 2)
NOT_COUNTED = ("wall time",)


def ratio(seeds: tuple[int, ...] = SEEDS) -> float:
    """Of all seeds and quantities the largest ratio of what was foretold and what was, either way."""
    worst = 1.0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            write_media(Path(name), seed)
            foretold, found = (_in_own_process(way, name, seed) for way in ("pilot", "run"))
        for quantity, value in found.items():
            estimate = foretold[quantity]
            share, inside = estimate["estimate"] / value, estimate["low"] <= value <= estimate["high"]
            print(
                f"      seed {seed}: {quantity:13} {estimate['estimate']:12,.1f} foretold, {value:12,.1f} "
                f"found, ratio {share:.2f}, {'inside' if inside else 'outside'} the interval",
                flush=True,
            )
            if quantity not in NOT_COUNTED:
                worst = max(worst, share, 1 / share)
    return worst


def write_media(folder: Path, seed: int) -> None:
    """Photos whose sides are log-normal, a tenth of them gray; videos; a vocabulary of bytes."""
    random = np.random.default_rng(seed)
    (folder / "in").mkdir()
    for number in range(NUM_PHOTOS):
        side = int(np.clip(random.lognormal(5.3, 0.6), 80, 1500))
        small = random.integers(0, 256, (8, 10, 1 if random.random() < 0.1 else 3), np.uint8)
        picture = Image.fromarray(np.broadcast_to(small, (8, 10, 3)).copy())
        picture.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(folder / f"in/{number}.jpg")
    for number in range(NUM_VIDEOS):
        _write_video(folder / f"in/{number}.mp4", random)
    ranks = [f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)]
    (folder / "bytes.tiktoken").write_text("".join(ranks))


def _write_video(path: Path, random: np.random.Generator) -> None:
    """One to six scenes of half a second to six seconds: noise that drifts."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        index = 0
        for _ in range(random.integers(1, 7)):
            base, texture = random.integers(0, 200, 3), random.integers(0, 56, (30, 40, 1))
            texture = texture.repeat(8, 0).repeat(8, 1)
            for shift in range(random.integers(5, 60)):
                pixels = (base + np.roll(texture, 2 * shift, axis=1)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
                index += 1
        container.mux(stream.encode())


def _in_own_process(way: str, folder: str, seed: int) -> Any:
    command = [sys.executable, "-m", "benchmarks.estimate", way, folder, str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _config(folder: str) -> Config:
    return parse_config(
        {
            "name": "estimate",
            "input": [f"{folder}/in"],
            "output": f"{folder}/out",
            "stand_ins": "allow",
            "images": {
                "filters": ["resolution", "color", "aesthetic"],
                "resolution": {"min_width": 120, "min_height": 90},
                "aesthetic": {
                    "weights": "stand-in",
                    "head": "stand-in",
                    "head_sha256": None,
                    "min_score": None,
                },
            },
            "videos": {
                "filters": ["flow", "color"],
                "flow": {"min_score": 0.0, "max_score": None},
                "color": {"min_untinted_colorfulness": None},
            },
            "captions": {"engine": "stand-in"},
            "tokens": {"weights": "stand-in", "area": 16384, "fps": 2, "max_frames": 16},
            "shards": {"vocabulary": f"{folder}/bytes.tiktoken"},
            "run": {"unit_images": 64, "unit_videos": 4, "report_samples": 0},
        },
        "the benchmark",
    )


def _pilot(folder: str, seed: int) -> dict[str, Any]:
    """What a pilot foretells, by name."""
    config, progress = _config(folder), LineProgress(lambda _: None)
    outlook = look_ahead(config, names_done=True)
    with run_pilot(config, outlook, number=NUM_DRAWN, seed=seed, progress=progress) as pilot:
        record = forecast_record(forecast_of(pilot))
    return {quantity["name"]: quantity for quantity in record["quantities"]}


def _run(folder: str) -> dict[str, float]:
    """What the run took and gave, by the same names."""
    began, began_cpu_s = time.monotonic(), time.process_time()
    result = run(_config(folder), RunOptions(), LineProgress(lambda _: None))
    wall_s, metrics = time.monotonic() - began, result.metrics
    cpu_s = time.process_time() - began_cpu_s
    cpu_s += sum(spent.cpu_s for spent in metrics.spent_s.values())
    cpu_s += sum(pool.load_cpu_s for pool in metrics.pools.values())
    storage = open_storage(f"{folder}/out")
    manifest = json.loads(storage.read("shards/estimate/manifest.json") or b"{}")
    shards = sum(shard["size_bytes"] for shard in manifest["shards"])
    ledger = sum(item.size_bytes for name in ("ledger", "sources") for item in storage.list(name))
    totals = result.summary.outcome_totals()
    return {
        "CPU seconds": cpu_s,
        "wall time": wall_s,
        "clips": totals["clips"]["in"],
        "kept samples": totals["clips"]["kept"] + totals["images"]["kept"],
        "tokens": sum(shard["num_tokens"] for shard in manifest["shards"]),
        "ledger": ledger,
        "shards": shards,
        "output": ledger + shards,
    }


if __name__ == "__main__":
    if sys.argv[1:2] in (["pilot"], ["run"]):
        _, way, at, drawn = sys.argv
        print(json.dumps(_pilot(at, int(drawn)) if way == "pilot" else _run(at)))
    else:
        print(f"{ratio(tuple(map(int, sys.argv[1:])) or SEEDS):.2f}")
