"""`memory-service simulate`: what policies would have cost on recorded threads."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memory_service.cli.common import AsJson, explained, out, read_settings
from memory_service.core.budget import default_limit
from memory_service.core.pricing import Model, find_model, provider_of
from memory_service.demo.sources import load_conversations
from memory_service.errors import InvalidInput, MemoryServiceError
from memory_service.runtime import load_models
from memory_service.services.planning import DEFAULT_MAX_OUTPUT_TOKENS
from memory_service.simulation.chart import draw
from memory_service.simulation.replay import ModelOutcomes, count_prompts, replay
from memory_service.simulation.threads import UNKNOWN_GAP, Thread, read_threads

_DEFAULT_MODEL = "claude-sonnet-5-5"
_PREDICTED = "Predicted by a model of the provider's prompt cache and a table of its prices; nobody was asked or paid."

_COLUMNS = (
    "read: share of the input tokens read from the prompt cache. p50, max: tokens of a prompt. breaks: prompts that do not "
    "begin as the one before. over: prompts over the budget. best baseline: the cheapest that keeps to the budget and "
    "shows at least half as much as the service."
)


def simulate(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Recorded threads: what `export` wrote, OpenAI messages (a JSON list, or one conversation a line), or "
            "LoCoMo. FILE#ID picks one conversation.",
            metavar="FILE",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Whose prices and cache rules; may be given more than once.", show_default=_DEFAULT_MODEL),
    ] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=256, help="Prompt budget.", show_default="the service's own for the model")
    ] = None,
    max_threads: Annotated[
        int | None, typer.Option(min=1, help="Replay only so many threads, spread evenly.", show_default="all")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cost a turn and cache-read share into this SVG file.", metavar="FILE.svg")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded threads and predict what their input tokens would have cost.

    Compared are the full history, a sliding window, the last 20 messages, recall in the system prompt, and this service.

    Needs no database, no key and no network.
    """
    with explained():
        models = [_find(name) for name in model or [_DEFAULT_MODEL]]
        threads = _some(read_threads(chain.from_iterable(load_conversations(name) for name in files)), max_threads)
        with _progress(count_prompts(threads, models)) as advance:
            found = [replay(threads, one, _limit(one, max_prompt_tokens), advance) for one in models]
        if plot:
            _write(plot, draw(found, _PREDICTED))
        notes = _notes(threads, found)
        if as_json:
            sys.stdout.write(
                json.dumps({**_count(threads), "models": [one.to_json() for one in found], "notes": notes})
            )
            sys.stdout.write("\n")
        else:
            _print(threads, found, notes)


def _find(name: str) -> Model:
    """Raises InvalidInput for a model of which neither rules nor prices are known."""
    table = load_models(read_settings().models_file)
    provider = provider_of(table, name)
    if provider is None:
        known = dict.fromkeys(model.name for model in table if model.input_usd)
        like = difflib.get_close_matches(name, known, 3, 0.5) or list(known)[:8]
        raise InvalidInput(
            f"No prices are known for the model {name!r}. Known are, for example, {', '.join(like)}; MEMORY_MODELS_FILE "
            "adds others."
        )
    return find_model(table, provider, name)


def _limit(model: Model, wanted: int | None) -> int:
    limit = wanted or default_limit(model, DEFAULT_MAX_OUTPUT_TOKENS)
    if model.context_tokens is not None and limit > model.context_tokens:
        raise InvalidInput(f"{model.name} takes {model.context_tokens:,} tokens at most, not {limit:,}.")
    return limit


def _some(threads: Sequence[Thread], count: int | None) -> list[Thread]:
    count = min(count or len(threads), len(threads))
    return [threads[number * len(threads) // count] for number in range(count)]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if a person looks at it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("prompts", total=total)
        yield lambda: bar.advance(task)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MemoryServiceError(f"Cannot write {path}: {error.strerror or error}.") from error


def _count(threads: Sequence[Thread]) -> dict[str, int]:
    return {
        "threads": len(threads),
        "messages": sum(len(thread.messages) for thread in threads),
        "turns": sum(ask.opens_turn for thread in threads for ask in thread.asks),
        "prompts": sum(len(thread.asks) for thread in threads),
    }


def _notes(threads: Sequence[Thread], found: Sequence[ModelOutcomes]) -> list[str]:
    notes = [_PREDICTED, "Tokens are estimated, as the service does before a model reported any usage."]
    if not all(thread.timed for thread in threads):
        notes.append(
            f"Some messages have no `created_at`: they are taken as written {UNKNOWN_GAP.seconds} s after the one before, "
            "so that nothing in the prompt cache expires."
        )
    for model in found:
        longest = model.outcomes[0]
        if not longest.over_budget:
            notes.append(
                f"No thread comes near {model.limit:,} tokens, so no window ever had to move for {model.model.name}. Try a "
                "smaller --max-prompt-tokens."
            )
        if refused := max(outcome.refused for outcome in model.outcomes):
            notes.append(
                f"{refused:,} prompts cannot be kept within {model.limit:,} tokens: what must be shown is larger. They are "
                "left out where they do not fit."
            )
    return notes


def _print(threads: Sequence[Thread], found: Sequence[ModelOutcomes], notes: Sequence[str]) -> None:
    counts = _count(threads)
    out.print(
        f"{_several(counts['threads'], 'thread')}, {_several(counts['messages'], 'message')}, "
        f"{_several(counts['prompts'], 'prompt')} in {_several(counts['turns'], 'turn')}"
    )
    for model in found:
        out.print()
        out.print(_table(model))
    out.print()
    for note in (_COLUMNS, *notes):
        out.print(f"• {note}", markup=False)


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _table(model: ModelOutcomes) -> Table:
    found = model.to_json()
    table = Table(
        title=f"{model.model.name}, max_prompt_tokens {model.limit:,}",
        title_justify="left",
        title_style="bold",
        caption=f"against: cost of a prompt over that of the best baseline, {found['best_baseline']}",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("policy", no_wrap=True)
    for name in ("input", "a turn", "against", "read", "p50", "max", "breaks", "over"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found["policies"]:
        table.add_row(*_cells(row), style="" if row["baseline"] else "bold")
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    cost, turn, against = row["cost_usd"], row["cost_usd_per_turn"], row["cost_over_best_baseline"]
    return [
        row["policy"],
        "unknown" if cost is None else f"${cost:,.2f}",
        "unknown" if turn is None else f"{100 * turn:.3f}¢",
        "" if against is None else f"{against:.2f} ×",
        f"{row['cache_read_share']:.1%}",
        f"{row['prompt_tokens_p50']:,}",
        f"{row['prompt_tokens_max']:,}",
        f"{row['breaks']:,}",
        f"{row['over_budget'] + row['refused']:,}",
    ]
