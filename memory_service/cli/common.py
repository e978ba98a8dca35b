"""What the commands share: settings, consoles, options, errors as one sentence, and how to end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from memory_service.config import SETTING_NAMES, Settings, unknown_settings
from memory_service.errors import MemoryServiceError
from memory_service.runtime import Runtime
from memory_service.services import lifecycle
from memory_service.services.lifecycle import OpenDatabase

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DataDir = Annotated[
    Path | None, typer.Option(help="Directory of the embedded database.", show_default="~/.memory-service")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_settings(**overrides: Any) -> Settings:
    """The environment's settings; options that were given win. Exits with the problem when one is not valid."""
    for name in unknown_settings(os.environ):
        meant = next(iter(get_close_matches(name, SETTING_NAMES, n=1)), None)
        err.print(f"{name} is no setting" + (f"; did you mean {meant}?" if meant else "."), markup=False)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            name = "MEMORY_" + "_".join(str(part) for part in problem["loc"]).upper()
            err.print(f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}", markup=False)
        raise typer.Exit(2) from None


@contextmanager
def explained() -> Iterator[None]:
    """Errors of ours as one sentence and exit code 1, without a traceback."""
    try:
        yield
    except MemoryServiceError as error:
        err.print(f"memory-service: {error.message}", markup=False)
        raise typer.Exit(1) from None


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


@asynccontextmanager
async def opened(data_dir: Path | None) -> AsyncIterator[tuple[Runtime, OpenDatabase]]:
    """What a command works on, beside a service that is running or without one."""
    settings = read_settings(data_dir=data_dir)
    with lifecycle.open_database(settings, share=True) as database:
        await asyncio.to_thread(lifecycle.prepare_database, database, migrate_used=False)
        await lifecycle.check_database(database.url)
        runtime = lifecycle.open_runtime(settings, database)
        try:
            yield runtime, database
        finally:
            await runtime.close()
