"""What the services share while the program runs."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from memory_service.config import Settings
from memory_service.core.pricing import Model
from memory_service.core.tokens import TokenCounts
from memory_service.errors import InvalidInput
from memory_service.providers.base import TextCounter
from memory_service.providers.embeddings.registry import EmbedderAccess
from memory_service.store.db import Database

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Counting this many characters takes a few milliseconds; more is done beside the event loop.
_COUNT_INLINE_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class Runtime:
    """`db` acts for projects, `worker_db` for background loops and administration."""

    settings: Settings
    db: Database
    worker_db: Database
    counter: TextCounter
    models: tuple[Model, ...]

    async def count(self, texts: list[str]) -> list[TokenCounts]:
        """Counts of texts, beside the event loop when they are long."""
        if sum(map(len, texts)) <= _COUNT_INLINE_CHARACTERS:
            return [self.counter.count(text) for text in texts]
        return await asyncio.to_thread(lambda: [self.counter.count(text) for text in texts])

    async def close(self) -> None:
        await self.db.close()
        await self.worker_db.close()


def embedder_access(settings: Settings) -> EmbedderAccess:
    return EmbedderAccess(
        api_key=settings.embedder_api_key,
        query_timeout_seconds=settings.embedder_query_timeout_seconds,
        passages_timeout_seconds=settings.embedder_passages_timeout_seconds,
    )


def now_utc() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str, now: datetime) -> str:
    """An opaque id: milliseconds, then 80 random bits, so that ids sort by time and cannot be guessed."""
    number = (int(now.timestamp() * 1000) << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ID_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def new_api_key() -> str:
    """256 random bits."""
    return f"msk_{secrets.token_urlsafe(32)}"


@lru_cache
def load_models(path: Path | None = None) -> tuple[Model, ...]:
    """The price table: the operator's entries first, then the shipped ones. Raises InvalidInput naming a bad entry."""
    shipped = json.loads((files("memory_service") / "assets" / "models.json").read_text())
    own = _read_models(path) if path is not None else []
    return tuple(Model(**entry) for entry in [*own, *shipped["models"]])


def _read_models(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text())["models"]
        known = {field.name for field in fields(Model)}
        for entry in entries:
            if unknown := entry.keys() - known:
                raise InvalidInput(f"{path}: unknown field {sorted(unknown)[0]!r} in {entry.get('name')!r}.")
            Model(**entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"MEMORY_MODELS_FILE {path} cannot be read ({type(error).__name__}); it holds "
            '{"models": [{"name": …, "provider": …, "cache_rule": …, "input_usd": …}]}.'
        ) from error
    return list(entries)
