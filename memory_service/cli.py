"""The command line: serve, migrate, keys, demo."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from memory_service import __version__
from memory_service.api.app import create_app
from memory_service.config import Settings
from memory_service.errors import MemoryServiceError
from memory_service.runtime import load_models, now_utc
from memory_service.services import lifecycle
from memory_service.telemetry import configure_logging

app = typer.Typer(
    name="memory-service",
    help="Conversation memory for LLM applications: threads in, prompts with a warm prefix out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
keys_app = typer.Typer(help="API keys. A key belongs to a project, and nothing crosses projects.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_DRAIN_SECONDS = 20
DataDir = Annotated[
    Path | None, typer.Option(help="Directory of the embedded database.", show_default="~/.memory-service")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.", show_default="8080")] = None,
    data_dir: DataDir = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Migrate an external database first. The embedded one always is.")
    ] = False,
) -> None:
    """Serve the API. Without MEMORY_DATABASE_URL the database is an embedded Postgres."""
    with explained(), signals_as_exits():
        settings = read_settings(host=host, port=port, data_dir=data_dir)
        configure_logging(settings.log_level)
        load_models(settings.models_file)
        listener = listen(settings.host, settings.port)
        address = address_of(listener)
        with lifecycle.open_database(settings, address=address) as database:
            lifecycle.prepare_database(database, migrate_used=migrate)
            asyncio.run(lifecycle.check_database(database.url))
            lines = [f"memory-service {__version__} on {address}", f"  database  {database.described}"]
            if database.embedded:
                lines += _first_key(database.url, settings.resolved_data_dir)
            else:
                lines.append("  API keys  memory-service keys create --project NAME")
            lines.append(f"  API       {address}/openapi.json")
            if settings.clock == "request":
                lines.append(
                    "  clock     MEMORY_CLOCK=request: callers set the time with x-memory-now. Tests and replays only."
                )
            _run(settings, database, listener, lines)


def _first_key(url: str, data_dir: Path) -> list[str]:
    key, is_new = asyncio.run(lifecycle.ensure_first_key(url, data_dir))
    path = data_dir / "api_key"
    return [f"  API key   {key} (shown once; kept in {path})" if is_new else f"  API key   in {path}"]


class _Server(uvicorn.Server):
    """Says that it serves when it does."""

    def __init__(self, config: uvicorn.Config, greeting: list[str]) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            for line in self._greeting:
                typer.echo(line)


def _run(settings: Settings, database: lifecycle.OpenDatabase, listener: socket.socket, greeting: list[str]) -> None:
    config = uvicorn.Config(
        create_app(settings, lambda: lifecycle.open_runtime(settings, database)),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config, greeting)
    try:
        server.run(sockets=[listener])
    except SignalledExit:
        if server.started:  # it has drained: what was asked for is done
            return
        raise
    if not server.started:
        raise typer.Exit(1)


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to the newest schema."""
    with explained():
        settings = read_settings(data_dir=data_dir)
        with lifecycle.open_database(settings, share=True) as database:
            lifecycle.prepare_database(database, migrate_used=True)
            asyncio.run(lifecycle.check_database(database.url))
            typer.echo(f"{database.described}: migrated")


@keys_app.command("create")
def keys_create(
    project: Annotated[str, typer.Option(help="The project; made if need be.")] = lifecycle.DEFAULT_PROJECT,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once and cannot be read again."""
    with explained(), _keys_database(data_dir) as url:
        id_, key = asyncio.run(lifecycle.create_key(url, project, name, now_utc()))
        if as_json:
            typer.echo(json.dumps({"id": id_, "project": project, "name": name, "key": key}))
        else:
            typer.echo(key)
            err.print(f"Key {id_} of project {project}. Keep it now: it is not shown again.")


@keys_app.command("list")
def keys_list(
    project: Annotated[str | None, typer.Option(help="Only this project's.", show_default="all")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List keys, without the keys themselves."""
    with explained(), _keys_database(data_dir) as url:
        keys = asyncio.run(lifecycle.list_keys(url, project))
        if as_json:
            typer.echo(json.dumps([asdict(key) for key in keys], default=str))
            return
        table = Table("id", "project", "name", "key", "created", "revoked")
        for key in keys:
            revoked = f"{key.revoked_at:%Y-%m-%d}" if key.revoked_at else ""
            table.add_row(key.id, key.project, key.name, f"msk_…{key.hint}", f"{key.created_at:%Y-%m-%d}", revoked)
        out.print(table)


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")], data_dir: DataDir = None
) -> None:
    """Revoke a key; requests with it are refused from now on."""
    with explained(), _keys_database(data_dir) as url:
        asyncio.run(lifecycle.revoke_key(url, key_id))
        typer.echo(f"{key_id} revoked")


@contextmanager
def _keys_database(data_dir: Path | None) -> Iterator[str]:
    settings = read_settings(data_dir=data_dir)
    with lifecycle.open_database(settings, share=True) as database:
        lifecycle.prepare_database(database, migrate_used=False)
        asyncio.run(lifecycle.check_database(database.url))
        yield database.url


@app.command()
def demo(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Play this instead of the sample: an NDJSON export, a LoCoMo file (FILE#conv-26 picks one), or a list "
            "of OpenAI messages.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the demo's data here.", show_default="a temporary directory")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=256, help="Prompt budget.", show_default="fitted to the conversation")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See the main job end to end: a long conversation played through the service and a real model server."""
    from memory_service.demo.play import play

    with explained():
        raise typer.Exit(play(source, data_dir, max_prompt_tokens, as_json=as_json))


class SignalledExit(SystemExit):
    """The process was asked to end. Unlike a signal's default action it lets `finally` blocks run."""


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C end it by an exception; the first one does, the cleaning up is not disturbed."""

    def leave(number: int, _: FrameType | None) -> None:
        for other in held:
            signal.signal(other, signal.SIG_IGN)
        raise SignalledExit(128 + number)

    held = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def read_settings(**overrides: Any) -> Settings:
    """The environment's settings; options that were given win. Exits with the problem when one is not valid."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            name = "MEMORY_" + "_".join(str(part) for part in problem["loc"]).upper()
            err.print(f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}", markup=False)
        raise typer.Exit(2) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises MemoryServiceError saying why there is none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named because asyncio sets TCP_NODELAY only where it is; without it answers wait 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        raise MemoryServiceError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another with --port or --host "
            "(--port 0 picks a free one).",
            code="address_unavailable",
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def explained() -> Iterator[None]:
    """Errors of ours as one sentence and exit code 1, without a traceback."""
    try:
        yield
    except MemoryServiceError as error:
        err.print(f"memory-service: {error.message}", markup=False)
        raise typer.Exit(1) from None
