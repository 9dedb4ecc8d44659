"""Who is to blame: whatever one source makes others raise fails that source; the rest goes on or stops."""

from __future__ import annotations

import errno
import os
import re
import resource
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import pyarrow as pa
import pytest
import torch

from curation.errors import (
    ContractError,
    CurationError,
    DecodeError,
    DeviceMemoryFault,
    EnvironmentFault,
    MissingDependencyError,
    ProbeError,
    StorageError,
    WorkerError,
)
from curation.errors.isolation import isolated
from curation.execution.worker.unit_rows import UnitRows
from curation.execution.worker.video_pass import VideoPass
from curation.execution.worker.worker import UnitWorker
from curation.ingest import media_readers as readers
from curation.ingest.media_readers import ImageReader
from curation.ingest.sources import open_source
from curation.ingest.suffixes import kind_of
from curation.ledger.schemas import rows_to_table, sources_to_table, table_to_rows, table_to_sources
from curation.media import decoder, probe
from curation.media.frame import Frame
from curation.records import Row, Source
from curation.stage import Column
from datasets_media import Bench, write_photo, write_video
from test_video_pass import Run, data_of

FORESEEN_BY_NOBODY = [
    AssertionError(),
    IndexError("list index out of range"),
    ZeroDivisionError("Fraction(1, 0)"),
    OverflowError("cannot convert float infinity to integer"),
    MemoryError("Unable to allocate 1.9 GiB"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    cv2.error("(-4:Insufficient memory) Failed to allocate 9437184000 bytes"),
    OSError("image file is truncated"),
    # FFmpeg's own code for "the file breaks off", which has the name of a broken disk's.
    av.error.OSError(errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize("error", FORESEEN_BY_NOBODY, ids=lambda error: type(error).__name__)
def test_whatever_a_source_raises_is_its_own_error(error: Exception) -> None:
    with pytest.raises(DecodeError, match=type(error).__name__) as caught, isolated(DecodeError):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [ContractError("columns"), WorkerError("server gone"), StorageError("full")]
)
def test_errors_of_ours_that_are_about_no_source_come_through(error: CurationError) -> None:
    with pytest.raises(type(error)), isolated(DecodeError):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_who_stops_the_run_is_not_held_up(error: BaseException) -> None:
    with pytest.raises(type(error)), isolated(DecodeError):
        raise error


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EIO, StorageError),
        (errno.EDQUOT, StorageError),
        (errno.EMFILE, EnvironmentFault),
        (errno.ENFILE, EnvironmentFault),
        (errno.EACCES, DecodeError),
        (errno.ENOENT, DecodeError),
    ],
)
def test_a_broken_machine_is_told_from_a_broken_file(code: int, raised: type[Exception]) -> None:
    """Also where a module of ours has made a source's error of it already."""
    error = OSError(code, os.strerror(code), "/data/a.jpg")
    with pytest.raises(raised, match=os.strerror(code)), isolated(DecodeError):
        raise error
    with pytest.raises(raised), isolated(ProbeError):
        raise DecodeError(os.strerror(code)) from error


# What libraries make of a trouble of the machine


def wrapped(error: Exception) -> Exception:
    """An error that a library made of another one."""
    found = RuntimeError("backend failed")
    found.__cause__ = error
    return found


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/cache")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (wrapped(FULL), StorageError),
        (RuntimeError(f"unable to write to file </torch_7>: {os.strerror(errno.ENOSPC)} (28)"), StorageError),
        (
            RuntimeError(f"unable to open shared memory object </torch_7>: {os.strerror(errno.EMFILE)} (24)"),
            EnvironmentFault,
        ),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), StorageError),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), EnvironmentFault),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), EnvironmentFault),
        (
            av.error.BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "avcodec_open2(h264)"),
            EnvironmentFault,
        ),
        (av.error.BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), DecodeError),
        (av.error.OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DecodeError),
        (wrapped(ModuleNotFoundError("No module named 'turbojpeg'")), MissingDependencyError),
        (ImportError("libGL.so.1: cannot open shared object file"), MissingDependencyError),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_trouble_of_the_machine_is_known_however_it_is_wrapped(
    error: Exception, raised: type[CurationError]
) -> None:
    with pytest.raises(raised), isolated(DecodeError):
        raise error


