"""The command line: each module a command or a group of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memory_service import __version__
from memory_service.cli import embedder, keys
from memory_service.cli.common import AsJson, explained
from memory_service.cli.doctor import doctor
from memory_service.cli.serve import migrate, serve
from memory_service.cli.simulate import simulate
from memory_service.cli.transfer import export, import_

app = typer.Typer(
    name="memory-service",
    help="Conversation memory for LLM applications: threads in, prompts with a warm prefix out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.command()(serve)
app.command()(migrate)
app.command()(doctor)
app.command()(export)
app.command("import")(import_)
app.command()(simulate)
app.add_typer(keys.app, name="keys")
app.add_typer(embedder.app, name="embedder")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Play this instead of the sample: an NDJSON export, a LoCoMo file (FILE#conv-26 picks one), or a list "
            "of OpenAI messages.",
            show_default="the sample conversation",
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
