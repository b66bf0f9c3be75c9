"""Rows of the audit log as a table or as JSON lines."""

import csv
from collections.abc import Iterable
from typing import TextIO

from pydantic import TypeAdapter

from eyespot.types import AuditRow

_ROW = TypeAdapter(AuditRow)
_COLUMNS = [name for name in AuditRow.__dataclass_fields__ if name not in ("id", "time", "top5", "steps")]
_LIKELIEST = [f"{part}{place}" for place in range(1, 6) for part in ("label", "confidence")]


def write(rows: Iterable[AuditRow], file: TextIO, *, as_csv: bool) -> None:
    """Write every row: JSON lines as `/audit` has them, or CSV (RFC 4180) with the likeliest in columns."""
    if not as_csv:
        for row in rows:
            file.write(f"{_ROW.dump_json(row).decode()}\n")
        return
    table = csv.writer(file)
    table.writerow(["id", "time", *_COLUMNS, *_LIKELIEST])
    for row in rows:
        likeliest: list[object] = [value for found in row.top5 for value in (found.label, found.confidence)]
        likeliest += [None] * (len(_LIKELIEST) - len(likeliest))  # refused, or a network of fewer classes
        table.writerow([row.id, row.time.isoformat(), *(getattr(row, name) for name in _COLUMNS), *likeliest])
