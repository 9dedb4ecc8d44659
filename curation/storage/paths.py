"""How a path is written, in the configuration and on the command line alike: `~` at its beginning is the home
folder, `$NAME` and `${NAME}` are environment variables, `$$` is a dollar sign. Nothing else is replaced.

A URL whose slashes were lost (`s3:/photos`) is refused: it would name a folder of this machine. So is one in
capitals, as sources are called by their URLs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from string import Template

_URL = re.compile(r"(s3|gs|az|hf|file)(:/*|//)", re.IGNORECASE)


def expand_path(text: str) -> str:
    """The path, or the URL, that `text` stands for.

    Raises:
        ValueError: a variable is not set, a home folder is not known, a dollar sign stands alone, or a URL
            lacks a slash or is in capitals.
    """
    try:
        found = Template(text).substitute(os.environ)
    except KeyError as error:
        raise ValueError(
            f"{text}: the environment variable {error.args[0]} is not set; $$ is a dollar sign"
        ) from error
    except ValueError as error:
        raise ValueError(f"{text}: a $ without a variable's name behind it; $$ is a dollar sign") from error
    begin = _URL.match(found)
    if begin is not None and not found.startswith(f"{begin[1].lower()}://"):
        raise ValueError(
            f"{text}: a URL begins with {begin[1].lower()}://; a folder of that name would be ./{found}"
        )
    if not text.startswith("~"):
        return found
    try:
        return str(Path(found).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{text}: whose home folder that is is not known") from error


def as_written(path: str) -> str:
    """A text that stands for exactly this path."""
    text = path.replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text
