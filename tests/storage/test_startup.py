"""What a bucket does not give is said in one sentence each, at the start, and with nothing done."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

import pytest
import yaml

from buckets import ACCESS_KEY, SECRET_KEY, S3Server, contents
from curation.errors import ConfigError, StorageError
from curation.storage import open_storage
from curation.storage.access import check_input, check_output
from curation.storage.buckets import credentials
from datasets_media import said_by, write_config
from faulty_proxy import DENIED, EXPIRED, FaultyProxy

AT_ONCE_S = 20.0
"""A few seconds on a machine that has nothing else to do."""


@pytest.fixture
def home(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of this machine of whom AWS's tools know nothing yet."""
    assert "AWS_ACCESS_KEY_ID" in os.environ  # `bucket` has set it
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "home/.aws").mkdir(parents=True)
    return tmp_path / "home"


def _config(folder: Path, source: str, output: str) -> Path:
    data = {
        "name": "start",
        "input": [source],
        "output": output,
        "images": {"filters": ["color"]},
    }
    return write_config(folder / "c.yaml", data)


def _run(capsys: pytest.CaptureFixture[str], config: Path) -> str:
    started = time.monotonic()
    code, said = said_by(capsys, "run", "-c", config)
    assert time.monotonic() - started < AT_ONCE_S
    assert code == 3, said
    assert not re.search(f"{SECRET_KEY}|{ACCESS_KEY}|Traceback|Debug source|<Code>", said)
    return said


