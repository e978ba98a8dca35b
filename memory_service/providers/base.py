"""What the service asks of a vendor, as protocols."""

from __future__ import annotations

from typing import Protocol

from memory_service.core.tokens import TokenCounts


class TextCounter(Protocol):
    """Counts text for the learnt estimate. The same text always gives the same counts."""

    def count(self, text: str) -> TokenCounts:
        """Tokens by script and UTF-8 bytes of a text; `messages` stays 0."""
        ...
