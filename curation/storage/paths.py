"""How a path is written, in the configuration and on the command line alike: `~` at its beginning is the home
folder, `$NAME` and `${NAME}` are environment variables, `$$` is a dollar sign. Nothing else is replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from string import Template


def expand_path(text: str) -> str:
    """The path, or the URL, that `text` stands for.

    Raises:
        ValueError: a variable is not set, a home folder is not known, or a dollar sign stands alone.
    """
    try:
        found = Template(text).substitute(os.environ)
    except KeyError as error:
        raise ValueError(
            f"{text}: the environment variable {error.args[0]} is not set; $$ is a dollar sign"
        ) from error
    except ValueError as error:
        raise ValueError(f"{text}: a $ without a variable's name behind it; $$ is a dollar sign") from error
    if not text.startswith("~"):
        return found
    try:
        return str(Path(found).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{text}: whose home folder that is is not known") from error
