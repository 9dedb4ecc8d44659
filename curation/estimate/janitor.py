"""Removes a folder when the process that made it has ended, however that was: python -I -S janitor.py FOLDER

It reads its standard input, which ends with that process. Workers may still be writing then, so it looks
again for some seconds.
"""

import shutil
import sys
import time
from pathlib import Path

ROUNDS = 20
PAUSE_S = 0.5


def main(folder: str) -> None:
    """Wait, then remove the folder until it stays away."""
    sys.stdin.read()
    for _ in range(ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(PAUSE_S)
        if not Path(folder).exists():
            break


if __name__ == "__main__":
    main(sys.argv[1])
