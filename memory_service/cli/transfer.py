"""`memory-service export` and `import`: whole projects as NDJSON, straight from and to the database."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from memory_service.api.lines import lines_of
from memory_service.api.openai.dump import Dump
from memory_service.api.preparing import Preparers, collect_seldom
from memory_service.cli.common import AsJson, DataDir, err, explained, opened, signals_as_exits
from memory_service.errors import InvalidInput, MemoryServiceError
from memory_service.runtime import Runtime, now_utc
from memory_service.services import exports, imports, lifecycle
from memory_service.services.imports import ImportReport

_STANDARD = "-"
_OPENAI = "openai"
_WRITE_BYTES = 1_000_000
Project = Annotated[str, typer.Option(help="The project.")]


def export(
    project: Project = lifecycle.DEFAULT_PROJECT,
    thread: Annotated[list[str] | None, typer.Option(help="Only this thread; may be given more than once.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's threads.")] = None,
    out: Annotated[str, typer.Option(help="File to write; - is standard output.")] = _STANDARD,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a project's assistants, threads, runs and messages as NDJSON, byte for byte. `import` takes them in again."""
    with explained(), signals_as_exits():
        if thread and user:
            raise InvalidInput("Give --thread or --user, not both.")
        summary = asyncio.run(_export(project, thread or [], user, out, data_dir))
        told = (
            f"{summary['messages']:,} messages and {summary['runs']:,} runs of {summary['threads']:,} threads written"
        )
        _say(summary, told, as_json, out)


async def _export(
    project: str, thread_ids: list[str], user_id: str | None, out: str, data_dir: Path | None
) -> dict[str, Any]:
    async with opened(data_dir) as (runtime, _):
        project_id = await lifecycle.find_project(runtime, project)
        total = await exports.count_messages(runtime, project_id, thread_ids, user_id)
        counts = {"assistants": 0, "threads": 0, "runs": 0, "messages": 0, "bytes": 0}
        started = time.monotonic()
        with _target(out) as file, _progress(shown=out != _STANDARD) as bar:
            task = bar.add_task("export", total=total, rate="")
            async for line in exports.export(runtime, project_id, thread_ids, user_id):
                file.write(line)
                kind = line[9:10]  # {"type":"…
                counts[{b"a": "assistants", b"t": "threads", b"r": "runs"}.get(kind, "messages")] += 1
                counts["bytes"] += len(line)
                if counts["messages"] % 1_000 == 0:
                    _advance(bar, task, counts["messages"], counts["messages"], started)
        return counts | {"seconds": round(time.monotonic() - started, 2)}


