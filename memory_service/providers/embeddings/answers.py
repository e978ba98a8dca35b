"""What an OpenAI-compatible server answered: vectors, or why not. Pure functions of a response."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

import httpx2

from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Vectors
from memory_service.providers.embeddings.rows import NotVectors, WrongDimensions, unit_rows
from memory_service.providers.responses import reason_of, retry_after

_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_TOO_LARGE_STATUSES = frozenset({400, 413, 422, 500})
# "maximum context length is 8192 tokens", "input (2000 tokens) is too large", "must have less than 512 tokens",
# "batch size 64 > maximum allowed batch size 32": each server says it in its own way, and only in words.
_TOO_LARGE = re.compile(
    r"too (large|long|many)|(max\w*|context|input) (\w+ )?(length|size|tokens)|less than \d+ tokens|batch size",
    re.IGNORECASE,
)
_QUOTED_CHARACTERS = 16


class TooLarge(EmbedderUnavailable):
    """Fewer or shorter texts may be taken."""


def rows(name: str, content: bytes, *, count: int, dimensions: int | None) -> Vectors:
    """The vectors in the order of the texts, of length 1. Raises EmbedderUnavailable."""
    try:
        items = json.loads(content)["data"]
        by_index = {item["index"]: item["embedding"] for item in items}
        if len(items) != count or set(by_index) != set(range(count)):
            raise NotVectors(f"{len(items)} vectors for {count} texts, or not numbered from 0")
        return unit_rows([by_index[index] for index in range(count)], count=count, dimensions=dimensions)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        # Only what we say ourselves: other errors may quote the answer, and the answer the texts.
        reason = str(error) if isinstance(error, NotVectors) else type(error).__name__
        raise EmbedderUnavailable(
            f"{name} answered with something else than the vectors asked for: {reason}",
            is_retryable=not isinstance(error, WrongDimensions),
        ) from error


def refusal(name: str, response: httpx2.Response, *, secrets: Sequence[str]) -> EmbedderUnavailable:
    """An answer that is not 200 as an error, with the server's own words unless they quote one of `secrets`."""
    status = response.status_code
    reason = reason_of(response.content)
    message = f"{name} answered {status}"
    if reason and not _quotes(reason, secrets):
        message += f": {reason}"
    if status == 413 or (status in _TOO_LARGE_STATUSES and _TOO_LARGE.search(reason)):
        return TooLarge(message, is_retryable=False)
    return EmbedderUnavailable(
        message,
        is_retryable=status in _PASSING_STATUSES or status >= 500,
        retry_after_seconds=retry_after(response.headers.get("retry-after"), now=time.time()),
    )


def _quotes(reason: str, secrets: Sequence[str]) -> bool:
    """Does it hold a piece of one of them?"""
    ends = range(_QUOTED_CHARACTERS, len(reason) + 1)
    pieces = {reason[end - _QUOTED_CHARACTERS : end] for end in ends}
    for secret in (" ".join(secret.split()) for secret in secrets):
        if len(secret) >= _QUOTED_CHARACTERS and any(piece in secret for piece in pieces):
            return True
        if secret and re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", reason):
            return True
    return False
