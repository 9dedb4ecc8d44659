"""The dataset card: README.md beside the shards, as the Hugging Face hub shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from curation.pipeline import Pipeline
from curation.pipeline.decision import Decision
from curation.pipeline.rules import describe_rule
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.summary import Summary
from curation.stage import Column


def render_card(pipeline: Pipeline, summary: Summary, written: Any) -> str:
    """Markdown with the hub's YAML header. `written` is what the shard writer left."""
    general = pipeline.config.general
    header = yaml.safe_dump(
        {
            **_license(general.license),
            "pretty_name": general.name,
            "task_categories": ["text-to-image", "text-to-video", "image-to-text"],
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [
                        {"split": split, "path": f"{split}-*.parquet"}
                        for split in written.splits or ("train",)
                    ],
                }
            ],
        },
        sort_keys=False,
    )
    notice = untrained_notice(pipeline)
    parts = [
        f"---\n{header}---",
        f"> **{notice}**" if notice else None,
        f"# {general.name}",
        f"{written.num_samples} samples, {written.num_tokens} tokens, {written.num_shards} shards: captioned "
        "and tokenized images and clips for next-token training, in the format of Emu3 (arXiv 2409.18869).",
        "## How it was made",
        "\n".join(f"- {kind}s: {describe_rule(branch.rule)}" for kind, branch in pipeline.branches.items()),
        _branches(summary),
        _outcomes(summary),
        "## Thresholds and reasons",
        _decided(pipeline, written.decided),
        _steps(pipeline, summary),
        "## Models",
        _models(pipeline),
        "## Columns",
        _columns(written.columns),
        "## Use",
        "```python\nfrom datasets import load_dataset\n"
        "from curation.tokenize_shards.shards.rows import document_of\n\n"
        'dataset = load_dataset("parquet", data_files="train-*.parquet", split="train")\n'
        "document_of(dataset[0])  # ids of one document, ready for packing\n```",
        "Documents are built from `codes` when they are read "
        "(`curation.tokenize_shards.shards.loader` packs them for training); "
        "`curation export datasets` writes them out as `input_ids`. `manifest.json` holds every shard's "
        "sha256, rows, tokens and seconds of video; `curation verify` checks them.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _decided(pipeline: Pipeline, decided: Decision | None) -> str | None:
    """Where the thresholds came from, and where those of the shards are others than those below."""
    if decided is None:
        return None
    return "\n".join(f"- {line}" for line in (*decided.lines(), *decided.differences(pipeline.config)))


def _license(name: str) -> dict[str, str]:
    """The hub knows licences by short identifiers; anything else goes under "other"."""
    return (
        {"license": name}
        if re.fullmatch(r"[a-z0-9.-]+", name)
        else {"license": "other", "license_name": name}
    )


def _branches(summary: Summary) -> str:
    return "\n".join(
        f"- of {rule}: " + ", ".join(f"{branch} kept {number}" for branch, number in counts.items())
        for (_, rule), counts in summary.kept_by.items()
    )


def _outcomes(summary: Summary) -> str:
    lines = ["| | in | kept | rejected | failed | pending |", "|---|---|---|---|---|---|"]
    for kind, counts in summary.outcome_totals().items():
        numbers = " | ".join(str(number) for number in counts.values())
        lines.append(f"| {kind} | {numbers} |")
    return "\n".join(lines)


def _steps(pipeline: Pipeline, summary: Summary) -> str:
    lines = ["| step | settings | measured | reasons |", "|---|---|---|---|"]
    for key, step in {step.key: step for step in pipeline.steps()}.items():
        limits = {name: getattr(step.stage.config, name) for name in step.stage.thresholds()}
        settings = ", ".join(
            f"`{name}: {'off' if value is None else value}`" for name, value in limits.items()
        )
        reasons = ", ".join(
            f"{reason} {number}" for reason, number in summary.steps[key].reasons.most_common()
        )
        lines.append(f"| {key} | {settings} | {summary.steps[key].measured} | {reasons} |")
    return "\n".join(lines)


def _models(pipeline: Pipeline) -> str:
    lines = ["| step | role | name | revision | precision |", "|---|---|---|---|---|"]
    for model in pipeline.models:
        name = f"{model.name} **UNTRAINED**" if model.stand_in else model.name
        precision = model.precision or ""
        lines.append(f"| {model.step} | {model.role} | {name} | `{model.revision}` | {precision} |")
    return "\n".join(lines)


def _columns(columns: Mapping[str, Column]) -> str:
    lines = ["| column | means |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {column.meaning} |" for name, column in columns.items())])