@contextmanager
def _target(out: str) -> Iterator[IO[bytes]]:
    """Where to write. A file gets its name when it is whole, so that a cut export never passes for one."""
    if out == _STANDARD:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Nobody reads on. What is left in the buffer must not complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise MemoryServiceError("What read the export has ended.") from None
        return
    part = Path(f"{out}.part")
    try:
        with part.open("wb", buffering=_WRITE_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        raise MemoryServiceError(f"Cannot write {out}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            help="What `export` wrote; - is standard input. With `openai` first: objects of OpenAI's Assistants API.",
            metavar="[openai] FILE",
        ),
    ],
    project: Annotated[str, typer.Option(help="The project; made if need be.")] = lifecycle.DEFAULT_PROJECT,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take in what `export` wrote, or what was fetched from OpenAI. It is written in steps: one that was cut goes on where
    it ended when run again."""
    collect_seldom()
    with explained(), signals_as_exits():
        if files[0] == _OPENAI and len(files) == 1:
            raise InvalidInput("Name the files: `memory-service import openai FILE…`.")
        dump = _read_dump(files[1:]) if files[0] == _OPENAI else None
        summary = asyncio.run(_import(files, project, data_dir, dump))
        runs = f" and {summary['runs']:,} runs" if summary["runs"] else ""
        text = f"{summary['messages']:,} messages{runs} of {summary['threads']:,} new threads imported"
        if summary["skipped"]:
            text += f", {summary['skipped']:,} messages were there already"
        if dump:
            summary |= {"left_out": dict(+dump.left_out)}
            text += "".join(f"\n  {count:,} × {what}" for what, count in (+dump.left_out).items())
            text += "\n " if +dump.left_out else ""
        _say(summary, text, as_json)


def _read_dump(files: list[str]) -> Dump:
    dump = Dump()
    for name in files:
        try:
            dump.read(sys.stdin.buffer.read() if name == _STANDARD else Path(name).read_bytes())
        except OSError as error:
            raise MemoryServiceError(f"Cannot read {name}: {error.strerror or error}.") from error
        except InvalidInput as error:
            raise MemoryServiceError(f"{name}: {error.message}", code=error.code) from error
    return dump


async def _import(files: list[str], project: str, data_dir: Path | None, dump: Dump | None) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        if dump:
            sources = [_Source("OpenAI's objects", dump, None)]
        else:
            sources = [_Source.open(stack, name) for name in files]
        runtime, _ = await stack.enter_async_context(opened(data_dir))
        project_id = await lifecycle.make_project(runtime, project)
        bar = stack.enter_context(_progress(shown=True))
        total = None if any(source.size is None for source in sources) else sum(source.size or 0 for source in sources)
        task = bar.add_task("import", total=total, rate="")
        started = time.monotonic()
        totals = {"assistants": 0, "threads": 0, "runs": 0, "messages": 0, "skipped": 0}
        for source in sources:
            before = dict(totals)

            def show(report: ImportReport, before: dict[str, int] = before) -> None:
                counts = asdict(report)
                totals.update({name: before[name] + counts[name] for name in totals})
                done = totals["messages"] + totals["skipped"]
                _advance(bar, task, sum(s.bytes_read for s in sources), done, started)

            await _import_one(runtime, project_id, source, show)
        return totals | {"seconds": round(time.monotonic() - started, 2)}


@dataclass
class _Source:
    """A file, or a dump whose lines are made as they are asked for."""

    name: str
    file: IO[bytes] | Dump
    size: int | None
    bytes_read: int = 0

    @classmethod
    def open(cls, stack: AsyncExitStack, name: str) -> _Source:
        if name == _STANDARD:
            return cls("standard input", sys.stdin.buffer, None)
        try:
            file = stack.enter_context(Path(name).open("rb"))  # noqa: SIM115 - the stack is its context
            return cls(name, file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise MemoryServiceError(f"Cannot read {name}: {error.strerror or error}.") from error

    def lines(self, max_bytes: int) -> Iterator[bytes]:
        for line in self.file.lines() if isinstance(self.file, Dump) else lines_of(self.file, max_bytes):
            self.bytes_read += len(line)
            yield line

    def told(self, error: MemoryServiceError) -> str:
        """What is wrong, and where."""
        line = error.details.get("line")
        if isinstance(self.file, Dump) and isinstance(line, int):
            return f"{self.file.names[line - 1]}: {error.message.removeprefix(f'Line {line}: ')}"
        return f"{self.name}: {error.message}"


async def _import_one(
    runtime: Runtime, project_id: int, source: _Source, on_commit: Callable[[ImportReport], None]
) -> None:
    now = now_utc()
    async with Preparers(runtime.counter, now) as preparers:
        try:
            await imports.import_in_steps(
                runtime,
                project_id,
                source.lines(runtime.settings.max_body_bytes),
                preparers.prepare,
                now,
                ahead=preparers.count + 1,
                on_commit=on_commit,
            )
        except MemoryServiceError as error:
            raise MemoryServiceError(
                f"{source.told(error)} What stands before is imported; run it again to go on.",
                code=error.code,
            ) from error


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    """A bar on standard error, if a person looks at it."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
        transient=True,
    )
    with bar if shown else nullcontext():
        yield bar


def _advance(bar: Progress, task: TaskID, completed: int, messages: int, started: float) -> None:
    rate = messages / max(time.monotonic() - started, 1e-6)
    bar.update(task, completed=completed, rate=f"{messages:,} messages, {rate:,.0f}/s")


def _say(summary: dict[str, Any], text: str, as_json: bool, out: str = "") -> None:
    """The summary, on standard output unless the lines went there."""
    if as_json:
        typer.echo(json.dumps(summary), err=out == _STANDARD)
    else:
        rate = summary["messages"] / max(summary["seconds"], 0.01)
        err.print(f"{text} in {summary['seconds']:.1f} s ({rate:,.0f}/s)")
