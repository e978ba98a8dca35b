"""The demo: a long conversation through the whole product, with a real model server at the end of it.

It starts the service as a user would, talks to it with `memory_client`, hands each prompt to the official `anthropic`
SDK, and reports what the engine said about its prompt cache. The clock is the conversation's: days pass in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from memory_service.core.messages import block_text
from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.engine import Engine
from memory_service.demo.models import EchoModel, EngineModel, PlayedModel
from memory_service.demo.sample import load_sample
from memory_service.demo.sources import load_conversation
from memory_service.errors import MemoryServiceError

if TYPE_CHECKING:
    from memory_client import MemoryClient

# So small that the window must move, and recall must work, in any conversation worth playing.
_BUDGET_SHARE = 0.45
_SHOWN_QUESTIONS = 12


@dataclass(frozen=True, slots=True)
class Recall:
    """An older message that came back for a question; `expected` if the conversation says that it is the answer."""

    question: str
    excerpt: str
    turns_ago: int
    score: float
    expected: bool


@dataclass(slots=True)
class Played:
    """What was measured. Token figures are the engine's own, one entry a prompt."""

    title: str
    model: str
    measured: bool
    max_prompt_tokens: int
    prompt_tokens: list[int] = field(default_factory=list)
    read_tokens: list[int] = field(default_factory=list)
    trims: int = 0
    expected: int = 0
    found: int = 0
    recalls: list[Recall] = field(default_factory=list)

    @property
    def read_share(self) -> float:
        return sum(self.read_tokens) / max(1, sum(self.prompt_tokens))

    @property
    def over_budget(self) -> int:
        return sum(tokens > self.max_prompt_tokens for tokens in self.prompt_tokens)


