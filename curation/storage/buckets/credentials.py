"""Who we are to S3: what the environment or a profile of ~/.aws says, as obstore takes it.

    S3Store("photos", **s3_settings())

In the order of AWS's own tools: variables (AWS_ACCESS_KEY_ID, AWS_SKIP_SIGNATURE=true for none at all), the
profile that AWS_PROFILE names, a web identity's token (AWS_WEB_IDENTITY_TOKEN_FILE), the profile `default`,
and the servers that give credentials to containers and machines. obstore reads all of these but profiles.
A profile that needs more than reading (single sign-on, another role, a process) is left to boto3, where
that is installed.
"""

from __future__ import annotations

import configparser
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curation.errors import StorageError
from curation.storage.buckets.faults import NO_CREDENTIALS

REREAD_S = 300.0
"""A profile's files are read again this often: other tools renew what is in them."""
_METADATA = "http://169.254.169.254"
_METADATA_WAIT_S = 1.0
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_NEEDS_BOTO3 = ("role_arn", "sso_session", "sso_start_url", "credential_process", "login_session")
_WEB_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def s3_settings() -> dict[str, Any]:
    """What to make an S3 store with, beyond what obstore reads of the environment itself.

    Raises:
        StorageError: there are no credentials, or the profile that AWS_PROFILE names can't be used.
    """
    named = os.environ.get("AWS_PROFILE", "")
    profile = _read_profile(named or "default")
    if named and not profile:
        raise StorageError(
            f"AWS_PROFILE is {named!r}, and neither {_credentials_file()} nor {_config_file()} has it"
        )
    found: dict[str, Any] = {}
    endpoint = next(
        (os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), profile.get("endpoint_url")
    )
    if endpoint:
        found["endpoint"] = endpoint
    if profile.get("region") and not _is_any_set("AWS_REGION", "AWS_DEFAULT_REGION"):
        found["region"] = profile["region"]
    provider = None if _is_in_environment() else _provider(named, profile)
    return found | ({"credential_provider": provider} if provider is not None else {})


def _provider(named: str, profile: Mapping[str, str]) -> Any:
    """Who gives credentials; None where obstore finds them itself."""
    if not named and all(os.environ.get(name) for name in _WEB_IDENTITY):
        return None
    name = named or "default"
    if "aws_access_key_id" in profile:
        return lambda: _credentials_of(name)
    if any(key in profile for key in _NEEDS_BOTO3):
        return _by_boto3(name)
    if named:
        raise StorageError(f"the profile {name!r} of AWS_PROFILE holds no credentials")
    if not _is_any_set(*_CONTAINER) and not _is_on_machine_with_credentials():
        raise StorageError(f"no credentials: {NO_CREDENTIALS['s3']}")
    return None


def is_anonymous() -> bool:
    """Whether requests are to go without a signature."""
    return os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on", "y", "t")


def _is_in_environment() -> bool:
    return is_anonymous() or _is_any_set("AWS_ACCESS_KEY_ID")


def _is_any_set(*names: str) -> bool:
    return any(os.environ.get(name) for name in names)


def _credentials_of(name: str) -> dict[str, Any]:
    """The static credentials of a profile as its files hold them now, for obstore."""
    profile = _read_profile(name)
    try:
        found: dict[str, Any] = {
            "access_key_id": profile["aws_access_key_id"],
            "secret_access_key": profile["aws_secret_access_key"],
        }
    except KeyError as error:
        raise StorageError(f"the profile {name!r} has no {error.args[0]} any more") from None
    token = profile.get("aws_session_token")
    expires_at = datetime.now(UTC) + timedelta(seconds=REREAD_S)
    return found | {"expires_at": expires_at} | ({"token": token} if token else {})


def _by_boto3(name: str) -> Any:
    try:
        import boto3.session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StorageError(
            f"the profile {name!r} takes its credentials from elsewhere, which needs boto3: pip install boto3"
        ) from None
    from botocore.exceptions import BotoCoreError

    try:
        return Boto3CredentialProvider(boto3.session.Session(profile_name=name))
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"the profile {name!r} gives no credentials: {error}") from None


def _read_profile(name: str) -> dict[str, str]:
    """A profile's settings; those of the credentials' file count before those of the configuration's.

    Raises:
        StorageError: a file can't be read.
    """
    section = name if name == "default" else f"profile {name}"
    return _read_section(_config_file(), section) | _read_section(_credentials_file(), name)


def _read_section(path: Path, section: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read_string(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError):  # whose texts quote lines, which may hold a key
        raise StorageError(f"{path} is no file of AWS profiles") from None
    return dict(parser[section]) if parser.has_section(section) else {}


def _credentials_file() -> Path:
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()


def _config_file() -> Path:
    return Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()


def _is_on_machine_with_credentials() -> bool:
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    parts = urlsplit(os.environ.get("AWS_METADATA_ENDPOINT") or _METADATA)
    return _answers(parts.hostname or "", parts.port or 80)


@lru_cache
def _answers(host: str, port: int) -> bool:
    """Whether someone listens there: obstore would ask for a minute."""
    try:
        socket.create_connection((host, port), _METADATA_WAIT_S).close()
    except OSError:
        return False
    return True
