"""The tables of the audit log, and their migrations."""

from collections.abc import Callable

import sqlalchemy as sql

from eyespot.errors import AuditUnusable

_metadata = sql.MetaData()
version = sql.Table("eyespot_audit_schema", _metadata, sql.Column("version", sql.Integer, nullable=False))
audit = sql.Table(
    "eyespot_audit",
    _metadata,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("time", sql.DateTime(timezone=True), nullable=False),
    sql.Column("request_id", sql.Text, nullable=False),
    sql.Column("address", sql.Text),
    sql.Column("key", sql.Text),
    sql.Column("sha256", sql.Text, nullable=False),
    sql.Column("bytes", sql.Integer, nullable=False),
    sql.Column("format", sql.Text),
    sql.Column("width", sql.Integer),
    sql.Column("height", sql.Integer),
    sql.Column("model_digest", sql.Text, nullable=False),
    sql.Column("engine", sql.Text, nullable=False),
    sql.Column("precision", sql.Text, nullable=False),
    sql.Column("label", sql.Text),  # of the top class, to search by
    sql.Column("top5", sql.Text, nullable=False),  # JSON
    sql.Column("status", sql.Integer, nullable=False),
    sql.Column("code", sql.Text),
    sql.Column("cache", sql.Text, nullable=False),
    sql.Column("steps", sql.Text, nullable=False),  # JSON
    sqlite_autoincrement=True,  # never reuses an id, so a cursor stays valid when rows are pruned
)


def _create_indexes(connection: sql.Connection) -> None:
    for column in ("time", "sha256", "label"):
        connection.exec_driver_sql(f"CREATE INDEX eyespot_audit_{column} ON eyespot_audit ({column})")


Migrations = tuple[Callable[[sql.Connection], None], ...]
MIGRATIONS: Migrations = (audit.create, _create_indexes)  # number n brings version n to n + 1; only ever append


def migrate(connection: sql.Connection, migrations: Migrations = MIGRATIONS) -> None:
    """Create the tables, or bring them to the latest version; raises `AuditUnusable` if theirs is newer."""
    version.create(connection, checkfirst=True)
    found = connection.scalar(sql.select(version.c.version)) or 0
    if found > len(migrations):
        raise AuditUnusable(
            f"the audit log has schema version {found}; this eyespot supports up to {len(migrations)}; upgrade eyespot"
        )
    for migration in migrations[found:]:
        migration(connection)
    if found < len(migrations):
        connection.execute(version.delete())
        connection.execute(version.insert(), {"version": len(migrations)})
