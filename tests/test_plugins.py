"""Stages, engines and exports of other packages, found by their entry points.

That they work is shown with the package of CONTRIBUTING.md (test_contributing.py); here is what can go wrong.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curation import registry
from curation.config import parse_config
from curation.errors import ConfigError
from curation.registry import ENGINES, EXPORTS, STAGES
from datasets_media import config_data, environment, said_by

Install = Callable[..., None]
GROUPS = {"curation.stages": STAGES, "curation.engines": ENGINES, "curation.exports": EXPORTS}
STAGE = """
from curation.stages.resolution import ResolutionStage
class Sharpness(ResolutionStage):
    name = "sharpness"
class Size(int):
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path: its name, its entry points, and a module if it has one."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))

    def add(name: str, group: str, points: dict[str, str], module: str | None = None) -> None:
        folder = place / f"{name.replace('-', '_')}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f"[{group}]", *(f"{point} = {target}" for point, target in points.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        if module is not None:
            (place / f"{name.replace('-', '_')}.py").write_text(module)
        registry._entry_points.cache_clear()

    registry._entry_points.cache_clear()
    yield add
    registry._entry_points.cache_clear()


def images(tmp_path: Path, filters: list[str], **settings: Any) -> dict[str, Any]:
    data = config_data(tmp_path, tmp_path / "out", tmp_path / "v")
    return {key: data[key] for key in ("name", "input", "output")} | {
        "images": {"filters": filters, **settings}
    }


def problem(tmp_path: Path, filters: list[str], **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(images(tmp_path, filters, **settings))
    return str(caught.value)


@pytest.mark.parametrize("group", GROUPS)
def test_two_packages_that_claim_a_name_are_both_named(install: Install, group: str) -> None:
    install("one-plugin", group, {"mine": "one:A"})
    install("other-plugin", group, {"mine": "other:A"})
    with pytest.raises(
        ConfigError,
        match=r"'mine' is claimed by the package one-plugin 1\.5 and by the package other-plugin 1\.5;",
    ):
        GROUPS[group].load("mine")


@pytest.mark.parametrize(("group", "name"), [(group, next(iter(kind))) for group, kind in GROUPS.items()])
def test_package_that_claims_a_name_of_our_own_is_named(install: Install, group: str, name: str) -> None:
    """It must not take the place of a built-in one in silence."""
    install("greedy-plugin", group, {name: "greedy:A"})
    with pytest.raises(
        ConfigError, match=f"{name!r} is claimed by curation itself and by the package greedy-plugin 1.5"
    ):
        GROUPS[group].load(name)
    assert list(GROUPS[group]) == list(GROUPS[group].built_in)
    assert len(GROUPS[group]) == len(GROUPS[group].built_in)


@pytest.mark.parametrize(
    ("target", "module", "why"),
    [
        ("no_such_module:A", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad_plugin:Missing", "A = 1", "AttributeError"),
        ("bad_plugin:A", "raise KeyError('torch')", "KeyError: 'torch'"),
        ("bad_plugin:A", "def A(:", "SyntaxError"),
        ("bad_plugin:A", "A = 1", "bad_plugin:A is no {kind}"),
        ("bad_plugin:Size", STAGE, "bad_plugin:Size is no {kind}"),
    ],
)
@pytest.mark.parametrize("group", GROUPS)
def test_broken_entry_point_names_its_package(
    install: Install, group: str, target: str, module: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "bad_plugin", raising=False)
    install("bad-plugin", group, {"mine": target}, module)
    with pytest.raises(ConfigError) as caught:
        GROUPS[group].load("mine")
    kind = GROUPS[group].kind
    assert f"the {kind} 'mine' of the package bad-plugin 1.5 is broken: " in str(caught.value)
    assert why.format(kind=kind) in str(caught.value)


def test_what_nobody_uses_disturbs_nobody(install: Install, tmp_path: Path) -> None:
    install("bad-plugin", "curation.stages", {"mine": "no_such_module:A", "color": "greedy:A"})
    parse_config(images(tmp_path, ["resolution"]))
    # Suggestions look at every stage; those that are broken are left out.
    assert "did you mean 'resolution'?" in problem(tmp_path, ["resolutoin"])
    assert "of the package bad-plugin 1.5 is broken" in problem(tmp_path, ["mine"])
    assert "images.filters: the stage 'color' is claimed by" in problem(tmp_path, ["color"])


def test_misspelt_name_of_a_plugin_gets_a_suggestion(install: Install, tmp_path: Path) -> None:
    install("sharp-plugin", "curation.stages", {"sharpness": "sharp_plugin:Sharpness"}, STAGE)
    config = parse_config(images(tmp_path, ["sharpness"], sharpness={"min_width": 9}))
    assert config.images is not None
    assert list(config.images.stages) == ["images.sharpness"]
    assert "unknown; did you mean 'sharpness'?" in problem(tmp_path, ["sharpnes"])
    said = problem(tmp_path, ["sharpness"], sharpness={"min_widht": 9})
    assert "images.sharpness.min_widht: unknown; did you mean 'min_width'?" in said
    install("engine-plugin", "curation.engines", {"oracle": "a:B"})
    data = images(tmp_path, ["resolution"]) | {"captions": {"engine": "oracel"}}
    with pytest.raises(
        ConfigError, match=r"captions\.engine: there is no caption engine 'oracel'; did you mean 'oracle'?"
    ):
        parse_config(data)


def test_help_names_formats_of_plugins_without_importing_any(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("dear-plugin", "curation.exports", {"dear": "dear_plugin:A"}, "raise SystemExit('imported')")
    code, said = said_by(capsys, "export", "--help")
    assert code == 0
    assert f"{', '.join(EXPORTS.built_in)}, dear" in said
    with pytest.raises(ConfigError, match="there is no export format 'daer'; did you mean 'dear'"):
        EXPORTS.load("daer")


def test_help_of_export_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom curation.cli.app import main\n"
        "try:\n    main(['export', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'ray', 'torch', 'numpy', 'pyarrow', 'cv2', 'av', 'rich', 'pydantic'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment()
    )
    assert "HEAVY []" in done.stdout
    assert "emu3, webdataset" in done.stdout
