"""Troubles of the machine: the run stops with exit 3, and no row says that a source is to blame."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curation.errors import EnvironmentFault, ProbeError, StorageError
from curation.execution.worker.worker import UnitWorker
from curation.ingest import reach
from curation.ingest.listing import list_inputs
from curation.ingest.reach import watch_inputs
from curation.ingest.sources import open_source
from curation.records import Source
from curation.stages.color import ColorStage
from datasets_media import Bench, contents, curation, write_config, write_photo, write_video
from fault_stages import (
    INPUT,
    SETUP_TROUBLES,
    TROUBLE,
    UNLOADABLE,
    TroubledColor,
    UnloadableColor,
    UnmountingColor,
)


def color_only(folder: Path, output: Path, stage: str = "color", **run: Any) -> dict[str, Any]:
    """One filter on images and videos: the color stage, or a stage of `fault_stages`."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stage).lstrip("_")
    settings = {"min_colorfulness": None, "min_untinted_colorfulness": None}
    data: dict[str, Any] = {
        "name": "troubles",
        "input": [str(folder)],
        "output": str(output),
        "images": {"filters": [name], name: settings},
        "videos": {"filters": [name], name: settings, "scenes": {"min_clip_s": 0.5}},
        "run": {"workers": 1, "unit_images": 3, "max_failed_fraction": 1.0, **run},
    }
    return data if stage == "color" else data | {"stages": {name: f"fault_stages:{stage}"}}


def said_of_sources(output: Path) -> list[str]:
    """Files of the ledger that hold what was found out about sources."""
    return [name for name in contents(output) if name.startswith(("sources/", "ledger/"))]


# A stage that can't be set up