def test_trouble_met_while_another_error_was_dealt_with_counts_unless_it_is_disowned() -> None:
    def decode(*, disowned: bool) -> None:
        try:
            raise FULL
        except OSError:
            if disowned:
                raise ValueError("no frame") from None
            raise ValueError("no frame")  # noqa: B904

    with pytest.raises(StorageError, match="No space left"), isolated(DecodeError):
        decode(disowned=False)
    with pytest.raises(DecodeError, match="no frame"), isolated(DecodeError):
        decode(disowned=True)


def test_no_memory_for_a_thread_is_the_machines() -> None:
    """The system itself refuses: the stack of a thread would be larger than what the process may map."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = threading.stack_size(1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + (1 << 28), limits[1]))
    try:
        with pytest.raises(EnvironmentFault, match="can't start new thread"), isolated(DecodeError):
            threading.Thread(target=print).start()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        threading.stack_size(before)


CUDA_ERRORS = {
    1: ("invalid argument", DecodeError),
    2: ("out of memory", DeviceMemoryFault),
    3: ("initialization error", EnvironmentFault),
    9: ("invalid configuration argument", DecodeError),
    46: ("CUDA-capable device(s) is/are busy or unavailable", EnvironmentFault),
    100: ("no CUDA-capable device is detected", EnvironmentFault),
    209: ("no kernel image is available for execution on the device", EnvironmentFault),
    214: ("uncorrectable ECC error encountered", EnvironmentFault),
    220: ("uncorrectable NVLink error detected during the execution", EnvironmentFault),
    700: ("an illegal memory access was encountered", WorkerError),
    701: ("too many resources requested for launch", DecodeError),
    702: ("the launch timed out and was terminated", EnvironmentFault),
    709: ("context is destroyed", EnvironmentFault),
    710: ("device-side assert triggered", WorkerError),
    716: ("misaligned address", WorkerError),
    719: ("unspecified launch failure", EnvironmentFault),
    803: ("system has unsupported display driver / cuda driver combination", EnvironmentFault),
    999: ("unknown error", EnvironmentFault),
}
"""Codes of `cudaError_t`, what the CUDA runtime says of them, and whose fault they are."""


def cuda_errors(code: int, text: str) -> Iterator[Exception]:
    """An error of the CUDA runtime, as packages raise it."""
    yield torch.AcceleratorError(f"CUDA error: {text}\nCUDA kernel errors might be asynchronously reported")
    yield RuntimeError(f"CUDA driver error: {text}")
    yield RuntimeError(f"(External) CUDA error({code}), {text}.")  # Paddle
    yield RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : CUDA failure {code}: {text} ; GPU=0")
    if torch.version.cuda is not None:
        with pytest.raises(torch.cuda.CudaError, match=re.escape(text)) as caught:
            torch.cuda.check_error(code)
        yield caught.value


@pytest.mark.parametrize("code", CUDA_ERRORS)
def test_lost_gpu_is_the_machines_and_a_kernel_that_went_wrong_is_tried_elsewhere(code: int) -> None:
    text, raised = CUDA_ERRORS[code]
    for error in cuda_errors(code, text):
        with pytest.raises(raised, match=re.escape(text)) as caught, isolated(DecodeError):
            raise error
        assert type(caught.value) is raised


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", DeviceMemoryFault),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", EnvironmentFault),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`", WorkerError),
        ("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(...)`", DecodeError),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", EnvironmentFault),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in", DecodeError),
        ("GET was unable to find an engine to execute this computation", DeviceMemoryFault),
        ("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 4.0GB", DeviceMemoryFault),
        ("Found no NVIDIA driver on your system.", EnvironmentFault),
        ("NVML_SUCCESS == r INTERNAL ASSERT FAILED: NVML: GPU is lost", EnvironmentFault),
        ("The size of tensor a (3) must match the size of tensor b (4)", DecodeError),
    ],
)
def test_what_libraries_on_a_gpu_say(said: str, raised: type[CurationError]) -> None:
    with pytest.raises(raised) as caught, isolated(DecodeError):
        raise RuntimeError(said)
    assert type(caught.value) is raised


# Sources in a unit


OUTCOMES = {"a.mp4": "kept", "b.mp4": "failed", "c.jpg": "kept", "d.jpg": "failed", "e.jpg": "kept"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two videos and three pictures, all in one unit of their kind."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        write_video(folder / name, [(12, 1), (12, 2 + seed)])
    for seed, name in enumerate(("c.jpg", "d.jpg", "e.jpg")):
        write_photo(folder / name, seed)
    data = data_of(folder, tmp_path / "out", None)
    data["images"] = {
        "filters": ["resolution", "color"],
        "resolution": {"min_width": 64, "min_height": 64},
        "color": {"min_colorfulness": None, "min_untinted_colorfulness": None},
    }
    return Bench(data)


def ends(bench: Bench) -> dict[str, str]:
    return {name: outcome.partition(" ")[0] for name, outcome in bench.outcomes().items()}


def errors_of(bench: Bench) -> set[tuple[str | None, str | None]]:
    steps = [bench.pipeline.step_of(key) for key in ("videos.scenes", "images.color")]
    rows = [
        row
        for step in steps
        if step is not None
        for unit in bench.ledger.measured_units(step.name, step.fingerprint)
        for row in bench.ledger.rows(step.name, step.fingerprint, unit)
    ]
    return {(row.error_type, row.error) for row in rows if not row.ok}


class Broken:
    """Makes a library raise `error` at the video b.mp4 or the picture d.jpg, and at nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bench: Bench, error: Exception) -> None:
        self._monkeypatch = monkeypatch
        self._error = error
        folder = Path(bench.config.general.input[0])
        self._bytes = [(folder / name).read_bytes() for name in ("b.mp4", "d.jpg")]

    def function(self, module: Any, name: str) -> None:
        """One that takes a file."""
        call = getattr(module, name)

        def breaks(path: Path, *args: Any) -> Any:
            if path.read_bytes() in self._bytes:
                raise self._error
            return call(path, *args)

        self._monkeypatch.setattr(module, name, breaks)

    def frames(self, *, when_looked_at: bool) -> None:
        """The video's frame 5."""
        decode = decoder.decode_video

        def render() -> Any:
            raise self._error

        def breaks(path: Path, *args: Any, **settings: Any) -> Iterator[Frame]:
            for frame in decode(path, *args, **settings):
                if frame.index != 5 or path.read_bytes() not in self._bytes:
                    yield frame
                elif when_looked_at:
                    yield Frame(frame.pts_s, frame.index, render)
                else:
                    raise self._error

        self._monkeypatch.setattr(decoder, "decode_video", breaks)


