"""What every registered caption engine and export format must keep to; stages have test_stages.py."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curation.captioner.engines.base import ROLE
from curation.captioner.settings import CaptionConfig
from curation.registry import ENGINES, EXPORTS, Registry
from datasets_media import environment

ENGINE_SETTINGS = {"model": "org/name", "url": "http://127.0.0.1:1/v1"}
"""Whatever an engine may require."""
EVERY = [(kind, name) for kind in (ENGINES, EXPORTS) for name in kind.built_in]
NAMES = [name for _, name in EVERY]


def engine(name: str) -> Any:
    return ENGINES.load(name)(CaptionConfig(engine=name, **ENGINE_SETTINGS))


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=NAMES)
def test_module_imports_nothing_heavy(kind: Registry, name: str) -> None:
    """Neither itself nor by what it imports: a configuration is checked in a moment, wherever it is."""
    script = (
        "import sys\nfrom curation.registry import *\n"
        f"{'ENGINES' if kind is ENGINES else 'EXPORTS'}.load({name!r})\n"
        "heavy = {'torch', 'cv2', 'av', 'ray', 'transformers', 'vllm', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment()
    )
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=NAMES)
def test_every_own_setting_says_what_it_is(kind: Registry, name: str) -> None:
    config = kind.load(name).Config
    tree = ast.parse(Path(sys.modules[config.__module__].__file__ or "").read_text())
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{ast.unparse(field.target)} has no docstring"


@pytest.mark.parametrize("name", ENGINES.built_in)
def test_engine_pickles_before_setup_and_names_who_writes(name: str) -> None:
    built = engine(name)
    again = pickle.loads(pickle.dumps(built))
    assert (again.config, again.own) == (built.config, built.own)
    assert built.author
    assert {ref.role for ref in built.models()} <= {ROLE}
    assert built.placement_settings() <= set(built.Config.model_fields)


@pytest.mark.parametrize("name", EXPORTS.built_in)
def test_format_has_a_default_for_every_setting(name: str) -> None:
    assert EXPORTS.load(name)(EXPORTS.load(name).Config()).config.model_config["frozen"]
