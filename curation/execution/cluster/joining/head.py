"""Asks the head of a Ray cluster what it runs: python head.py ADDRESS

Prints a line of JSON: `{"ray": "2.60.0", "python": "3.11.7"}`, or `{"error": "RpcError", "text": "..."}`.
A program of its own, since Ray ends a process that asks without a token, fills its standard error, and
waits for minutes where nobody answers. Stands alone.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(address: str) -> None:
    """Ask, and print the answer."""
    from ray import _raylet, exceptions
    from ray._private import services

    compiled: Any = _raylet
    try:
        asked = compiled.GcsClient(address=services.canonicalize_bootstrap_address(address))
        answer = json.loads(asked.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
    except (exceptions.RayError, ConnectionError, ValueError) as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))  # noqa: T201
    else:
        print(json.dumps({"ray": answer["ray_version"], "python": answer["python_version"]}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
