"""What the service asks of a vendor, as protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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
