"""`memory-service serve` and `migrate`."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from memory_service import __version__
from memory_service.api.app import create_app
from memory_service.api.edge import Edge
from memory_service.cli.common import DataDir, SignalledExit, explained, read_settings, signals_as_exits
from memory_service.cli.connections import impatient
from memory_service.config import Settings
from memory_service.errors import MemoryServiceError
from memory_service.runtime import load_models
from memory_service.services import lifecycle
from memory_service.telemetry import configure_logging, logger

# For what is left when draining is over: closing connections, or cancelling what did not finish.
_CLOSING_SECONDS = 1


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
        configure_logging(settings.log_level, settings.log_format)
        load_models(settings.models_file)
        listener = listen(settings.host, settings.port)
        address = address_of(listener)
        with lifecycle.open_database(settings, address=address) as database:
            if not database.embedded:
                asyncio.run(lifecycle.wait_for_database(database.url, settings.database_wait_seconds))
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
    # What is no terminal is a log, where keys do not belong.
    shown = f"{key}, kept in {path}" if is_new and sys.stdout.isatty() else f"in {path}"
    return [f"  API key   {shown}"]


class _Server(uvicorn.Server):
    """Says that it serves when it does, and drains before it stops listening."""

    def __init__(self, config: uvicorn.Config, greeting: list[str], edge: Edge, drain_seconds: float) -> None:
        super().__init__(config)
        self._greeting = greeting
        self._intake, self._stop_runs = edge.intake, edge.stop_runs
        self._drain_seconds = drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            for line in self._greeting:
                typer.echo(line)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """The first signal drains, the second waits for nothing."""
        self._captured_signals.append(sig)
        self._intake.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True

    async def main_loop(self) -> None:
        await super().main_loop()
        logger.info("draining", extra={"fields": {"in_flight": self._intake.in_flight}})
        for connection in list(self.server_state.connections):
            # An idle one at once, another after its answer; but one that has not asked yet is told, as whoever comes now.
            if getattr(connection, "cycle", None) is not None:
                connection.shutdown()
        # It listens on, so that whoever asks is told 503 instead of being refused without a word.
        await self._intake.until_idle(self._drain_seconds, lambda: self.force_exit)
        if not self.force_exit:
            await self._stop_runs()


def _run(settings: Settings, database: lifecycle.OpenDatabase, listener: socket.socket, greeting: list[str]) -> None:
    app = create_app(settings, lambda: lifecycle.open_runtime(settings, database))
    config = uvicorn.Config(
        app,
        http=impatient(settings.body_timeout_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
    server = _Server(config, greeting, app, settings.drain_seconds)
    try:
        server.run(sockets=[listener])
    except SignalledExit:
        if server.started:  # it has drained: what was asked for is done
            return
        raise
    if not server.started:
        raise typer.Exit(1)


def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to the newest schema."""
    with explained():
        settings = read_settings(data_dir=data_dir)
        with lifecycle.open_database(settings, share=True) as database:
            has_migrated = lifecycle.prepare_database(database, migrate_used=True)
            asyncio.run(lifecycle.check_database(database.url))
            typer.echo(
                f"{database.described}: "
                + ("migrated" if has_migrated else "migrated already; there was nothing to do")
            )


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
