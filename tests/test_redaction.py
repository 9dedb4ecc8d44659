"""Secrets in URLs and under telling names, and what must not be taken for one."""

from __future__ import annotations

import pytest

from curation.errors import ConfigError, EnvironmentFault
from curation.errors.redaction import redact, redact_settings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/a", "https://***@host/a"),
        ("https://token@host", "https://***@host"),
        ("https://user:p@ss@host/a@b", "https://***@host/a@b"),
        ("HTTPS://U:P@HOST", "HTTPS://***@HOST"),
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("https://host/a?token=x&sig=y%3D#top", "https://host/a?token=***&sig=***#top"),
        ("https://host/a?secret", "https://host/a?***"),
        ("https://host?a=1&secret", "https://host?a=***&***"),
        ("cannot read 'https://u:p@h/a?b=c' now", "cannot read 'https://***@h/a?b=***' now"),
        ("of https://a:b@c and http://d:e@f", "of https://***@c and http://***@f"),
    ],
)
def test_secrets_of_urls_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8000/v1/a@b",
        "tar:///data/a?x=1@b.tar#c?d=e",
        "parquet:///data/me@home.parquet#7",
        "/data/what?x=1@home.jpg",
        "s3://bucket/a?x=1@b.jpg",
        "tar://s3://bucket/a?x=1.tar#0.jpg",
        "lines://gs://bucket/what?x=1.jsonl#3",
        "me@home, 3 = 4?",
    ],
)
def test_names_of_files_are_left_alone(text: str) -> None:
    assert redact(text) == text


def test_settings_are_hidden_by_url_and_by_name() -> None:
    settings = {
        "input": ["https://u:p@h/a"],
        "captions": {"engine_args": {"max_tokens": 3, "hf_token": "s"}, "api_key_env": "OPENAI_API_KEY"},
        "tokens": {"weights": "org/name"},
        "environment": {"AWS_SECRET_ACCESS_KEY": "s", "DB_PASSWORD": "s", "CUDA_VISIBLE_DEVICES": "0"},
    }
    assert redact_settings(settings) == {
        "input": ["https://***@h/a"],
        "captions": {"engine_args": {"max_tokens": 3, "hf_token": "***"}, "api_key_env": "OPENAI_API_KEY"},
        "tokens": {"weights": "org/name"},
        "environment": {"AWS_SECRET_ACCESS_KEY": "***", "DB_PASSWORD": "***", "CUDA_VISIBLE_DEVICES": "0"},
    }


def test_errors_carry_no_secret() -> None:
    for kind in (ConfigError, EnvironmentFault):
        assert str(kind("cannot read https://u:p@h/a")) == "cannot read https://***@h/a"
