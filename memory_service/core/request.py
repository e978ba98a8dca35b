"""What a caller asks of a prompt, with everything optional settled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from memory_service.core.lane import Lane, lane_key
from memory_service.core.layout import StablePart
from memory_service.core.pricing import Model
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.ttl import LONG_SECONDS, Pace, choose_lifetime


@dataclass(frozen=True, slots=True)
class Request:
    """`ttl` is "5m" or "1h", or "auto" until a lane is known; None: no breakpoints. `ttl_why` says who chose it."""

    provider: str
    model: Model
    model_name: str
    max_prompt_tokens: int
    max_output_tokens: int
    strategy: TruncationStrategy
    ttl: str | None
    ttl_why: str = ""

    def in_lane(self, lane: Lane | None, now: float) -> Request:
        """The request with the lifetime that suits what the lane has seen."""
        lifetime = choose_lifetime(self.ttl, lane.pace_at(now) if lane else Pace(), self.model)
        return replace(self, ttl=lifetime.ttl, ttl_why=lifetime.why)

    @property
    def ttl_seconds(self) -> int | None:
        return LONG_SECONDS if self.ttl == "1h" and self.model.cache_write_1h_ratio else self.model.ttl_seconds

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
