"""Anthropic's own count of a request's tokens, through its SDK, which is loaded when it is first asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from memory_service.errors import CountUnavailable

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_SECONDS = 3.0
_REFUSED_SECONDS = 10.0
# The arguments of a request that the count takes as well.
_COUNTED = ("model", "system", "tools", "messages")


API_URL = "https://api.anthropic.com"


def api_url() -> str:
    """Where Anthropic's protocol is spoken. To the SDK a variable that is set to nothing is an address."""
    return os.environ.get("ANTHROPIC_BASE_URL", "").strip() or API_URL


class AnthropicCounter:
    """A `TokenCounter`. Once it had no answer it is not asked for a while, so that not every prompt waits in vain.

    The SDK reads ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL itself.
    """

    provider = "anthropic"

    def __init__(self, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._refused_until = 0.0
        self._client: AsyncAnthropic | None = None

    @classmethod
    def of(cls, choice: Literal["auto", "off"], environ: Mapping[str, str]) -> Self | None:
        """None when it is not wanted, or there is no key."""
        return cls() if choice == "auto" and environ.get("ANTHROPIC_API_KEY", "").strip() else None

    async def count_tokens(self, request: Mapping[str, Any]) -> int:
        if self._clock() < self._refused_until:
            raise CountUnavailable("not asked again yet", was_asked=False)
        try:
            client = await self._opened()
            async with asyncio.timeout(self._seconds):
                counted = await client.messages.count_tokens(**{k: request[k] for k in _COUNTED if k in request})
            tokens = getattr(counted, "input_tokens", None)
        except Exception as error:  # whatever the SDK makes of an answer, a prompt can be built without it
            self._refused_until = self._clock() + _REFUSED_SECONDS
            # Not the error's text: a server may repeat what it was sent.
            reason = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            raise CountUnavailable(reason) from error
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens <= 0:
            raise CountUnavailable("not a number of tokens")
        return tokens

    async def _opened(self) -> AsyncAnthropic:
        if self._client is None:
            sdk = await asyncio.to_thread(__import__, "anthropic")
            self._client = self._client or sdk.AsyncAnthropic(base_url=api_url(), max_retries=0, timeout=self._seconds)
        assert self._client
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
