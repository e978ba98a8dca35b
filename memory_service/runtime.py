"""What the services share while the program runs."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from memory_service.config import Settings
from memory_service.core.held import Held, HeldMessages, HeldQuotables
from memory_service.core.pricing import Model
from memory_service.core.tokens import TokenCounts, TokenEstimate
from memory_service.errors import EmbedderUnavailable, InvalidInput
from memory_service.providers.base import Embedder, TextCounter, TokenCounter
from memory_service.providers.chat.registry import ChatProviders
from memory_service.providers.embeddings.registry import EmbedderAccess
from memory_service.store.db import Database
from memory_service.store.embedders import EmbedderRecord, list_embedders
from memory_service.telemetry import logger

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Counting this many characters takes a few milliseconds; more is done beside the event loop.
_COUNT_INLINE_CHARACTERS = 50_000
_HELD_BYTES = 128 << 20
_LEFT_ESTIMATES = 1_000
_REREAD_SECONDS = 2.0
_OLD_SECONDS = 10.0
_REFUSED_SECONDS = 5.0
# The forms that a request can have; `echo` calls nobody.
_FORM = TypeAdapter[str](Literal["anthropic", "openai", "echo"])


@dataclass(frozen=True, slots=True)
class Runtime:
    """`db` acts for projects, `worker_db` for background loops and administration."""

    settings: Settings
    db: Database
    worker_db: Database
    counter: TextCounter
    models: tuple[Model, ...]
    embedders: Embedders
    chat: ChatProviders
    token_counter: TokenCounter | None = None
    held: HeldThreads = field(default_factory=lambda: HeldThreads())
    estimates: LeftEstimates = field(default_factory=lambda: LeftEstimates())

    async def count(self, texts: list[str]) -> list[TokenCounts]:
        """Counts of texts, beside the event loop when they are long."""
        if sum(map(len, texts)) <= _COUNT_INLINE_CHARACTERS:
            return [self.counter.count(text) for text in texts]
        return await asyncio.to_thread(lambda: [self.counter.count(text) for text in texts])

    async def close(self) -> None:
        await self.embedders.close()
        await self.chat.close()
        if self.token_counter:
            await self.token_counter.close()
        await self.db.close()
        await self.worker_db.close()


_Part = TypeVar("_Part", Held, HeldMessages, HeldQuotables)


class HeldThreads:
    """What is held of threads, those used last, up to `limit_bytes` together. Of each there is a part of every kind."""

    def __init__(self, limit_bytes: int = _HELD_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[type, int], Held | HeldMessages | HeldQuotables] = OrderedDict()
        self.nbytes = 0

    def find(self, kind: type[_Part], thread_pk: int, edited_version: int) -> _Part | None:
        """What is held since that version: of another one, messages may have changed. What is older is forgotten."""
        held = self._held.get((kind, thread_pk))
        if not isinstance(held, kind):
            return None
        if held.edited_version != edited_version:
            if held.edited_version < edited_version:
                self._forget((kind, thread_pk))
            return None
        self._held.move_to_end((kind, thread_pk))
        return held

    def keep(self, thread_pk: int, held: Held | HeldMessages | HeldQuotables) -> None:
        key = (type(held), thread_pk)
        if self._held.get(key) is held:
            self._held.move_to_end(key)
            return
        self._forget(key)
        if held.nbytes > self._limit_bytes:
            return
        self._held[key] = held
        self.nbytes += held.nbytes
        while self.nbytes > self._limit_bytes:
            self._forget(next(iter(self._held)))

    def _forget(self, key: tuple[type, int]) -> None:
        if (held := self._held.pop(key, None)) is not None:
            self.nbytes -= held.nbytes


class LeftEstimates:
    """What this process left of what was learnt of models' tokens: there it most likely still is, unless others write
    there too."""

    def __init__(self) -> None:
        self._left: OrderedDict[tuple[int, str, str], tuple[TokenEstimate, bool]] = OrderedDict()

    def find(self, project_id: int, provider: str, model: str) -> TokenEstimate | None:
        """None where it is to be read: nothing was left, or the last time it was another's."""
        left, is_ours = self._left.get((project_id, provider, model), (None, False))
        return left if is_ours else None

    def leave(
        self, project_id: int, provider: str, model: str, found: TokenEstimate | None, left: TokenEstimate
    ) -> None:
        key = (project_id, provider, model)
        before, _ = self._left.pop(key, (None, False))
        self._left[key] = (left, before == found)
        if len(self._left) > _LEFT_ESTIMATES:
            self._left.popitem(last=False)


