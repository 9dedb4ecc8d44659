"""Model names to files: which revision a name stands for, and where its files are.

A name is, tried in this order:
    package:NAME/path/file    a file inside an installed package
    https://...               a file, with its sha256 beside it in the configuration
    a path that exists        a file or a folder
    org/name                  a repository on the Hugging Face hub
A revision is the hub's commit, or the sha256 of the file or folder; it is never invented.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import re
import tempfile
import urllib.request
from pathlib import Path

from curation.errors import ConfigError, EnvironmentFault, MissingDependencyError
from curation.stage import ModelRef

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
STAND_IN = "stand-in"

_INSTALL_COMMANDS = {
    # Taken for the models in its wheel: its code would need a second OpenCV, and a Python below 3.13.
    "rapidocr_onnxruntime": "pip install --no-deps --ignore-requires-python rapidocr-onnxruntime==1.4.4",
}


def install_command(package: str) -> str:
    """What installs `package` (its import name), for messages that say it is missing."""
    return _INSTALL_COMMANDS.get(package, f"pip install {package.replace('_', '-')}")


def resolve_revision(ref: ModelRef) -> str:
    """The commit or sha256 that `ref` stands for now.

    Raises:
        ConfigError: the name is none of the four kinds, or the file's sha256 is not the one asked for.
        MissingDependencyError: the hub can't be reached and the model is not in the local cache.
    """
    if ref.stand_in:
        return STAND_IN
    if ref.name.startswith(("http://", "https://")):
        if ref.sha256 is None:
            raise ConfigError(f"{ref.role}: a URL needs the file's sha256 beside it: {ref.name}")
        return ref.sha256
    local = _local_path(ref)
    if local is not None:
        return _checked(ref, _digest(local))
    return _hub_commit(ref)


def fetch(ref: ModelRef, revision: str) -> Path:
    """The model's file or folder on this machine, downloaded if need be.

    Raises:
        ConfigError: what lies there is not `revision`.
        MissingDependencyError: it can't be downloaded.
    """
    if ref.name.startswith(("http://", "https://")):
        return _download(ref.name, revision)
    local = _local_path(ref)
    if local is None:
        path = _hub_files(ref, revision)
        if ref.sha256 is not None:
            _checked(ref, _digest(path))
        return path
    if _digest(local) != revision:
        raise ConfigError(f"{ref.name} differs from the one that this run was planned with")
    return local


def _local_path(ref: ModelRef) -> Path | None:
    if ref.name.startswith("package:"):
        package, _, inside = ref.name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError(
                f"{ref.role}: the package {package} is not installed: {install_command(package)}"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / inside
    else:
        path = Path(ref.name).expanduser()
    if not path.exists():
        if ref.is_on_hub:
            return None
        raise ConfigError(f"{ref.role}: there is no file or folder {ref.name}")
    return path / ref.file if ref.file and path.is_dir() else path


def _digest(path: Path) -> str:
    """sha256 of a file; of a folder, over names and digests of all files below it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise ConfigError(f"there is no file or folder {path}")
    total = hashlib.sha256()
    for file_path in sorted(item for item in path.rglob("*") if item.is_file()):
        total.update(f"{file_path.relative_to(path).as_posix()}\0{_digest(file_path)}\n".encode())
    return total.hexdigest()


def _checked(ref: ModelRef, digest: str) -> str:
    if ref.sha256 is not None and digest != ref.sha256:
        raise ConfigError(f"{ref.role}: {ref.name} has sha256 {digest}, the configuration says {ref.sha256}")
    return digest


def _hub_commit(ref: ModelRef) -> str:
    """The commit that the hub, or out of its reach the local cache, has for the revision asked for."""
    from huggingface_hub import snapshot_download

    asked = ref.revision or "main"
    if _COMMIT.match(asked):
        return asked
    try:
        # Resolves the revision and downloads nothing; a snapshot's folder has its commit as name.
        return Path(snapshot_download(ref.name, revision=asked, allow_patterns=[])).name
    except _hub_errors() as error:
        raise MissingDependencyError(
            f"{ref.role}: {ref.name} is no file or folder here, and as a hub name it is neither on the "
            "hub nor in the local cache; download it first, or name a folder or a file"
        ) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises; a connection that breaks off is an error of the HTTP library below it."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError


def _hub_files(ref: ModelRef, revision: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if ref.file:
            return Path(hf_hub_download(ref.name, ref.file, revision=revision))
        return Path(snapshot_download(ref.name, revision=revision))
    except _hub_errors() as error:
        raise MissingDependencyError(f"{ref.role}: cannot download {ref.name}@{revision}: {error}") from error


def _download(url: str, sha256: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "curation"
    target = folder / sha256
    if target.is_file() and _digest(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310  the scheme is checked by the caller
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MissingDependencyError(f"cannot download {url}: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise EnvironmentFault(f"{url} has sha256 {digest}, the configuration says {sha256}")
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).replace(target)
    return target
