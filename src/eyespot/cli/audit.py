"""`eyespot audit …`."""

import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter

from eyespot.cli.terminal import bar, closed_pipe_ends_it, load_settings, say
from eyespot.errors import AuditUnusable
from eyespot.types import AuditRow

if TYPE_CHECKING:
    from eyespot.memory.audit_table import AuditTable

app = typer.Typer(help="The audit log at EYESPOT_AUDIT_URL: export or prune it.")


@app.command("export")
def export_audit(
    as_csv: Annotated[bool, typer.Option("--csv/--jsonl", help="Print CSV instead of JSON lines.")] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", help="Only rows from this time on (UTC), such as 2026-11-24 or 2026-11-24T09:00:00."
        ),
    ] = None,
    until: Annotated[datetime | None, typer.Option(metavar="TIME", help="Only rows before this time.")] = None,
) -> None:
    """Print the audit log, oldest row first, also while a server is writing to it.

    Examples: `eyespot audit export --csv > audit.csv`, `eyespot audit export --since 2026-11-01 | jq .top5[0].label`
    """
    with _audit_table() as table, closed_pipe_ends_it():
        rows = table.all_rows(since=_with_zone(since), until=_with_zone(until))
        if as_csv:
            _print_csv(rows)
            return
        adapter = TypeAdapter(AuditRow)
        for row in rows:
            sys.stdout.write(f"{adapter.dump_json(row).decode()}\n")


def _with_zone(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=time.tzinfo or UTC) if time else None


def _print_csv(rows: Iterable[AuditRow]) -> None:
    """CSV (RFC 4180), with the top five in columns."""
    columns = [name for name in AuditRow.__dataclass_fields__ if name not in ("id", "time", "top5", "steps")]
    top5 = [f"{column}{rank}" for rank in range(1, 6) for column in ("label", "confidence")]
    table = csv.writer(sys.stdout)
    table.writerow(["id", "time", *columns, *top5])
    for row in rows:
        top: list[object] = [value for found in row.top5 for value in (found.label, found.confidence)]
        top += [None] * (len(top5) - len(top))  # refused, or a model with fewer classes
        table.writerow([row.id, row.time.isoformat(), *(getattr(row, name) for name in columns), *top])


@app.command("prune")
def prune_audit(
    days: Annotated[int, typer.Option(metavar="DAYS", min=1, max=36_500, help="Delete rows older than this.")],
) -> None:
    """Delete old rows of the audit log now. With EYESPOT_AUDIT_DAYS, a server does so every hour.

    Example: `eyespot audit prune --days 90`
    """
    pruned = 0
    with _audit_table() as table, bar() as progress:
        while some := table.prune(datetime.now(UTC) - timedelta(days=days)):
            pruned += some
            progress(f"{pruned:,} rows deleted", 0, 1)
    say(f"{pruned:,} rows deleted")


@contextmanager
def _audit_table() -> Iterator["AuditTable"]:
    """The table of the settings. Raises `AuditUnusable`."""
    config = load_settings()
    if config.audit_url == "off":
        raise AuditUnusable("there is no audit log: EYESPOT_AUDIT_URL is off")
    from eyespot.memory.audit_table import AuditTable  # takes 0.2 s

    with closing(AuditTable(config.audit_url, config.data_dir)) as table:
        try:
            table.prepare()
            yield table
        except table.failures as error:
            raise table.unusable(error) from error
