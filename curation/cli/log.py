"""What `run`, `stage` and `demo` print: text for people, or with `--log-format json` a JSON object per line.

    with run_log("json") as log:
        result = run(config, options, log.progress)
        return log.conclude(result, config.run.max_failed_fraction)

Either way all of it goes through here: progress, warnings, the summary, what failed, and the error that
ends the run. The last lines tell what happened.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import click

from curation.cli.console import echo
from curation.cli.stopping import STOPPED, StopSignals
from curation.errors import CurationError
from curation.errors.redaction import redact_settings

if TYPE_CHECKING:
    from curation.execution.progress import Event, ProgressListener
    from curation.execution.run import Result

NOTHING_MISSING = "nothing was missing: no media was opened"
TOO_MANY_FAILURES = 1
"""Exit code."""


class RunLog(Protocol):
    """Where a command that measures tells what it does."""

    progress: ProgressListener

    def conclude(self, result: Result, max_failed_fraction: float) -> int:
        """Print the summary; the exit code."""

    def fail(self, error: CurationError) -> int:
        """Print what ended the run; the exit code."""


def run_log(log_format: str) -> RunLog:
    """The log in a format: `text` or `json`."""
    return JsonLog() if log_format == "json" else TextLog()


def _too_many(result: Result, max_failed_fraction: float) -> str | None:
    failed = result.summary.failed_fraction()
    if failed <= max_failed_fraction:
        return None
    return f"{failed:.1%} failed, more than run.max_failed_fraction: {max_failed_fraction:g}"


class TextLog:
    """Tables and lines."""

    def __init__(self) -> None:
        from curation.cli.console import console
        from curation.execution.progress import ConsoleProgress

        self._console = console()
        self.progress: ProgressListener = ConsoleProgress(self._console)

    def conclude(self, result: Result, max_failed_fraction: float) -> int:
        from curation.report.summary.funnel import print_failures, print_funnel

        out = self._console
        # What there is to say of stand-ins was said at the beginning.
        print_funnel(out, result.pipeline, result.summary, with_notice=False)
        if not result.did_work:
            out.print(NOTHING_MISSING)
        for name, place in result.paths.items():
            out.print(f"{name:>7}: {place}")
        print_failures(out, result.summary)
        complaint = _too_many(result, max_failed_fraction)
        if complaint is None:
            return 0
        out.print(complaint, style="red")
        return TOO_MANY_FAILURES

    def fail(self, error: CurationError) -> int:
        echo(f"{type(error).__name__}: {error}", err=True)
        return error.exit_code


class JsonLog:
    """A JSON object per line of standard output, with `time` (UTC), `level`, `event`, `message`, and more."""

    def __init__(self) -> None:
        from curation.execution.progress import LineProgress

        self.progress: ProgressListener = LineProgress(self._write, last_words=self._last_words)
        stop = click.get_current_context().find_object(StopSignals)
        if stop is not None:
            stop.say_by(sys.stdout.fileno(), self._stopped)

    def conclude(self, result: Result, max_failed_fraction: float) -> int:
        from curation.report.summary.funnel import untrained_notice

        summary = result.summary
        self._put(
            "summary",
            "the counts add up" if result.did_work else NOTHING_MISSING,
            untrained=untrained_notice(result.pipeline),
            outcomes=summary.outcome_totals(),
            steps={
                key: {"measured": step.measured, "reasons": dict(step.reasons)}
                for key, step in summary.steps.items()
            },
            paths=result.paths,
        )
        for kind, number in summary.failed_by.most_common():
            examples = [
                {"uri": one.uri, "sample_id": one.sample_id, "step": one.step, "error": one.error}
                for one in summary.failed_examples[kind]
            ]
            self._put(
                "failed",
                f"{number} failed by {kind}",
                "warning",
                error_type=kind,
                number=number,
                examples=examples,
            )
        complaint = _too_many(result, max_failed_fraction)
        if complaint is None:
            self._put("ended", "done", exit_code=0)
            return 0
        self._put("ended", complaint, "error", exit_code=TOO_MANY_FAILURES)
        return TOO_MANY_FAILURES

    def fail(self, error: CurationError) -> int:
        click.echo(_last_line(error))
        return error.exit_code

    @staticmethod
    def _last_words(error: CurationError) -> tuple[int, str]:
        return sys.stdout.fileno(), _last_line(error) + "\n"

    def _write(self, event: Event) -> None:
        self._put(event.name, event.text, event.level, **event.fields)

    def _put(self, event: str, message: str, level: str = "info", **fields: Any) -> None:
        click.echo(_line(event, message, level, fields))

    @staticmethod
    def _stopped(exit_code: int) -> str:
        return _line("ended", STOPPED, "warning", {"exit_code": exit_code}) + "\n"


def _line(event: str, message: str, level: str, fields: Mapping[str, Any]) -> str:
    now = time.time()
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
    return json.dumps(
        redact_settings({"time": moment, "level": level, "event": event, "message": message, **fields})
    )


def _last_line(error: CurationError) -> str:
    facts = {"error_type": type(error).__name__, "exit_code": error.exit_code}
    return _line("ended", str(error), "error", facts)
