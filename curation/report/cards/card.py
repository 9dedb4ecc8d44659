"""The dataset card: README.md beside the shards, as the Hugging Face hub shows it, and croissant.json.

render_card(pipeline, summary, written)       # written: what the shard writer left
render_shards_croissant(pipeline, written)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation.errors.redaction import redact_settings
from curation.ledger.columns import OUTCOMES
from curation.pipeline import Pipeline
from curation.pipeline.decision import Decision
from curation.pipeline.rules import describe_rule
from curation.report.cards.croissant import DescribedFile, Description, render_croissant
from curation.report.cards.header import (
    SplitSize,
    card_text,
    configs_of,
    dataset_info,
    license_fields,
    size_category,
)
from curation.report.cards.statistics import QUANTILES, SampleStatistics, quantiles
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.summary import Summary
from curation.stage import Column

MAX_ROWS = 12
"""Rows of a table of licences or resolutions; the rest is summed up."""
_TASKS = {"image": ("text-to-image", "image-to-text"), "clip": ("text-to-video", "video-text-to-text")}
_LANGUAGES = {
    "Arabic": "ar",
    "Chinese": "zh",
    "Dutch": "nl",
    "English": "en",
    "French": "fr",
    "German": "de",
    "Greek": "el",
    "Hebrew": "he",
    "Hindi": "hi",
    "Indonesian": "id",
    "Italian": "it",
    "Japanese": "ja",
    "Korean": "ko",
    "Polish": "pl",
    "Portuguese": "pt",
    "Russian": "ru",
    "Spanish": "es",
    "Thai": "th",
    "Turkish": "tr",
    "Ukrainian": "uk",
    "Vietnamese": "vi",
}
"""ISO 639-1, as the Hub wants languages."""
_LIMITS = """\
- Captions and scores are what models said. None of them was checked by a person, and each passes on \
what its own training data were biased to: an aesthetic score prefers some styles, subjects and places, \
and a captioner names some better than others.
- Text detectors miss handwriting and take some round things for text; a filter on text throws these \
away.
- Faces, names, addresses and marks in the media were not looked for and not removed.
- A license is stated as its source brought it, and was not checked.
- Decoding the vision tokens gives back a picture that resembles the original, not the original."""
_LOAD = """\
```python
from datasets import load_dataset
from curation.tokenize_shards.shards.rows import document_of

dataset = load_dataset("parquet", data_files="train-*.parquet", split="train")
document_of(dataset[0])  # ids of one document, ready for packing
```

Documents are built from `codes` when they are read (`curation.tokenize_shards.shards.loader` packs them \
for training); `curation export datasets` writes them out as `input_ids`. `manifest.json` holds every \
shard's sha256, rows, tokens and seconds of video, and `curation verify` checks them; `croissant.json` \
describes files and columns for machines."""
_RETRACT = """\
Who holds the output of the run takes out everything that comes from a source with `curation retract \
--source URI`, which writes the shards concerned anew. In a copy of the shards, the rows of a source are \
those of one `source_id`, or of one `source_uri`; whoever made exports finds in `export.json` which file \
comes from which shard."""


