"""`memory-service embedder`: which there are, and changing to another while the service runs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from memory_service.cli.common import AsJson, DataDir, err, explained, opened, signals_as_exits
from memory_service.providers.embeddings.registry import EmbedderSpec, open_embedder, probe
from memory_service.runtime import Runtime, embedder_access
from memory_service.services import switching
from memory_service.services.lifecycle import OpenDatabase
from memory_service.services.switching import Candidate, Progress

app = typer.Typer(
    help="What turns messages into vectors. `docs/embedders.md` tells which there are.", no_args_is_help=True
)

_STEPS = {
    "waiting": "waiting for transactions that began before",
    "queueing": "queueing the messages",
    "embedding": "embedding",
}


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the embedders: the active one, one that is being built, and those that were retired."""
    with explained(), signals_as_exits():
        rows = asyncio.run(_list(data_dir))
        if as_json:
            typer.echo(json.dumps(rows))
            return
        for row in rows:
            waiting = f"  {row['waiting']:,} messages wait" if row["waiting"] else ""
            typer.echo(f"{row['status']:<8}  {row['name']}  {row['dimensions']} dimensions{waiting}")


async def _list(data_dir: Path | None) -> list[dict[str, Any]]:
    async with opened(data_dir) as (runtime, _):
        return [
            {
                "name": record.name,
                "status": record.status,
                "dimensions": record.dimensions,
                "waiting": state.waiting,
                "last_error": state.last_error,
                "created_at": record.created_at.isoformat().replace("+00:00", "Z"),
            }
            for record, state in await switching.list_embedders(runtime)
        ]


@app.command("switch")
def switch(
    spec: Annotated[
        str, typer.Argument(help="`builtin`, `openai:MODEL`, `fastembed:MODEL` or `sentence-transformers:MODEL`.")
    ],
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server.", show_default="OpenAI")] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Ask for shorter vectors.", show_default="the model's own")
    ] = None,
    query_prefix: Annotated[
        str | None, typer.Option(help="In front of what is looked for.", show_default="none")
    ] = None,
    passage_prefix: Annotated[str | None, typer.Option(help="In front of what is found.", show_default="none")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Embed every message with another embedder, then let searches use it. Until then they use the old one.

    Services may run meanwhile, and take part in the work. Run again, a switch that was broken off goes on.
    """
    with explained(), signals_as_exits():
        wanted = EmbedderSpec.parse(
            spec,
            base_url=base_url,
            dimensions=dimensions,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
        )
        result = asyncio.run(_switch(wanted, data_dir))
        if as_json:
            typer.echo(json.dumps(result))
        elif result["switched"]:
            typer.echo(f"{result['active']} is active; {result['embedded']:,} messages were embedded")
        else:
            typer.echo(f"{result['active']} is active already")


async def _switch(spec: EmbedderSpec, data_dir: Path | None) -> dict[str, Any]:
    async with opened(data_dir) as (runtime, database):
        candidate = await _candidate(runtime, spec)
        return await _switch_to(runtime, database, candidate)


async def _candidate(runtime: Runtime, spec: EmbedderSpec) -> Candidate:
    """Raises EmbedderUnavailable unless it can be used from here."""
    embedder = await open_embedder(spec, embedder_access(runtime.settings))
    try:
        await probe(embedder)
        return Candidate(embedder.name, spec.to_json(), embedder.dimensions)
    finally:
        await embedder.close()


async def _switch_to(runtime: Runtime, database: OpenDatabase, candidate: Candidate) -> dict[str, Any]:
    most = 0
    with _bar() as (bar, task):

        def report(progress: Progress) -> None:
            nonlocal most
            most = max(most, progress.total)
            if bar.disable and progress.step == "queueing":
                err.print("embedding all messages; searches use the old embedder until it is done", markup=False)
            trouble = f"  last trouble: {progress.trouble}" if progress.trouble else ""
            bar.update(
                task,
                description=_STEPS[progress.step] + trouble,
                total=progress.total or None,
                completed=progress.total - progress.waiting,
            )

        record = await switching.switch(runtime, database.url, candidate, report)
    return {"active": candidate.name, "switched": record is not None, "embedded": most}


@contextmanager
def _bar() -> Iterator[tuple[Bar, TaskID]]:
    """On standard error, if a person looks at it."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        yield bar, bar.add_task("")
