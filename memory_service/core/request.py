"""What a caller asks of a prompt, with everything optional settled."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from memory_service.core.lane import lane_key
from memory_service.core.layout import StablePart
from memory_service.core.pricing import Model
from memory_service.core.truncation import TruncationStrategy


@dataclass(frozen=True, slots=True)
class Request:
    """`ttl` is "5m" or "1h"; None: no breakpoints."""

    provider: str
    model: Model
    model_name: str
    max_prompt_tokens: int
    max_output_tokens: int
    strategy: TruncationStrategy
    ttl: str | None

    @property
    def ttl_seconds(self) -> int | None:
        return 3600 if self.ttl == "1h" and self.model.cache_write_1h_ratio else self.model.ttl_seconds

    @property
    def breakpoint_ttl(self) -> str | None:
        """How long a breakpoint of this request lives; None where its form has none."""
        if self.ttl is None or self.provider != "openai":
            return self.ttl
        return "30m" if self.model.cache_rule == "openai_breakpoints" else None

    def shared_digest(self, stable: StablePart) -> str | None:
        """By this a prompt is known whose shared part the provider finds for this request, whatever thread sent it.

        None when it does not: OpenAI is asked to keep threads apart, and of other caches nothing is promised.
        """
        if self.ttl is None or self.model.cache_rule != "anthropic_breakpoints" or stable.shared_digest is None:
            return None
        key = "|".join((self.provider, self.model_name, self.ttl, stable.shared_digest))
        return sha256(key.encode()).hexdigest()

    @property
    def lane_key(self) -> str:
        return lane_key(self.provider, self.model_name, self.strategy.key, self.max_prompt_tokens)