@pytest.mark.parametrize("trouble", SETUP_TROUBLES)
def test_stage_that_cannot_be_set_up_stops_the_run_and_is_named(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv(UNLOADABLE, trouble)
    bench = Bench(color_only(media, tmp_path / "out", UnloadableColor.__name__))
    with pytest.raises(EnvironmentFault, match=r"^(images|videos)\.unloadable_color can't be set up: \w+"):
        bench.run()
    assert not list((tmp_path / "out").glob("ledger/*/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["damaged library", "sys.exit", "worker's error"])
def test_worker_that_cannot_set_up_a_stage_ends_the_run_at_once(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv(UNLOADABLE, trouble)
    config = write_config(tmp_path / "c.yaml", color_only(media, tmp_path / "out", UnloadableColor.__name__))
    said = curation("run", "-c", config, code=3)
    assert re.search(
        r"(EnvironmentFault|MissingDependencyError): images.unloadable_color can't be set up: ", said
    )
    assert "Traceback" not in said
    assert not said_of_sources(tmp_path / "out")


# An input that is away

NAMES = {"a.jpg", "b.mp4", "c.tar#0.jpg", "d.parquet#0", "e.jpg"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input with a source of every kind in `disk`; a.jpg has a caption beside it, a list names e.jpg."""
    folder = tmp_path / "in/disk"
    folder.mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "e.jpg")):
        write_photo(folder / name, seed)
    write_video(folder / "b.mp4", [(12, 1)])
    (folder / "a.txt").write_text("a caption")
    (folder / "metadata.jsonl").write_text('{"file_name": "e.jpg", "title": "from a list"}\n')
    with tarfile.open(folder / "c.tar", "w") as archive:
        archive.add(folder / "a.jpg", "0.jpg")
    pq.write_table(pa.table({"image": [(folder / "e.jpg").read_bytes()]}), folder / "d.parquet")
    return tmp_path / "in"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for an input that is away are short."""
    monkeypatch.setattr(reach, "_WAITS_S", (0.05, 0.05))


def unmount(folder: Path, *, leaves_folder: bool) -> None:
    """Take a folder away, as a mount that drops out; an empty folder stays in its place, or none."""
    folder.rename(f"{folder}.away")
    if leaves_folder:
        folder.mkdir()


def mount(folder: Path) -> None:
    """Bring a folder back."""
    if folder.exists():
        folder.rmdir()
    Path(f"{folder}.away").rename(folder)


PHASES = ("list", "probe", "filter", "enrich")


def until(bench: Bench, phase: str) -> tuple[UnitWorker, list[Any]]:
    """Work up to a phase; a worker, and the tasks of that phase."""
    worker = UnitWorker(bench.pipeline)
    for earlier in PHASES[: PHASES.index(phase)]:
        for task in bench.tasks(earlier):
            worker.work(task)
    return worker, bench.tasks(phase)


def captioned(folder: Path, tmp_path: Path) -> Bench:
    enriched = {"stand_ins": "allow", "captions": {"engine": "stand-in"}}
    return Bench(color_only(folder, tmp_path / "out") | enriched)


@pytest.mark.parametrize(("away", "leaves_folder"), [("in", False), ("in", True), ("in/disk", True)], ids=str)
@pytest.mark.parametrize("phase", PHASES)
def test_input_that_stays_away_stops_the_run_and_no_source_is_blamed(
    folder: Path, tmp_path: Path, impatient: None, phase: str, away: str, leaves_folder: bool
) -> None:
    write_photo(folder / "other.jpg", 5)  # of another disk
    bench = captioned(folder, tmp_path)
    worker, tasks = until(bench, phase)
    assert tasks
    before = contents(tmp_path / "out")
    unmount(tmp_path / away, leaves_folder=leaves_folder)
    for task in tasks:
        with pytest.raises(StorageError, match="is away") as caught:
            worker.work(task)
        assert caught.value.exit_code == 3
    assert contents(tmp_path / "out") == before
    mount(tmp_path / away)
    bench.run()
    assert bench.outcomes() == dict.fromkeys({*NAMES, "other.jpg"}, "kept")


@pytest.mark.parametrize("phase", PHASES)
def test_input_that_is_away_for_a_moment_is_waited_for(folder: Path, tmp_path: Path, phase: str) -> None:
    bench = captioned(folder, tmp_path)
    worker, tasks = until(bench, phase)
    for task in tasks:
        unmount(folder, leaves_folder=True)
        back = threading.Timer(0.7, mount, [folder])
        back.start()
        worker.work(task)
        back.join()
    bench.run()
    assert bench.outcomes() == dict.fromkeys(NAMES, "kept")
    sources = [source for unit in bench.ledger.units() for source in bench.ledger.sources(unit)]
    metadata = {source.uri.rpartition("/")[2]: source.metadata for source in sources if source.metadata}
    assert metadata == {"a.jpg": {"caption": "a caption"}, "e.jpg": {"title": "from a list"}}


def listed(bench: Bench) -> dict[str, Source]:
    return {source.uri.rpartition("/")[2]: source for source in list_inputs(bench.config).sources}


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("with_its_folder", [False, True])
def test_source_that_has_gone_alone_fails_alone(
    folder: Path, tmp_path: Path, name: str, with_its_folder: bool
) -> None:
    if with_its_folder:
        write_photo(folder / "other.jpg", 5)
    bench = captioned(folder, tmp_path)
    watch_inputs(bench.config.general.input)
    source = listed(bench)[name]
    if with_its_folder:
        (folder / "disk").rename(tmp_path / "removed")
    else:
        (folder / "disk" / name.partition("#")[0]).unlink()
    with pytest.raises(ProbeError, match=r"No such file|not there any more"), open_source(source):
        pass


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who may read what all may."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def open_folder(folder: Path) -> Path:
    """The input, reachable for everybody."""
    for above in (folder, *folder.parents):
        if str(above) not in ("/", "/tmp"):
            above.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", sorted(NAMES))
def test_permission_that_one_file_lacks_is_its_own_and_one_that_all_lack_is_the_machines(
    open_folder: Path, tmp_path: Path, impatient: None, name: str
) -> None:
    bench = captioned(open_folder, tmp_path)
    watch_inputs(bench.config.general.input)
    source = listed(bench)[name]
    path = open_folder / "disk" / name.partition("#")[0]
    path.chmod(0)
    with without_rights(), pytest.raises(ProbeError, match="Permission denied"), open_source(source):
        pass
    for other in (open_folder / "disk").iterdir():
        other.chmod(0)
    with without_rights(), pytest.raises(StorageError, match="is away"), open_source(source):
        pass


# No room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No room on a small disk. Who can't have one is refused files of more than 64 bytes instead."""
    filler, limits = folder / "filler", resource.getrlimit(resource.RLIMIT_FSIZE)
    if os.geteuid() == 0:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 512):
                pass
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        filler.unlink(missing_ok=True)


@pytest.mark.parametrize("phase", ["probe", "filter", "enrich"])
def test_full_folder_for_temporary_files_stops_the_run_and_no_source_is_blamed(
    folder: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    for name in ("a.jpg", "e.jpg", "b.mp4", "metadata.jsonl", "a.txt"):
        (folder / "disk" / name).unlink()  # what is left is copied to be opened
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    bench = captioned(folder, tmp_path)
    worker, tasks = until(bench, phase)
    before = contents(tmp_path / "out")
    with filled(small_disk):
        for task in tasks:
            with pytest.raises(StorageError, match=f"^{small_disk}: (No space left|File too large)"):
                worker.work(task)
    assert contents(tmp_path / "out") == before
    bench.run()
    assert bench.outcomes() == {"c.tar#0.jpg": "kept", "d.parquet#0": "kept"}


@pytest.mark.parametrize("phase", PHASES)
def test_full_output_stops_the_run_and_the_next_one_goes_on(
    folder: Path, small_disk: Path, phase: str
) -> None:
    bench = captioned(folder, small_disk)
    worker, tasks = until(bench, phase)
    before = contents(small_disk / "out")
    with filled(small_disk):
        for task in tasks:
            with pytest.raises(StorageError, match=r"No space left|File too large"):
                worker.work(task)
        assert contents(small_disk / "out") == before
    bench.run()
    assert bench.outcomes() == dict.fromkeys(NAMES, "kept")


# A worker that meets a trouble


def troubled(folder: Path, tmp_path: Path, stage: type[ColorStage]) -> Path:
    """A configuration with one stage, one worker and one picture a unit, a.jpg before e.jpg."""
    for name in ("b.mp4", "c.tar", "d.parquet"):
        (folder / "disk" / name).unlink()
    data = color_only(folder, tmp_path / "out", stage.__name__, unit_images=1)
    return write_config(tmp_path / "c.yaml", data)


def stopped_by_a_trouble(config: Path, tmp_path: Path, error: str) -> None:
    """A run ends at e.jpg, with what was measured before and nothing else."""
    said = curation("run", "-c", config, code=3)
    assert error in said
    assert "Traceback" not in said
    left = said_of_sources(tmp_path / "out")
    assert [Path(name).name for name in left] == ["unit-000000.parquet"] * 2
    assert "nothing was missing" not in curation("status", "-c", config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("GPU lost", "EnvironmentFault: the GPU: AcceleratorError: CUDA error: unspecified launch failure"),
        ("disk full", "StorageError: No space left on device"),
        ("package damaged", "MissingDependencyError: ImportError: "),
    ],
)
def test_trouble_in_a_worker_stops_the_run_and_the_next_one_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, error: str
) -> None:
    config = troubled(folder, tmp_path, TroubledColor)
    with monkeypatch.context() as patch:
        patch.setenv(TROUBLE, trouble)
        stopped_by_a_trouble(config, tmp_path, error)
    measured = contents(tmp_path / "out")
    curation("run", "-c", config)
    after = contents(tmp_path / "out")
    assert [
        name
        for name in said_of_sources(tmp_path / "out")
        if "000000" in name and after[name] != measured[name]
    ] == []
    assert Bench(yaml.safe_load(config.read_text())).outcomes() == {"a.jpg": "kept", "e.jpg": "kept"}


@pytest.mark.slow
def test_input_that_goes_away_during_a_run_stops_it_and_the_next_one_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = troubled(folder, tmp_path, UnmountingColor)
    with monkeypatch.context() as patch:
        patch.setenv(INPUT, str(folder))
        stopped_by_a_trouble(config, tmp_path, f"StorageError: input {folder} is away")
    mount(folder)
    curation("run", "-c", config)
    assert Bench(yaml.safe_load(config.read_text())).outcomes() == {"a.jpg": "kept", "e.jpg": "kept"}


def test_input_that_may_not_be_entered_is_the_machines(open_folder: Path, tmp_path: Path) -> None:
    """Before, it was taken for an input in which there is nothing: an error of the configuration."""
    bench = captioned(open_folder, tmp_path)
    open_folder.parent.chmod(0o700)
    with without_rights(), pytest.raises(StorageError, match=f"{open_folder}: Permission denied"):
        list_inputs(bench.config)
