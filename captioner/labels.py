"""Training data for a captioner: clips drawn from a ledger, described by a strong model, corrected by people.

A folder holds labels.jsonl, one label a line, and frames/<sample_id>/0.jpg and so on. Annotators edit
`caption` in a copy of labels.jsonl, or set `accept` to false; `history` says who changed what and when.
Emu3 trained its captioner on 8 frames of each clip and captions of a strong model that people corrected
(arXiv 2409.18869).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.captioner.engines.base import Answer, Engine, Question
from curation.captioner.prompt import load_prompts
from curation.captioner.strata import stratified_clips
from curation.errors import CaptionError, ConfigError, DecodeError, SampleError
from curation.ingest.media_readers import VideoReader
from curation.ledger import Ledger
from curation.media.image import read_image
from curation.media.views import SpanCollector
from curation.pipeline import Pipeline
from curation.records import Sample, Source, stable_id
from curation.stage import View

LABELS = "labels.jsonl"
TrainingFormat = Literal["llamafactory", "qwen"]


@dataclass(frozen=True)
class Label:
    """A clip and what is said about it.

    Attributes:
        uri: The clip's file.
        stratum: Which part of the data it stands for, such as "5-10 s, motion high, looks low".
        frames: Paths below the folder, in the order of time.
        caption: What annotators edit; null until a model was asked.
        model: Who wrote the first caption.
        accept: False leaves the clip out of training data.
        history: Who said what and when, oldest first.
    """

    sample_id: str
    uri: str
    start_s: float
    end_s: float
    stratum: str
    frames: list[str]
    prompt: str
    caption: str | None = None
    model: str | None = None
    accept: bool = True
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reviewed(self) -> bool:
        """Whether a person looked at it."""
        return any(entry["by"] != self.model for entry in self.history)


def draw(
    ledger: Ledger,
    pipeline: Pipeline,
    folder: Path,
    *,
    number: int,
    seed: int,
    num_frames: int,
    short_side: int,
) -> list[Label]:
    """Draw clips that the filters keep, and write their frames and labels.jsonl.

    The same seed draws the same clips, and a larger number adds to them. Labels that are there stay.

    Raises:
        ConfigError: no clip is kept.
    """
    clips = stratified_clips(ledger, pipeline)
    if not clips.num_rows:
        raise ConfigError("no clip has passed the filters yet: run them first, with `curation run`")
    strata = dict(zip(clips["sample_id"].to_pylist(), clips["stratum"].to_pylist(), strict=True))
    known = {label.sample_id: label for label in read_labels(folder)} if (folder / LABELS).exists() else {}
    labels = list(known.values())
    new = [sample_id for sample_id in drawn(strata, number, seed) if sample_id not in known]
    for sample, source in _with_sources(ledger, clips, new):
        try:
            span_s = sample.duration_s
            reader = VideoReader(source, pipeline.config.decoder, lambda: None, sample.start_s, span_s=span_s)
            view = View(count=num_frames, short_side=short_side)
            frames = _write_frames(folder, source, sample, reader, view)
        except SampleError:
            continue  # the file is gone or damaged since; a run will say so
        prompt = load_prompts(None, {"long": 1.0}, structured=False).text(
            "clip",
            "long",
            structured=False,
            num_frames=len(frames),
            seconds=sample.duration_s,
            language="English",
        )
        span = (sample.start_s, sample.end_s)
        stratum = strata[sample.sample_id]
        labels.append(Label(sample.sample_id, source.uri, *span, stratum, frames, prompt))
    write_labels(folder, labels)
    return labels


def drawn(strata: Mapping[str, str], number: int, seed: int) -> list[str]:
    """`number` of the samples, as many of each stratum as it has or as come to it in turn.

    `strata` maps sample ids to strata. Within a stratum the order is that of a hash of seed and id.
    """
    groups = defaultdict(list)
    for sample_id in sorted(strata, key=lambda name: stable_id("label", seed, name)):
        groups[strata[sample_id]].append(sample_id)
    rounds = zip_longest(*(groups[name] for name in sorted(groups)))
    return [sample_id for one in rounds for sample_id in one if sample_id is not None][:number]


def ask(folder: Path, engine: Engine[Any], model: str, say: Callable[[str], None], *, batch: int = 32) -> int:
    """Ask a model for every caption that is missing, saving after each batch; how many it gave."""
    labels = {label.sample_id: label for label in read_labels(folder)}
    missing = [label for label in labels.values() if label.caption is None]
    given = 0
    say(f"asking {model} for {len(missing)} captions")
    for start in range(0, len(missing), batch):
        group = missing[start : start + batch]
        for label, answer in zip(
            group, engine.answer([_question(folder, item) for item in group]), strict=True
        ):
            if isinstance(answer, CaptionError) or not answer.text.strip():
                say(f"{label.sample_id}: {answer if isinstance(answer, CaptionError) else 'no text'}")
                continue
            labels[label.sample_id] = _captioned(label, answer, model)
            given += 1
        write_labels(folder, labels.values())
    return given


def take_corrections(folder: Path, corrected: Path, by: str, at: datetime | None = None) -> dict[str, int]:
    """Take captions and acceptance from an edited copy of labels.jsonl; counts of what was done.

    Every label in the copy counts as reviewed by `by`. Labels that the copy leaves out stay as they are.

    Raises:
        ConfigError: a line is no label, or of a clip that was not drawn.
    """
    labels = {label.sample_id: label for label in read_labels(folder)}
    when = (at or datetime.now(UTC)).isoformat(timespec="seconds")
    counts = {"corrected": 0, "confirmed": 0, "rejected": 0}
    for number, edited in _records(corrected):
        label = labels.get(str(edited.get("sample_id")))
        caption, accept = edited.get("caption"), edited.get("accept", True)
        if label is None:
            raise ConfigError(f"{corrected}:{number}: {edited.get('sample_id')!r} is no clip of {folder}")
        if not isinstance(accept, bool) or (accept and not (isinstance(caption, str) and caption.strip())):
            raise ConfigError(f"{corrected}:{number}: needs a caption, or accept: false")
        did = "rejected" if not accept else "confirmed" if caption == label.caption else "corrected"
        counts[did] += 1
        entry = {"by": by, "at": when, "did": did, "caption": caption}
        labels[label.sample_id] = replace(
            label, caption=caption, accept=accept, history=[*label.history, entry]
        )
    write_labels(folder, labels.values())
    return counts


def export(folder: Path, target: Path, layout: TrainingFormat, *, unreviewed: bool = False) -> int:
    """Write training data in the layout of LLaMA-Factory or of Qwen-VL's fine-tuning code; how many clips.

    LLaMA-Factory also gets dataset_info.json beside the file. Frames are named by absolute paths.

    Raises:
        ConfigError: nothing is reviewed and accepted.
    """
    chosen = [
        label
        for label in read_labels(folder)
        if label.accept and label.caption and (unreviewed or label.reviewed)
    ]
    if not chosen:
        raise ConfigError(f"{folder} has no reviewed and accepted caption; --unreviewed takes the model's")
    target.parent.mkdir(parents=True, exist_ok=True)
    write = _llamafactory if layout == "llamafactory" else _qwen
    _write_json(target, [write(folder.absolute(), label) for label in chosen])
    if layout == "llamafactory":
        _register(target)
    return len(chosen)


def read_labels(folder: Path) -> list[Label]:
    """The labels of a folder.

    Raises:
        ConfigError: it has none, or a line is no label.
    """
    labels = []
    for number, record in _records(folder / LABELS):
        try:
            labels.append(Label(**record))
        except TypeError as error:
            raise ConfigError(f"{folder / LABELS}:{number} is no label: {error}") from error
    return labels


def write_labels(folder: Path, labels: Iterable[Label]) -> None:
    """Write labels.jsonl, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{LABELS}.part"
    part.write_text(
        "".join(f"{json.dumps(asdict(label), ensure_ascii=False)}\n" for label in labels), "utf-8"
    )
    part.replace(folder / LABELS)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSONL file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{path}:{number} is no JSON object")
        yield number, record