def play(source: Path | None, data_dir: Path | None, max_prompt_tokens: int | None, *, as_json: bool) -> int:
    """Play a conversation and print the table; returns the exit status."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    conversation = load_conversation(source) if source else load_sample()
    with ExitStack() as stack:
        if Engine.available():
            console.print(
                f"Model   a generated {Engine.model_name} model on a local llama.cpp server, called with the anthropic SDK."
            )
            console.print("        Its text is noise and is thrown away; its prompt cache is real.")
            model: PlayedModel = EngineModel(stack.enter_context(Engine()))
        else:
            console.print(
                "Model   echo: xllamacpp is not installed, so no model is called and cache figures are PREDICTED."
            )
            model = EchoModel()
        directory = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memory-demo-")))
        url, key = stack.enter_context(_service(directory))
        console.print(f"Service {url}, embedded Postgres in {directory}")
        budget = max_prompt_tokens or model.budget_for(conversation, _BUDGET_SHARE)
        played = _play(conversation, model, url, key, budget, console)
    if as_json:
        sys.stdout.write(
            json.dumps({**asdict(played), "cache_read_share": played.read_share}, ensure_ascii=False) + "\n"
        )
    else:
        _print(played, console)
        console.print()
        console.print("Next: `make run` serves it for your own application; README.md, “Use it”, has the first calls.")
    return 0


def _play(conversation: Conversation, model: PlayedModel, url: str, key: str, budget: int, console: Console) -> Played:
    try:
        from memory_client import MemoryClient, MemoryClientError
    except ImportError as error:
        raise MemoryServiceError("The demo talks to the service with memory-client; install clients/python.") from error

    played = Played(conversation.title, model.name, model.measured, budget)
    try:
        with MemoryClient(url, key) as client:
            _play_lines(conversation, model, client, budget, played, console)
    except MemoryClientError as error:
        raise MemoryServiceError(f"The service refused: {error}") from error
    return played


def _play_lines(
    conversation: Conversation, model: PlayedModel, client: MemoryClient, budget: int, played: Played, console: Console
) -> None:
    lines = conversation.lines
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Playing", total=len(lines))
        thread = client.with_options(default_headers=_clock(lines[0].created_at)).threads.create(
            instructions=conversation.system, user_id="demo"
        )
        for index, line in enumerate(lines):
            progress.advance(task)
            at = client.with_options(default_headers=_clock(line.created_at))
            answered = line.role == "user" and index + 1 < len(lines) and lines[index + 1].role == "assistant"
            if not answered:
                if line.role == "user" or not _was_reply(lines, index):
                    at.threads.messages.append(thread.id, line.role, line.content)
                continue
            prompt = at.threads.prompts.build(
                thread.id,
                provider=model.provider,
                model=model.name,
                max_prompt_tokens=budget,
                max_output_tokens=8,
                message={"role": "user", "content": line.content},
            )
            usage = model.call(prompt)
            reply = lines[index + 1]
            later = client.with_options(default_headers=_clock(reply.created_at or line.created_at))
            report = later.threads.prompts.report_usage(
                thread.id, prompt.id, usage=usage, message={"role": "assistant", "content": reply.content}
            )
            _take_notes(played, line, prompt, report, lines)


def _was_reply(lines: list[Line], index: int) -> bool:
    """Whether this assistant line was stored with the usage report of the prompt before it."""
    return index > 0 and lines[index - 1].role == "user"


def _take_notes(played: Played, line: Line, prompt: Any, report: Any, lines: list[Line]) -> None:
    reported = report.raw["reported"]
    read = reported["cache_read_tokens"]
    played.read_tokens.append(read)
    played.prompt_tokens.append(read + reported["cache_write_tokens"] + reported["uncached_tokens"])
    played.trims += prompt.window.trimmed
    request = json.dumps(prompt.request, ensure_ascii=False)
    played.expected += len(line.expects)
    played.found += sum(json.dumps(text, ensure_ascii=False)[1:-1] in request for text in line.expects)
    if line.answers_tools:
        return  # the turn's first prompt recalled already; what it brought back stands frozen
    for recalled in prompt.recalled:
        text = _plain(lines[recalled.seq - 1].content)
        expected = next((wanted for wanted in line.expects if wanted in text), None)
        if expected or (recalled is prompt.recalled[0] and not line.expects):
            turns_ago = (prompt.window.last_seq - recalled.seq) // 2
            played.recalls.append(
                Recall(_plain(line.content), expected or text, turns_ago, recalled.score or 0.0, expected is not None)
            )


def _plain(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else " ".join(filter(None, map(block_text, content)))


def _clock(moment: datetime | None) -> dict[str, str]:
    return {"x-memory-now": str(moment.timestamp())} if moment else {}


def _print(played: Played, console: Console) -> None:
    source = "reported by the engine" if played.measured else "predicted"
    prompts = sorted(played.prompt_tokens)
    total, read = sum(prompts), sum(played.read_tokens)
    table = Table(title=f"{played.title}: {len(prompts)} prompts", title_justify="left", show_header=False)
    table.add_row("prompt tokens, budget", f"{played.max_prompt_tokens:,}")
    if prompts:
        table.add_row(f"prompt tokens, {source}", f"median {prompts[len(prompts) // 2]:,}, largest {prompts[-1]:,}")
    table.add_row("prompts over budget", f"{played.over_budget}")
    table.add_row(f"input tokens, {source}", f"{total:,}")
    table.add_row(f"of these read from the prompt cache, {source}", f"{read:,} ({played.read_share:.1%})")
    table.add_row("times the window moved", f"{played.trims}")
    if played.expected:
        table.add_row("old facts asked for that were in the prompt", f"{played.found} of {played.expected}")
    console.print()
    console.print(table)
    # What was asked for says most; without questions known beforehand, the strongest matches do.
    recalls = [r for r in played.recalls if r.expected] or sorted(played.recalls, key=lambda r: -r.score)
    if not recalls:
        return
    table = Table(title="What was brought back, and why", title_justify="left", expand=True)
    table.add_column("asked", no_wrap=True, overflow="ellipsis", ratio=5)
    table.add_column("brought back", no_wrap=True, overflow="ellipsis", ratio=4)
    table.add_column("turns ago", justify="right")
    table.add_column("score", justify="right")
    for recall in recalls[:_SHOWN_QUESTIONS]:
        table.add_row(_line(recall.question), _line(recall.excerpt), str(recall.turns_ago), f"{recall.score:.1f}")
    console.print(table)
    if len(recalls) > _SHOWN_QUESTIONS:
        console.print(f"… and {len(recalls) - _SHOWN_QUESTIONS} more (--json has all).")


def _line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def _service(directory: Path) -> Iterator[tuple[str, str]]:
    """`memory-service serve` in a process of its own, on a free port; yields its address and key."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_")}
    environment |= {"MEMORY_CLOCK": "request", "MEMORY_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "memory_service", "serve", "--port", "0", "--data-dir", str(directory)]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    complaints: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda stream: complaints.extend(stream), args=(process.stderr,), daemon=True)
    reader.start()
    try:
        greeting = process.stdout.readline()
        if " on http" not in greeting:
            process.wait()
            reader.join(5)
            raise MemoryServiceError("The service did not start: " + "".join(complaints).strip())
        rest = threading.Thread(target=process.stdout.read, daemon=True)
        rest.start()
        yield greeting.split(" on ")[1].strip(), (directory / "api_key").read_text().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        reader.join(5)
        process.stderr.close()
