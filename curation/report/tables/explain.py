"""Everything known about one source or sample, and why it was kept or not."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from curation.errors.visible import on_one_line
from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict, SourceVerdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Verdict, describe_rule, passed_by
from curation.records import Outcome, Source
from curation.report.tables.lookup import find_one


def explain(console: Console, ledger: Ledger, pipeline: Pipeline, wanted: str) -> None:
    """Print what is known about `wanted`: a source id, URI or file name, or a sample id; a prefix will do.

    Raises:
        ConfigError: nothing, or more than one source, has this name.
    """
    hit = find_one(ledger, pipeline, wanted)
    source, samples = hit.judged, hit.samples
    _print_source(console, replace(source, verdict=Verdict(Outcome.GONE)) if hit.is_gone else source)
    if hit.is_gone:
        console.print("  gone from the inputs, so it counts nowhere; what follows counts again if it returns")
    for sample in samples or source.samples:
        _print_sample(console, pipeline, sample, "")
        for rule, part in passed_by(pipeline.branches[source.source.kind].rule, sample.rows):
            console.print(f"  kept by {describe_rule(part)}, of {describe_rule(rule)}")


def _print_source(console: Console, judged: SourceVerdict) -> None:
    source = judged.source
    console.print(on_one_line(source.uri), style="bold", end="  ")
    console.print(f"source {source.source_id}  {judged.verdict.outcome}")
    console.print("  " + ", ".join(f"{name} {value}" for name, value in source_facts(source).items()))
    if source.metadata:
        found = sorted(source.metadata.items())
        metadata = ", ".join(f"{name} {shown(value)}" for name, value in found if not _is_empty(value))
        console.print(f"  metadata {metadata or 'without values'}")
    if judged.verdict.reason:
        console.print(f"  {judged.verdict.outcome} by {judged.verdict.reason}")
    if judged.error:
        console.print(f"  {judged.error}")


def source_facts(source: Source) -> dict[str, str]:
    """What the header of a source says, for people; without what is not there."""
    facts = {
        "size": f"{source.size_bytes} bytes",
        "pixels": f"{source.width}x{source.height}" if source.width else None,
        "frames/s": f"{float(source.frame_rate):.3f}" if source.frame_rate else None,
        "seconds": f"{source.duration_s:.3f}" if source.duration_s else None,
        "codec": source.codec,
        "mirrored": source.mirrored or None,
        "rotation": source.rotation or None,
        "discontinuities": source.num_discontinuities or None,
        "interlaced": source.interlaced or None,
        "transfer": source.color_transfer if source.is_hdr else None,
    }
    return {name: str(value) for name, value in facts.items() if value}


def _print_sample(console: Console, pipeline: Pipeline, judged: SampleVerdict, indent: str) -> None:
    sample, verdict = judged.sample, judged.verdict
    span = f" {sample.start_s:.3f}-{sample.end_s:.3f} s" if sample.kind == "clip" else ""
    reason = f": {verdict.reason}" if verdict.reason else ""
    waits = f", waits for {verdict.needs.key}" if verdict.needs else ""
    console.print(f"{indent}{sample.kind} {sample.sample_id}", style="bold", end="")
    console.print(f"{span}  {verdict.outcome}{reason}{waits}")
    for step in pipeline.steps():
        row = judged.rows.get(step.key)
        if row is None:
            continue
        if not row.ok:
            console.print(f"{indent}  {step.key}: {row.error_type}: {row.error}")
            continue
        values = ", ".join(
            f"{name} {shown(value)}"
            for name, value in row.values.items()
            if name not in step.large_columns and not _is_empty(value)
        )
        rejects = step.stage.reject_reason(row.values)
        console.print(
            f"{indent}  {step.key}: {values or 'measured'}{f'  -> {rejects}' if rejects else ''}",
        )
    for window in judged.windows:
        _print_sample(console, pipeline, window, indent + "  ")


def _is_empty(value: object) -> bool:
    """Whether a value says nothing, such as the codec of an image; 0 and False say something."""
    return value is None or value in ("", b"", [])


def shown(value: object) -> str:
    """A measured value, or one that came with a source, for people."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return str(value)
