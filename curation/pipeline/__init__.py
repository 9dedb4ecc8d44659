"""A configuration made ready to run: stages, rules that decide who is kept, models."""

from curation.pipeline.pipeline import Branch, Pipeline, Readiness, ResolvedModel, build_pipeline

__all__ = ["Branch", "Pipeline", "Readiness", "ResolvedModel", "build_pipeline"]