@pytest.fixture(params=FORESEEN_BY_NOBODY, ids=lambda error: type(error).__name__)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Broken:
    return Broken(monkeypatch, bench, request.param)


def test_headers_that_break_a_library_fail_their_sources(bench: Bench, broken: Broken) -> None:
    broken.function(probe, "probe_video")
    broken.function(probe, "probe_image")
    bench.run()
    assert ends(bench) == OUTCOMES
    sources = [source for unit in bench.ledger.units() for source in bench.ledger.sources(unit)]
    assert {source.error_type for source in sources if not source.ok} == {"ProbeError"}


@pytest.mark.parametrize("when_looked_at", [False, True])
def test_pixels_that_break_a_library_fail_their_sources(
    bench: Bench, broken: Broken, when_looked_at: bool
) -> None:
    broken.function(readers, "read_image")
    broken.frames(when_looked_at=when_looked_at)
    bench.run()
    assert ends(bench) == OUTCOMES
    assert {kind for kind, _ in errors_of(bench)} == {"DecodeError"}


@pytest.mark.parametrize("segment_s", [None, 1.0])
def test_a_splitter_that_asserts_fails_its_source_in_one_piece_and_in_segments(
    bench: Bench, segment_s: float | None
) -> None:
    data = {**bench.config.resolved, "stages": {"scenes": "fault_stages:AssertingScenes"}}
    data["run"] = {**data["run"], "segment_s": segment_s}
    run = Run(data).all()
    assert any(task.segments for task in run.done) == (segment_s is not None)
    assert ends(run) == OUTCOMES | {"d.jpg": "kept"}
    assert errors_of(run) == {("MeasureError", "AssertionError: time runs backwards")}