def render_card(pipeline: Pipeline, summary: Summary, written: Any) -> str:
    """Markdown with the hub's YAML header. `written` is what the shard writer left."""
    statistics: SampleStatistics = written.statistics
    notice = untrained_notice(pipeline)
    name = pipeline.config.general.name
    sections = {
        "Sources": _sources(pipeline, summary, statistics),
        "Filters and thresholds": _filters(pipeline, summary, written.decided),
        "Models": _models(pipeline),
        "What became of everything": _outcomes(summary),
        "Known failures": _failures(summary),
        "Statistics": _statistics(written, statistics),
        "Limits and biases": _LIMITS,
        "Columns": _columns(written.columns),
        "How to load it": _LOAD,
        "How to retract a source": _RETRACT,
    }
    parts = [
        f"> **{notice}**" if notice else None,
        f"# {name}",
        f"{written.num_samples} samples, {written.num_tokens} tokens, {written.num_shards} shards: captioned "
        "and tokenized images and clips for next-token training, in the format of Emu3 (arXiv 2409.18869).",
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return card_text(_header(pipeline, written), "\n\n".join(part for part in parts if part))


def render_shards_croissant(pipeline: Pipeline, written: Any) -> str:
    """croissant.json of the shards. `written` is what the shard writer left."""
    general = pipeline.config.general
    what = f"{written.num_samples} captioned and tokenized images and clips, in the format of Emu3."
    return render_croissant(
        Description(
            name=general.name,
            text=" ".join(filter(None, (untrained_notice(pipeline), what))),
            license=general.license,
            license_link=general.license_link,
            selection=written.selection,
            patterns={split: f"{split}-*.parquet" for split in written.splits},
            columns={name: column.type for name, column in written.columns.items()},
            meanings={name: column.meaning for name, column in written.columns.items()},
        ),
        [DescribedFile(shard.name, shard.size_bytes, shard.sha256) for shard in written.shards],
    )


def _decided(pipeline: Pipeline, decided: Decision | None) -> str | None:
    """Where the thresholds came from, and where those of the shards are others than those below."""
    if decided is None:
        return None
    return "\n".join(f"- {line}" for line in (*decided.lines(), *decided.differences(pipeline.config)))


def _header(pipeline: Pipeline, written: Any) -> dict[str, Any]:
    general = pipeline.config.general
    kinds = [kind for kind in _TASKS if written.statistics.samples[kind]] or list(_TASKS)
    splits = {
        split: SplitSize(
            sum(shard.num_samples for shard in written.shards if shard.split == split),
            sum(shard.size_bytes for shard in written.shards if shard.split == split),
        )
        for split in written.splits
    }
    schema = pa.schema([(name, column.type) for name, column in written.columns.items()])
    return {
        **license_fields(general.license, general.license_link),
        "pretty_name": general.name,
        "language": _languages(pipeline),
        "size_categories": [size_category(written.num_samples)],
        "task_categories": [task for kind in kinds for task in _TASKS[kind]],
        "tags": ["curation", "emu3", "vision-tokens", *(["untrained"] if pipeline.stand_ins else [])],
        "dataset_info": dataset_info(schema, splits) if splits else None,
        "configs": configs_of({split: f"{split}-*.parquet" for split in written.splits or ("train",)}),
    }


def _languages(pipeline: Pipeline) -> list[str] | None:
    """The language that captions were asked for, where the captioner has such a setting."""
    step = pipeline.producer("caption")
    asked = None if step is None else getattr(step.stage.config, "language", None)
    return [_LANGUAGES[asked]] if asked in _LANGUAGES else None


def _sources(pipeline: Pipeline, summary: Summary, statistics: SampleStatistics) -> str:
    config = redact_settings(pipeline.config.resolved)
    inputs = config.get("input") or []
    places = [inputs] if isinstance(inputs, str) else inputs
    counts = ", ".join(f"{counts.total()} {kind} sources" for kind, counts in summary.sources.items())
    gone = f" {summary.gone.total()} more have left the inputs since." if summary.gone else ""
    total = statistics.samples.total()
    rows = [(_cell(name), number, _share(number, total)) for name, number in _top(statistics.licenses)]
    return "\n\n".join(
        [
            f"{counts or 'No sources'}, from " + ", ".join(f"`{place}`" for place in places) + f".{gone}",
            f"The license of the whole is `{pipeline.config.general.license}`; the column `license` says for "
            "each sample what its source brought along, or else this.",
            _table(("license", "samples", "share"), rows),
        ]
    )


def _filters(pipeline: Pipeline, summary: Summary, decided: Decision | None) -> str:
    rules = "\n".join(
        f"- {kind}s: {describe_rule(branch.rule)}" for kind, branch in pipeline.branches.items()
    )
    kept = "\n".join(
        f"- of {rule}: " + ", ".join(f"{branch} kept {number}" for branch, number in counts.items())
        for (_, rule), counts in summary.kept_by.items()
    )
    return "\n\n".join(
        part for part in (rules, kept, _decided(pipeline, decided), _steps(pipeline, summary)) if part
    )


def _steps(pipeline: Pipeline, summary: Summary) -> str:
    rows = []
    for key, step in {step.key: step for step in pipeline.steps()}.items():
        limits = {name: getattr(step.stage.config, name) for name in step.stage.thresholds()}
        settings = ", ".join(
            f"`{name}: {'off' if value is None else value}`" for name, value in limits.items()
        )
        counted = summary.steps[key]
        reasons = ", ".join(f"{reason} {number}" for reason, number in counted.reasons.most_common())
        ended = (counted.outcomes[outcome] for outcome in OUTCOMES[:3])
        rows.append((key, settings, counted.measured, *ended, reasons))
    return _table(("step", "thresholds", "measured", "passed", "rejected", "failed", "reasons"), rows)


def _models(pipeline: Pipeline) -> str:
    rows = [
        (
            model.step,
            model.role,
            f"{model.name} **UNTRAINED**" if model.stand_in else model.name,
            f"`{model.revision}`",
            model.precision or "",
        )
        for model in pipeline.models
    ]
    return _table(("step", "role", "name", "revision", "precision"), rows) if rows else "None."


def _outcomes(summary: Summary) -> str:
    rows = [(kind, *counts.values()) for kind, counts in summary.outcome_totals().items()]
    return (
        "Failed is not rejected: of what failed nobody knows whether it would have been kept.\n\n"
        + _table(("", "in", "kept", "rejected", "failed", "pending"), rows)
    )


def _failures(summary: Summary) -> str:
    total = sum(counts.total() for group in (summary.sources, summary.samples) for counts in group.values())
    if not summary.num_failures:
        return "Nothing failed."
    rows = [(kind, number, _share(number, total)) for kind, number in summary.failed_by.most_common()]
    return f"Of {total} sources and samples:\n\n" + _table(("error", "failed", "share"), rows)


def _statistics(written: Any, statistics: SampleStatistics) -> str:
    kinds = ", ".join(f"{number} {kind}s" for kind, number in sorted(statistics.samples.items()))
    per_sample = written.num_tokens / written.num_samples if written.num_samples else 0
    facts = [
        f"- samples: {kinds or 'none'}",
        f"- tokens: {written.num_tokens}, {per_sample:.0f} a sample",
        f"- video: {statistics.clip_s:.1f} s",
        "- captions by: "
        + (", ".join(f"{name} ({n})" for name, n in _top(statistics.caption_models)) or "none"),
    ]
    splits = [
        (
            split,
            len(own := [shard for shard in written.shards if shard.split == split]),
            sum(shard.num_samples for shard in own),
            sum(shard.num_tokens for shard in own),
            f"{sum(shard.media_s for shard in own):.1f}",
            sum(shard.size_bytes for shard in own),
        )
        for split in written.splits
    ]
    measured = {"characters of a caption": statistics.caption_length, **statistics.scores}
    spread = [
        (name, *(f"{value:.4g}" for value in quantiles(histogram)))
        for name, histogram in measured.items()
        if histogram.total
    ]
    sizes = [
        (kind, f"{width} x {height}", number)
        for (kind, width, height), number in statistics.resolutions.most_common(MAX_ROWS)
    ]
    rest = len(statistics.resolutions) - len(sizes)
    parts = [
        "\n".join(facts),
        _table(("split", "shards", "samples", "tokens", "seconds of video", "bytes"), splits),
        _table(("", *(_percent(at) for at in QUANTILES)), spread) if spread else None,
        _table(("kind", "pixels as tokenized", "samples"), sizes) if sizes else None,
        f"And {rest} more sizes." if rest else None,
    ]
    return "\n\n".join(part for part in parts if part)


def _columns(columns: Mapping[str, Column]) -> str:
    return _table(
        ("column", "type", "means"),
        [(f"`{name}`", f"`{column.type}`", column.meaning) for name, column in columns.items()],
    )


def _top(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The commonest, and the sum of the others."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, others = ordered[:MAX_ROWS], ordered[MAX_ROWS:]
    rest = sum(number for _, number in others)
    return [*shown, (f"{len(others)} others", rest)] if others else shown


def _share(number: int, total: int) -> str:
    return f"{number / total:.2%}" if total else ""


def _percent(share: float) -> str:
    return {0.0: "lowest", 0.5: "median", 1.0: "highest"}.get(share, f"{share:.0%}")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A text of the sources, which must not break a table or be taken for markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))[:200]
