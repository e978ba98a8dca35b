"""What the service asks of a vendor, as protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from memory_service.core.tokens import TokenCounts

Vectors = npt.NDArray[np.float32]


class TextCounter(Protocol):
    """Counts text for the learnt estimate. The same text always gives the same counts."""

    def count(self, text: str) -> TokenCounts:
        """Tokens by script and UTF-8 bytes of a text; `messages` stays 0."""
        ...


class TokenCounter(Protocol):
    """A provider's own count of a request."""

    @property
    def provider(self) -> str:
        """Whose models it counts for."""
        ...

    async def count_tokens(self, request: Mapping[str, Any]) -> int:
        """Input tokens of a request in the form that the provider's SDK takes. Raises CountUnavailable."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of what a model says, as it comes. `index` tells the blocks apart and gives their order; blocks that the
    reply does not keep (blank text, thinking that nobody takes back) have one too.

    A call of a tool begins with a piece of type `tool_use`, which names it; its input follows as JSON text in pieces of
    type `tool_input`.
    """

    index: int
    type: Literal["text", "thinking", "tool_use", "tool_input"]
    text: str = ""
    tool_use_id: str | None = None
    tool_name: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """All that a model said. `content` is in Anthropic's blocks, without blank text, and may be empty.

    `stop_reason` is in Anthropic's words, whoever answered: `end_turn`, `tool_use`, `max_tokens`, `stop_sequence`,
    `refusal`, … `usage` is the provider's object as it came; None when it sent none. `id` is the provider's name of the
    reply, `diagnostics` what it said of its prompt cache.
    """

    content: Sequence[Any]
    stop_reason: str
    usage: Mapping[str, Any] | None
    id: str | None = None
    diagnostics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelCall:
    """`request` is exactly what the provider's SDK takes; blocks may be `Raw`, and are sent as they stand. `previous_id` is
    the `Reply.id` of the lane's request before, for providers that say why their prompt cache was missed. `cache_salt`
    keeps projects apart in a server's own cache.
    """

    request: Mapping[str, Any]
    previous_id: str | None = None
    cache_salt: str | None = None


class ChatProvider(Protocol):
    """Calls models. It tries once: whether and when to try again is its caller's to decide.

    Every failure is a ProviderError, also one in the middle of a reply.
    """

    @property
    def name(self) -> str:
        """`anthropic`, `openai` or `echo`: the form of the requests that it takes."""
        ...

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta | Reply, None]:
        """What the model says, in pieces, and at the end all of it, once. Closing the generator ends the call."""
        ...

    async def load(self) -> None:
        """Make ready what the first call would wait for. Raises whatever the vendor's SDK does."""
        ...

    async def prewarm(self, call: ModelCall) -> Mapping[str, Any]:
        """Let the provider read a request into its prompt cache, without a reply. The usage it reports; empty if none."""
        ...

    async def close(self) -> None: ...


class Embedder(Protocol):
    """Turns text into unit vectors, so that a dot product is the cosine. The same text always gives the same vector."""

    @property
    def name(self) -> str:
        """What made a vector: vectors of different names are never compared. Changes whenever the vectors would."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def inline(self) -> bool:
        """Fast enough to run while a message is being written; otherwise a background loop runs it."""
        ...

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """One row of length 1 for each text, in their order; a text with nothing to go by gives a row of zeros.

        Raises EmbedderUnavailable, which says whether trying again can help.
        """
        ...

    async def embed_query(self, text: str) -> Vectors:
        """The vector to look for, one-dimensional. Raises EmbedderUnavailable."""
        ...

    async def close(self) -> None: ...
