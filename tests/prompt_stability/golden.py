"""The prompts that are committed, one request a line. `python -m tests.prompt_stability` writes them anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.property.checks import prefix_of
from tests.property.simulator import Built

DIRECTORY = Path(__file__).with_name("prompts")
REWRITE = "python -m tests.prompt_stability"


def path_of(name: str) -> Path:
    return DIRECTORY / f"{name}.ndjson"


def render(prompts: Sequence[Built]) -> str:
    return "".join(f"{built.text}\n" for built in prompts)


def moves(prompts: Sequence[Built]) -> list[int]:
    """Numbers of the prompts (from 1) that do not extend what the one before them had up to its last breakpoint."""
    blocks = [prefix_of(built, whole=True) for built in prompts]
    prefixes = [prefix_of(built) for built in prompts]
    return [n + 1 for n in range(1, len(prompts)) if blocks[n][: len(prefixes[n - 1])] != prefixes[n - 1]]
