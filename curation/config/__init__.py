"""Settings: what a configuration may hold, and reading it from YAML."""

from curation.config.choices import BranchChoice, RuleChoice, StageChoice
from curation.config.config import Config, load_config, parse_config

__all__ = ["BranchChoice", "Config", "RuleChoice", "StageChoice", "load_config", "parse_config"]