def embedder_access(settings: Settings) -> EmbedderAccess:
    return EmbedderAccess(
        api_key=settings.embedder_api_key,
        query_timeout_seconds=settings.embedder_query_timeout_seconds,
        passages_timeout_seconds=settings.embedder_passages_timeout_seconds,
    )


OpenEmbedder = Callable[[EmbedderRecord], Awaitable[Embedder]]


@dataclass(slots=True)
class ActiveEmbedder:
    """The embedder that searches use. `embedder` is None while it cannot be opened, or was just found unreachable."""

    record: EmbedderRecord
    embedder: Embedder | None

    @property
    def is_inline(self) -> bool:
        """Whether it is as fast as a query of the database."""
        return self.embedder is not None and self.embedder.inline


class Embedders:
    """The embedders that the database names, opened. Which is active is read again every few seconds, when asked for, so
    that every service notices a switch by itself.
    """

    def __init__(self, db: Database, open_embedder: OpenEmbedder, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._open = open_embedder
        self._clock = clock
        self._opened: dict[int, Embedder] = {}
        self._refused: dict[int, tuple[float, EmbedderUnavailable]] = {}
        self._record: EmbedderRecord | None = None
        self._read_at = -inf
        self._reading = asyncio.Lock()
        self._opening = asyncio.Lock()

    async def active(self) -> ActiveEmbedder:
        """Raises Unavailable when the database cannot say."""
        record = await self._active_record()
        try:
            return ActiveEmbedder(record, await self.opened(record))
        except EmbedderUnavailable:
            return ActiveEmbedder(record, None)

    async def opened(self, record: EmbedderRecord) -> Embedder:
        """Raises EmbedderUnavailable; it is tried again after a while."""
        until, error = self._refused.get(record.pk, (-inf, None))
        if error is not None and self._clock() < until:
            raise error
        if (embedder := self._opened.get(record.pk)) is not None:
            return embedder
        async with self._opening:
            if record.pk not in self._opened:
                try:
                    self._opened[record.pk] = await self._open(record)
                except EmbedderUnavailable as error:
                    self.refuse(record, error)
                    raise
        return self._opened[record.pk]

    def refuse(self, record: EmbedderRecord, error: EmbedderUnavailable) -> None:
        """It was not there: for a while it is not asked, so that not every request waits for it in vain."""
        if record.pk not in self._refused or self._clock() >= self._refused[record.pk][0]:
            fields = {"embedder": record.name, "reason": error.message}
            logger.warning("the embedder is unavailable; recall goes by words", extra={"fields": fields})
        self._refused[record.pk] = (self._clock() + _REFUSED_SECONDS, error)

    async def _active_record(self) -> EmbedderRecord:
        record, age = self._record, self._clock() - self._read_at
        # One reads, the others go on with what is known, as long as it is not old.
        if record is not None and (age < _REREAD_SECONDS or (self._reading.locked() and age < _OLD_SECONDS)):
            return record
        async with self._reading:
            if self._clock() - self._read_at >= _REREAD_SECONDS or self._record is None:
                async with self._db.read_only(None) as session:
                    found = [record for record in await list_embedders(session) if record.status == "active"]
                self._record, self._read_at = found[0], self._clock()
            return self._record

    async def close(self) -> None:
        for embedder in self._opened.values():
            await embedder.close()


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
        for entry in entries:
            _check_entry(path, entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"MEMORY_MODELS_FILE {path} cannot be read ({type(error).__name__}); it holds "
            '{"models": [{"name": …, "provider": …, "cache_rule": …, "input_usd": …}]}, see docs/models.md.'
        ) from error
    return list(entries)


def _check_entry(path: Path, entry: dict[str, Any]) -> None:
    """A dataclass takes any value; what is wrong here would fail every prompt for the model."""
    name = entry["name"]
    if unknown := entry.keys() - {field.name for field in fields(Model)}:
        raise InvalidInput(f"{path}: unknown field {sorted(unknown)[0]!r} in {name!r}.")
    try:
        TypeAdapter(Model).validate_json(json.dumps(entry), strict=True)
        _FORM.validate_python(entry["provider"])
    except ValidationError as error:
        problem = error.errors()[0]
        field, said = (problem["loc"] or ("provider",))[0], problem["msg"][0].lower() + problem["msg"][1:]
        raise InvalidInput(f"{path}: {field!r} of {name!r}: {said}. docs/models.md has all fields.") from error