def _with_sources(
    ledger: Ledger, clips: pa.Table, sample_ids: Sequence[str]
) -> Iterator[tuple[Sample, Source]]:
    """These clips in order, with the sources they are from, of which only their units are read."""
    places = pc.index_in(pa.array(sample_ids, pa.string()), value_set=clips["sample_id"].combine_chunks())
    rows = clips.take(places).to_pylist()
    wanted = {row["source_id"] for row in rows}
    sources = {
        source.source_id: source
        for unit in sorted({row["unit"] for row in rows})
        for source in ledger.sources(unit)
        if source.source_id in wanted
    }
    for row in rows:
        names = ("sample_id", "source_id", "start_s", "end_s")
        yield Sample(kind="clip", **{name: row[name] for name in names}), sources[row["source_id"]]


def _write_frames(folder: Path, source: Source, clip: Sample, reader: VideoReader, view: View) -> list[str]:
    from PIL import Image

    collector = SpanCollector([clip], [view])
    for frame in reader:
        if collector.push(frame):
            break
    else:
        collector.finish()
    pixels = collector.media(view, source, clip).pixels
    if len(pixels) == 0:
        raise DecodeError("the clip has no frame")
    place = folder / "frames" / clip.sample_id
    place.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(place / f"{number}.jpg", quality=92)
    return [f"frames/{clip.sample_id}/{number}.jpg" for number in range(len(pixels))]


def _question(folder: Path, label: Label) -> Question:
    frames = np.stack([read_image(folder / name) for name in label.frames])
    return Question(label.prompt, frames, "clip", label.end_s - label.start_s)


def _captioned(label: Label, answer: Answer, model: str) -> Label:
    caption = answer.text.strip()
    entry = {
        "by": model,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "did": "wrote",
        "caption": caption,
    }
    return replace(label, caption=caption, model=model, history=[*label.history, entry])


def _llamafactory(folder: Path, label: Label) -> dict[str, Any]:
    """https://github.com/hiyouga/LLaMA-Factory/tree/main/data, its "mllm_demo"."""
    asked = "<image>" * len(label.frames) + label.prompt
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": label.caption}],
        "images": [str(folder / name) for name in label.frames],
    }


def _qwen(folder: Path, label: Label) -> dict[str, Any]:
    """https://github.com/QwenLM/Qwen2.5-VL/tree/main/qwen-vl-finetune."""
    asked = "<image>\n" * len(label.frames) + label.prompt
    return {
        "image": [str(folder / name) for name in label.frames],
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": label.caption}],
    }


def _register(target: Path) -> None:
    place = target.parent / "dataset_info.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    known[target.stem] = {
        "file_name": target.name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    _write_json(place, known)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
