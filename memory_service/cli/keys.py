"""`memory-service keys`: API keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import cell_len, set_cell_size

from memory_service.cli.common import AsJson, DataDir, err, explained, read_settings
from memory_service.runtime import now_utc
from memory_service.services import lifecycle
from memory_service.store.projects import ApiKeyRecord

app = typer.Typer(help="API keys. A key belongs to a project, and nothing crosses projects.", no_args_is_help=True)


@app.command("create")
def create(
    project: Annotated[str, typer.Option(help="The project; made if need be.")] = lifecycle.DEFAULT_PROJECT,
    name: Annotated[str, typer.Option(help="What the key is for.", show_default="none")] = "",
    requests_per_minute: Annotated[
        int | None,
        typer.Option(min=0, help="This key's own limit; 0 is none.", show_default="MEMORY_REQUESTS_PER_MINUTE"),
    ] = None,
    max_body_bytes: Annotated[
        int | None,
        typer.Option(
            min=1_000, help="A lower limit for this key's request bodies.", show_default="MEMORY_MAX_BODY_BYTES"
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once and cannot be read again."""
    with explained(), _database(data_dir) as url:
        limits = {"requests_per_minute": requests_per_minute, "max_body_bytes": max_body_bytes}
        id_, key = asyncio.run(lifecycle.create_key(url, project, name, now_utc(), **limits))
        if as_json:
            typer.echo(json.dumps({"id": id_, "project": project, "name": name, "key": key, **limits}))
        else:
            typer.echo(key)
            err.print(f"Key {id_} of project {project}. Keep it now: it is not shown again.")


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only this project's.", show_default="all")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List keys, without the keys themselves."""
    with explained(), _database(data_dir) as url:
        keys = asyncio.run(lifecycle.list_keys(url, project))
        if as_json:
            typer.echo(json.dumps([asdict(key) for key in keys], default=_rfc3339))
        else:
            _print_columns([_HEADINGS, *map(_columns, keys)])


_HEADINGS = ("id", "project", "name", "key", "created", "revoked", "a minute", "bytes")


def _columns(key: ApiKeyRecord) -> tuple[str, ...]:
    revoked = f"{key.revoked_at:%Y-%m-%d}" if key.revoked_at else ""
    limits = ("" if limit is None else str(limit) for limit in (key.requests_per_minute, key.max_body_bytes))
    return key.id, key.project, key.name, f"msk_…{key.hint}", f"{key.created_at:%Y-%m-%d}", revoked, *limits


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """As wide as they must be, whatever the terminal: an id that is shortened is none."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(map(set_cell_size, row, widths)).rstrip())


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")], data_dir: DataDir = None
) -> None:
    """Revoke a key; requests with it are refused from now on."""
    with explained(), _database(data_dir) as url:
        asyncio.run(lifecycle.revoke_key(url, key_id))
        typer.echo(f"{key_id} revoked")


@contextmanager
def _database(data_dir: Path | None) -> Iterator[str]:
    settings = read_settings(data_dir=data_dir)
    with lifecycle.open_database(settings, share=True) as database:
        lifecycle.prepare_database(database, migrate_used=False)
        asyncio.run(lifecycle.check_database(database.url))
        yield database.url