def test_a_mistake_of_the_core_stops_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("no such step")

    for owner, name in ((ImageReader, "_decoded"), (UnitRows, "add"), (VideoPass, "_add_clip")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, mistaken)
            with pytest.raises(KeyError, match="no such step"):
                bench.run()


def test_a_header_with_numbers_that_fit_no_column_fails_its_source(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel aspect of 24403224:1, found by damaging a file, makes a width beyond 32 bits."""
    read, folder = probe.probe_video, Path(bench.config.general.input[0])

    def wide(path: Path, max_pixels: int) -> Any:
        header = read(path, max_pixels)
        is_broken = path.read_bytes() == (folder / "b.mp4").read_bytes()
        return replace(header, width=3_123_612_719) if is_broken else header

    monkeypatch.setattr(probe, "probe_video", wide)
    bench.run()
    assert ends(bench) == OUTCOMES | {"d.jpg": "kept"}


# The machine


def test_no_place_for_temporary_files_stops_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(bench.config.general.input[0])
    with tarfile.open(folder / "t.tar", "w") as archive:
        archive.add(folder / "c.jpg", "c.jpg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFault, match="no temporary file can be made") as caught:
        bench.run()
    assert caught.value.exit_code == 3


@contextmanager
def no_more_files(spare: int) -> Iterator[None]:
    """Only `spare` more files can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, limits[0]), limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for handle in taken:
            os.close(handle)


@pytest.mark.parametrize(
    ("name", "spare"), [("a.mp4", 0), ("a.mp4", 1), ("c.jpg", 0), ("c.jpg", 1), ("c.jpg", 2)]
)
def test_no_handles_left_is_no_sources_fault(bench: Bench, name: str, spare: int) -> None:
    """Whoever opens the file when there are none left: we, Pillow or FFmpeg."""
    worker = UnitWorker(bench.pipeline)
    kind = kind_of(name)
    assert kind is not None
    path = f"{bench.config.general.input[0]}/{name}"
    source = Source(source_id="s", uri=path, kind=kind, size_bytes=1, etag="e")
    assert worker.probe(source).ok  # with all libraries loaded
    with no_more_files(spare), pytest.raises(EnvironmentFault, match="ulimit"):
        worker.probe(source)


# A file that can't be read


def test_ffmpegs_word_for_a_broken_disk_is_believed_if_the_file_can_t_be_read(tmp_path: Path) -> None:
    """Reading /proc/self/mem from its beginning is refused by the kernel: nothing is mapped there."""
    write_video(tmp_path / "a.mp4", [(12, 1)])

    def fail(path: Path | str) -> None:
        source = Source(source_id="s", uri=str(path), kind="video", size_bytes=1, etag="e")
        with open_source(source):
            raise DecodeError("it breaks off") from av.error.OSError(errno.EIO, "Input/output error")

    with pytest.raises(DecodeError, match="it breaks off"):
        fail(tmp_path / "a.mp4")
    with pytest.raises(StorageError, match="Input/output error"):
        fail("/proc/self/mem")


# Text that Arrow refuses

COLUMNS = {"value": Column(pa.string(), "Any text.")}


def test_half_of_a_surrogate_pair_stops_no_unit() -> None:
    """RFC 3629 forbids U+D800..U+DFFF in UTF-8; JSON files and file names bring them all the same."""
    odd = Source(
        source_id="s",
        uri="a.jpg",
        kind="image",
        size_bytes=1,
        etag="e",
        metadata={"caption": "a \ud83d", "\udfff": 1},
        error_type="ProbeError",
        error="no \udcff",
    )
    (read,) = table_to_sources(sources_to_table([odd]))
    assert (read.metadata, read.error) == ({"caption": "a \\ud83d", "\\udfff": 1}, "no \\udcff")
    rows = [Row("a", {}, "DecodeError", "no \udcff"), Row("b", {"value": "x"})]
    assert [row.error for row in table_to_rows(rows_to_table(rows, COLUMNS))] == [
        "no \\udcff",
        None,
    ]
