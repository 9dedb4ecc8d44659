"""Folders on local disks that every node of a cluster must see: inputs, and the output.

    shared = SharedFolders(output="/data/out", files={"/data/in": ("/data/in/a.jpg",)})
    with shared.marked():                       # a file of a random name lies in the output
        check_nodes(shared)                     # asks each node, and says which do not see what

Each worker looks for itself before it works, as its node may have joined later.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.errors import EnvironmentFault
from curation.execution.cluster.limits import within
from curation.storage import open_storage

ANSWER_S = 120.0
"""A node gets so long to start the process that looks."""
NUM_SAMPLES = 3
"""Files of an input that are looked for: one alone may have been removed since it was listed."""
_MAX_NAMED = 5


@dataclass(frozen=True)
class SharedFolders:
    """Folders that every node must see.

    Attributes:
        output: The output, if it is a folder.
        files: Input folder -> some files that were found in it.
        marker: Key of the file in the output by which a node knows it. Named as what a killed run leaves
            half-written, so that the next one removes it.
    """

    output: str | None
    files: Mapping[str, tuple[str, ...]]
    marker: str = field(default_factory=lambda: f".writing-here-{secrets.token_hex(8)}")

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Let the marker lie in the output."""
        if self.output is None:
            yield
            return
        storage = open_storage(self.output)
        storage.write(self.marker, b"")
        try:
            yield
        finally:
            storage.delete(self.marker)

    def unseen(self) -> tuple[str, ...]:
        """Those that this process does not see as the run does, or can't write to."""
        found = [root for root, files in self.files.items() if files and not any(map(os.path.exists, files))]
        if self.output is not None:
            folder = Path(self.output)
            if not (folder / self.marker).exists():
                found.append(self.output)
            elif not os.access(folder, os.W_OK):
                found.append(f"{self.output} (to write)")
        return tuple(found)

    def check_here(self) -> None:
        """Raises EnvironmentFault: this node does not see one."""
        unseen = self.unseen()
        if unseen:
            raise EnvironmentFault(_sentence({_this_node(): unseen}))


def check_nodes(shared: SharedFolders) -> None:
    """Ask every node of the connected cluster.

    Raises:
        EnvironmentFault: some do not see a folder, or do not answer; they are named.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if shared.output is None and not shared.files:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            shared
        ): node.get("NodeName") or node["NodeManagerAddress"]
        for node in within(ANSWER_S, ray.nodes, "the head of the Ray cluster did not answer")
        if node["Alive"]
    }
    done, silent = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_S)
    if silent:
        names = ", ".join(sorted({asked[reference] for reference in silent}))
        raise EnvironmentFault(f"no process started within {ANSWER_S:.0f} s on these nodes: {names}")
    found = {asked[reference]: unseen for reference in done if (unseen := _answer(reference))}
    if found:
        raise EnvironmentFault(_sentence(found))


def _look(shared: SharedFolders) -> tuple[str, ...]:
    return shared.unseen()


def _answer(reference: Any) -> tuple[str, ...]:
    """What a node does not see; nothing of one that went down meanwhile."""
    import ray

    try:
        unseen: tuple[str, ...] = ray.get(reference)
    except ray.exceptions.RayError:
        return ()
    return unseen


def _this_node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _sentence(found: Mapping[str, tuple[str, ...]]) -> str:
    folders = sorted({folder for unseen in found.values() for folder in unseen})
    nodes = sorted(found)
    named = ", ".join(nodes[:_MAX_NAMED])
    if len(nodes) > _MAX_NAMED:
        named += f" and {len(nodes) - _MAX_NAMED} more"
    relative = " (from / on: a relative path means another folder there)"
    hint = relative if any(not folder.startswith("/") for folder in folders) else ""
    return (
        f"not every node of the cluster sees {', '.join(folders)}: {named} does not; name a bucket, or a "
        f"folder that all nodes have mounted{hint}"
    )
