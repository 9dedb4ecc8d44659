"""What a unit file says of itself, so that one that got into the place of another is noticed.

    expected = Expected("ledger/color/f00d", schema)
    expected.check("out/ledger/color/f00d/unit-000007.parquet", found, 7)

Files of older versions say nothing of their place, and are taken for what their names say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.errors import DamagedFileError, LedgerError

_PLACE = b"curation.place"
"""Key of the schema's metadata; the value is a mapping as JSON."""
_FORMAT = 1
"""Raise it when files are written that this version could not read."""


@dataclass(frozen=True)
class Expected:
    """What must be in the files of one folder.

    Attributes:
        folder: The folder, relative to the output.
        schema: Columns that must be there unless they may be null, and the types of those that are.
    """

    folder: str
    schema: pa.Schema

    def metadata(self, unit: int | None) -> dict[bytes, bytes]:
        """For the schema of a file that is written; `unit` is None for one of many units."""
        return {_PLACE: json.dumps(self._place(unit)).encode()}

    def check(self, name: str, found: pa.Schema, unit: int | None) -> None:
        """Hold the schema of a file against what must be in it.

        Raises:
            DamagedFileError: it belongs elsewhere, or lacks what it must have.
            LedgerError: a newer version wrote it.
        """
        place = (found.metadata or {}).get(_PLACE)
        if place is not None:
            self._check_place(name, place, unit)
        for field in self.schema:
            index = found.get_field_index(field.name)
            if index < 0 and not field.nullable:
                raise DamagedFileError.of({name: f"it has no column {field.name}"})
            if index >= 0 and found.field(index).type != field.type:
                why = f"its column {field.name} holds {found.field(index).type}, not {field.type}"
                raise DamagedFileError.of({name: why})

    def _place(self, unit: int | None) -> dict[str, Any]:
        own = {} if unit is None else {"unit": unit}
        return {"format": _FORMAT, "folder": self.folder, **own}

    def _check_place(self, name: str, text: bytes, unit: int | None) -> None:
        try:
            place = json.loads(text)
            is_newer = place["format"] > _FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError.of({name: "it does not say what it holds"}) from error
        if is_newer:
            raise LedgerError(f"{name} was written by a newer version of curation; go on with that one")
        if place != self._place(unit):
            said = f"{place.get('folder')}, unit {place.get('unit', 'many')}"
            raise DamagedFileError.of({name: f"it is the file of another place: {said}"})