def test_all_that_is_missing_is_named_at_once(
    proxy: FaultyProxy, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(DENIED, key=bucket.removeprefix("s3://"), method="LIST")
    said = _run(capsys, _config(tmp_path, "s3://no-such-bucket/in", f"{bucket}/out"))
    (first, *rest) = [line for line in said.splitlines() if line]
    assert "2 things are missing" in first
    assert re.match(r"\s+input: s3://no-such-bucket/in: 404 NoSuchBucket: The specified bucket", rest[0])
    assert rest[1].strip() == f"output: {bucket}/out: 403 AccessDenied: Access Denied."
    assert proxy.count("PUT") == 0


def test_no_permission_to_write(
    proxy: FaultyProxy, bucket: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(DENIED, method="PUT")
    said = _run(capsys, _config(tmp_path, str(media), f"{bucket}/out"))
    assert re.search(
        rf"output: {bucket}/out/\.write-test-\w+: 403 AccessDenied: Access Denied\.$", said, re.M
    )


def test_object_as_an_output(
    s3_server: S3Server, bucket: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_storage(bucket).write("photo.jpg", b"x")
    s3_server.files().create_dir(f"{bucket.removeprefix('s3://')}/marked")
    said = _run(capsys, _config(tmp_path, str(media), f"{bucket}/photo.jpg"))
    assert f"output: {bucket}/photo.jpg is an object, and no folder to write into" in said
    assert open_storage(bucket).read("photo.jpg") == b"x"
    with open_storage(f"{bucket}/marked").exclusive():
        pass


def test_expired_credentials(
    proxy: FaultyProxy, bucket: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(EXPIRED)
    said = _run(capsys, _config(tmp_path, str(media), f"{bucket}/out"))
    assert "400 ExpiredToken: The provided token has expired; renew the credentials" in said


def test_wrong_keys(
    proxy: FaultyProxy,
    bucket: str,
    media: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    said = _run(capsys, _config(tmp_path, str(media), f"{bucket}/out"))
    assert "403 SignatureDoesNotMatch: " in said
    assert "another" not in said


def test_wrong_address(
    bucket: str,
    media: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
    said = _run(capsys, _config(tmp_path, str(media), f"{bucket}/out"))
    assert f"http://127.0.0.1:{port} can't be reached: Connection refused" in said
    assert "hidden" not in said


def test_wrong_address_of_all_that_a_run_needs(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them takes the time that a server may be away at the start, and the others no more."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    config = _config(tmp_path, "s3://first/in", "s3://second/out")
    data = yaml.safe_load(config.read_text())
    data["images"] |= {"filters": ["text", "color"], "text": {"detector": "s3://third/det.onnx"}}
    data |= {"captions": {"engine": "stand-in"}, "tokens": {"weights": "stand-in"}, "stand_ins": "allow"}
    data["shards"] = {"vocabulary": "s3://fourth/words.tiktoken"}
    said = _run(capsys, write_config(config, data))
    for place in ("s3://first/in", "s3://second/out", "s3://third/det.onnx", "s3://fourth/words.tiktoken"):
        assert re.search(rf"{place}\S*: http://127\.0\.0\.1:{port} can't be reached", said)


def test_a_command_on_a_bucket_that_is_not_there_to_answer(
    bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
    started = time.monotonic()
    for command in (["status", "--output", "s3://fifth/out"], ["verify", "s3://sixth/out/shards/a"]):
        code, said = said_by(capsys, *command)
        assert (code, "can't be reached" in said) == (3, True)
    assert time.monotonic() - started < 2 * AT_ONCE_S


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8333", "me:hidden@host", "http://a b", "http://", "http://h?x=1"]
)
def test_what_is_no_address(address: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(
        ConfigError, match="the address of the server of s3:// must read http://HOST:PORT"
    ) as caught:
        check_input(f"{bucket}/in")
    assert "hidden" not in str(caught.value)


def test_half_of_the_keys(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match=f"^{bucket}: Generic S3 error: Missing SecretAccessKey$"):
        check_input(f"{bucket}/in")


def test_an_address_where_nobody_speaks_s3(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server._ports['master.port']}")
    with pytest.raises(StorageError, match=r": 404 Not Found: "):
        check_input(f"{bucket}/in")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{s3_server.port}")
    with pytest.raises(StorageError, match="does not speak TLS"):
        check_input(f"{bucket}/in")


def test_no_credentials_are_said_within_seconds(
    home: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _run(capsys, _config(tmp_path, str(media), "s3://anything/out"))
    assert re.search(r"output: no credentials: set AWS_ACCESS_KEY_ID and .*AWS_PROFILE", said)


def test_a_machine_without_a_server_of_credentials_is_told_in_a_second(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"^no credentials: "):
        check_input("s3://anything/in")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("command", ["status", "report", "verify"])
def test_commands_that_read_say_the_same(
    command: str, proxy: FaultyProxy, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(DENIED)
    code, said = said_by(capsys, command, "-c", _config(tmp_path, "in", f"{bucket}/out"))
    assert code == 3
    assert re.search(rf"{bucket}/out(/shards/start)?: 403 AccessDenied: Access Denied\.", said)
    assert "Debug source" not in said
    assert proxy.count() == 1


def test_the_trial_object_is_removed(proxy: FaultyProxy, bucket: str, s3_server: S3Server) -> None:
    check_output(f"{bucket}/out")
    assert contents(s3_server, bucket) == {}
    statuses = [one.status for one in proxy.requests("PUT")]
    assert statuses == [200, 412, 200, 412]


def _write_profile(home: Path, name: str = "credentials", secret: str = SECRET_KEY, **more: str) -> None:
    section = "someone" if name == "credentials" else "profile someone"
    lines = [f"{key} = {value}" for key, value in more.items()]
    if name == "credentials":
        lines += [f"aws_access_key_id = {ACCESS_KEY}", f"aws_secret_access_key = {secret}"]
    (home / ".aws" / name).write_text("\n".join([f"[{section}]", *lines, ""]))


def test_a_profile_gives_keys_address_and_region(
    home: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "someone")
    _write_profile(home)
    _write_profile(home, "config", endpoint_url=s3_server.endpoint, region="eu-west-1")
    with FaultyProxy(s3_server.port) as proxy:
        _write_profile(home, "config", endpoint_url=proxy.endpoint, region="eu-west-1")
        check_output(f"{bucket}/out")
        scopes = {one.headers["authorization"].split("/", 2)[2].partition(",")[0] for one in proxy.requests()}
        assert scopes == {"eu-west-1/s3/aws4_request"}


def test_a_profile_gives_a_session_token(
    home: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "someone")
    _write_profile(home, aws_session_token="sesame")  # noqa: S106
    with FaultyProxy(s3_server.port) as proxy:
        _write_profile(home, "config", endpoint_url=proxy.endpoint)
        with pytest.raises(StorageError) as caught:
            check_input(bucket)  # the server gives no tokens, and takes none
        assert {one.headers["x-amz-security-token"] for one in proxy.requests()} == {"sesame"}
    assert "sesame" not in str(caught.value)


def test_a_profile_that_was_renewed_is_read_again_when_keys_expire(
    home: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "someone")
    _write_profile(home, secret=SECRET_KEY.upper())
    with FaultyProxy(s3_server.port) as proxy:
        _write_profile(home, "config", endpoint_url=proxy.endpoint)
        with pytest.raises(StorageError, match="403"):
            check_input(bucket)
        _write_profile(home)
        proxy.add(EXPIRED, times=1)
        check_input(bucket)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", r"AWS_PROFILE is 'someone', and neither .*credentials nor .*config has it"),
        ("[profile someone]\nregion = x\n", "the profile 'someone' of AWS_PROFILE holds no credentials"),
        ("[profile someone]\nsso_session = x\n", "takes its credentials from elsewhere, which needs boto3"),
        ("aws_secret_access_key = sesame\n", "config is no file of AWS profiles"),
    ],
    ids=["absent", "empty", "single sign-on", "damaged"],
)
def test_profiles_that_give_nothing(
    config: str, words: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "someone")
    (home / ".aws/config").write_text(config)
    with pytest.raises(StorageError, match=words) as caught:
        check_input("s3://anything/in")
    assert "sesame" not in str(caught.value)


def test_the_environment_counts_before_a_default_profile(
    home: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".aws/credentials").write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    check_input(bucket)


def test_anonymous_access_asks_for_no_credentials(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert "credential_provider" not in credentials.s3_settings()
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    with pytest.raises(StorageError, match="no credentials"):
        credentials.s3_settings()


def test_a_forked_process_is_told_what_it_cannot_do(bucket: str) -> None:
    check_input(bucket)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            check_input(bucket)
        except StorageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "start it by spawn or forkserver" in said.read()
    os.waitpid(child, 0)
