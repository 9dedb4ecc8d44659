"""Sets a stage up: loads its weights, where it is measured. What goes wrong there is never a source's fault.

stage = load_stage(step, Setup("cpu", pipeline.revisions(step)))
"""

from __future__ import annotations

from typing import Any

from curation.errors import CurationError, EnvironmentFault, SampleError, WorkerError
from curation.errors.isolation import described, isolated
from curation.pipeline.rules import Step
from curation.stage import Setup, Stage


def load_stage(step: Step, setup: Setup) -> Stage[Any]:
    """The step's stage, set up. Every error names the step and the reason.

    Raises:
        EnvironmentFault: whatever others raise: a file is missing or damaged, a package is broken, there is
            no memory. Errors that elsewhere concern a sample or a worker, and a stage that ends its process
            by `sys.exit`, are this too: no other worker would fare better.
        CurationError: any other of ours, of its own type, such as a ConfigError.
    """
    try:
        with isolated(EnvironmentFault):
            step.stage.setup(setup)
    except (SampleError, WorkerError, SystemExit) as error:
        raise EnvironmentFault(f"{step.key} can't be set up: {described(error)}") from error
    except CurationError as error:
        raise type(error)(f"{step.key} can't be set up: {error}") from error
    return step.stage
