"""Takes PyTorch's CPU build into this environment where no NVIDIA GPU is: `python tools/cpu_torch.py`.

PyPI's build for Linux brings 4 GB of CUDA libraries. On other systems it is the CPU build, and nothing is
done; nor is it where PyTorch is installed already, or can't be taken from its index: pip then takes PyPI's.
`TORCH=cuda` in the environment leaves PyPI's build, `TORCH=cpu` takes the CPU build whatever the machine has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
INSTEAD = "taking PyPI's PyTorch, with 4 GB of CUDA libraries"
DRIVER = Path("/proc/driver/nvidia")
REPLY_TIMEOUT_S = 5.0
ROOT = Path(__file__).parents[1]


def has_gpu(driver: Path = DRIVER) -> bool:
    """Whether this machine has NVIDIA's driver, or its tools."""
    return driver.exists() or shutil.which("nvidia-smi") is not None


def is_wanted(choice: str, system: str = sys.platform) -> bool:
    """Whether the CPU build is wanted, and is not PyPI's anyway."""
    return system == "linux" and (choice == "cpu" or (choice == "auto" and not has_gpu()))


def is_reachable(index: str) -> bool:
    """Whether an index answers soon."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=REPLY_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


def main(index: str = INDEX) -> None:
    """Install it where it is wanted and can be had."""
    if importlib.util.find_spec("torch") is not None or not is_wanted(os.environ.get("TORCH", "auto")):
        return
    if not is_reachable(index):
        print(f"{index} can't be reached: {INSTEAD}", flush=True)
        return
    print(
        "no NVIDIA GPU is here: taking PyTorch's CPU build (TORCH=cuda takes PyPI's, with CUDA)", flush=True
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    versions = ["--constraint", str(ROOT / "constraints.txt"), "--index-url", index]
    if subprocess.run([*pip, *versions, "torch", "torchvision"], check=False).returncode:
        print(f"{index} has not what is wanted: {INSTEAD}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
