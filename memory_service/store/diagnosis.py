"""What `doctor` asks of a database, as the role of its URL, whatever state it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from memory_service.errors import DatabaseNotReady
from memory_service.store.db import ROLES, SCHEMA, connection_options, sqlalchemy_url, why_unusable

_CONNECT_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`unprotected`: tables with rows of projects that no policy guards. `overpowered`: roles that no policy binds.

    `sees_everything`: the application role finds messages without naming a project.
    """

    server: str
    server_number: int
    vector: str | None
    revision: str | None
    missing_roles: Sequence[str] = ()
    overpowered: Sequence[str] = ()
    unprotected: Sequence[str] = ()
    sees_everything: bool = False


def diagnose(url: str) -> Diagnosis:
    """Raises DatabaseNotReady when there is no connecting to it."""
    engine = create_engine(
        sqlalchemy_url(url),
        connect_args={"options": connection_options(url, None), "connect_timeout": _CONNECT_TIMEOUT_SECONDS},
    )
    try:
        with engine.connect() as connection:
            return _diagnose(connection)
    except SQLAlchemyError as error:
        raise DatabaseNotReady(why_unusable(error)) from error
    finally:
        engine.dispose()


def _diagnose(connection: Connection) -> Diagnosis:
    server, number, vector, is_migrated = connection.execute(
        text(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int,"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector'), to_regclass(:versions) IS NOT NULL"
        ),
        {"versions": f"{SCHEMA}.alembic_version"},
    ).one()
    if not is_migrated:
        return Diagnosis(server, number, vector, None)
    # `pg_has_role` fails for a role that does not exist, so those that do are asked about first.
    roles = {
        row.rolname: row
        for row in connection.execute(
            text(
                "SELECT rolname, rolsuper OR rolbypassrls AS is_free, pg_has_role(rolname, 'MEMBER') AS is_ours"
                " FROM pg_roles WHERE rolname = ANY (:roles)"
            ),
            {"roles": list(ROLES)},
        )
    }
    unprotected = connection.execute(
        text(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'project_id'"
            " WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')"
            " AND NOT (c.relrowsecurity AND c.relforcerowsecurity) ORDER BY 1"
        ),
        {"schema": SCHEMA},
    ).scalars()
    missing = [name for name in ROLES if name not in roles or not roles[name].is_ours]
    return Diagnosis(
        server,
        number,
        vector,
        revision=connection.scalar(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")),
        missing_roles=missing,
        overpowered=[name for name, role in roles.items() if role.is_free],
        unprotected=list(unprotected),
        sees_everything=not missing and _sees_everything(connection),
    )


def _sees_everything(connection: Connection) -> bool:
    connection.execute(text("SET LOCAL ROLE memory_app"))
    return bool(connection.scalar(text("SELECT EXISTS (SELECT FROM messages)")))
