"""scenedetect detect-content detect-threshold on real clips, over sampled detection with the same cuts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import av
import cv2
from scenedetect import ContentDetector, FrameTimecode, SceneManager, ThresholdDetector, open_video

from benchmarks.decode_once import write_video
from benchmarks.measure import cpu_medians, cpu_ratio
from curation.cli.demo import VIDEOS, fetch_packages
from curation.errors import SampleError
from curation.media.decoder import DecoderSettings, decoder_for
from curation.media.probe import probe
from curation.media.sampling import Sampling
from curation.records import Source
from curation.splitter import Span
from curation.stage import Setup
from curation.stages.scenes import ScenesConfig, ScenesSplitter

SHARED = Path(__file__).parents[2] / "shared/data/video"
LEAST_S = 4.0
"""Shorter clips are mostly opening and closing."""
SAME_S = 0.002
"""Cuts are the same frame: times are in whole milliseconds in some containers."""
NATIVE = ScenesConfig()
SAMPLED = ScenesConfig(sample_fps=2.0)


def ratio() -> float:
    """CPU time of all clips together, both whole: open, decode, detect; also prints each clip's, and that of
    detection on every frame over sampled detection.
    """
    cv2.setNumThreads(1)
    with _clips() as paths:
        times = [_compare(path) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        write_video(path, num_scenes=3)
        if len(_split(path, NATIVE)) != 3 or _split(path, NATIVE) != _split(path, SAMPLED):
            raise RuntimeError("the two ways find other cuts")
        native = cpu_ratio(partial(_split, path, NATIVE), partial(_split, path, SAMPLED))
    print(f"      every frame over samples, 720p of three scenes: {native:.2f}")
    theirs_s, ours_s = (sum(column) for column in zip(*times, strict=True))
    return theirs_s / ours_s


@contextmanager
def _clips() -> Iterator[list[Path]]:
    """Real videos: those of ../shared/data that are long enough, else those that packages bring along."""
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(SHARED.glob("*"))
        if not paths:
            fetch_packages(Path(folder), print)
            paths = [Path(folder) / name for name in VIDEOS]
        yield [path for path in paths if _is_long(path)]


def _is_long(path: Path) -> bool:
    """Whether a file is a whole video of at least `LEAST_S`, with one stream, so that both take the same."""
    source = _source(path)
    if not source.ok or (source.duration_s or 0) < LEAST_S:
        return False
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            is_one = len(container.streams.video) == 1
        return is_one and bool(_split(path, SAMPLED))
    except SampleError:
        return False


def _compare(path: Path) -> list[float]:
    """CPU seconds of PySceneDetect and of ours."""
    # OpenCV, the command's default, decodes for less, but takes some times wrong and can't decode AV1.
    backend = "pyav" if _source(path).codec == "av1" else "opencv"
    first_s, *starts_s = (span.start_s for span in _split(path, SAMPLED))
    # Its times count from the first frame, where a video that is dark throughout has a cut.
    theirs = [cut_s for cut_s in _scenedetect(path, "pyav") if cut_s > 0]
    ours = [start_s - first_s for start_s in starts_s]
    if len(ours) != len(theirs) or any(abs(a - b) > SAME_S for a, b in zip(ours, theirs, strict=True)):
        raise RuntimeError(f"{path.name}: cuts at {ours}, and by scenedetect at {theirs}")
    times = cpu_medians(partial(_scenedetect, path, backend), partial(_split, path, SAMPLED))
    print(f"      {times[0] / times[1]:.2f}  {path.name}, {len(theirs)} cuts")
    return times


def _scenedetect(path: Path, backend: str) -> list[float]:
    """Cuts in seconds, by what the command does once it has started; its settings are its own defaults."""
    video, manager = open_video(str(path), backend=backend), SceneManager()
    merged, dark = (FrameTimecode(length, video.frame_rate) for length in ("0.6s", "0.1s"))
    manager.add_detector(ContentDetector(min_scene_len=merged.frame_num))
    manager.add_detector(
        ThresholdDetector(min_scene_len=merged.frame_num, min_out_length=dark, add_final_scene=True)
    )
    manager.detect_scenes(video)
    return [start.seconds for start, _ in manager.get_scene_list()][1:]


def _source(path: Path) -> Source:
    return probe(Source(source_id="s", uri=str(path), kind="video", size_bytes=1, etag="e"), path)


def _split(path: Path, config: ScenesConfig) -> list[Span]:
    source = _source(path)
    stage = ScenesSplitter(config)
    stage.setup(Setup("cpu", {}))
    finder = stage.start(source)
    sampling = None if stage.step_fps is None else Sampling(stage.step_fps)
    spans: list[Span] = []
    end_s = 0.0
    for frame in decoder_for(DecoderSettings(), source).frames(path, 0.0, sampling):
        spans += finder.push(frame)
        end_s = frame.pts_s
    return [*spans, *finder.finish(end_s + 0.04)]
