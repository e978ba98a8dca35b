"""How `max_prompt_tokens` is divided, and how deep a trim goes."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from memory_service.core.pricing import Model

# What one visible token is worth per turn, in input tokens. 0.6 keeps about 70 % of a 32k window after a trim.
TOKEN_WORTH = 0.6
UNPRICED_LOW_WATER = 0.7
LOW_WATER_FLOOR = 0.3
DEFAULT_RECALL_TOKENS = 1_500
RECALL_SHARE = 1 / 8
DEFAULT_MAX_PROMPT_TOKENS = 32_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Token limits of one prompt, in the provider's tokens.

    The reserves are constants of the lane: what a prompt recalls, or brings as context, never moves the window.
    """

    limit: int
    stable_tokens: int
    recall_reserve: int
    context_reserve: int

    @property
    def window_ceiling(self) -> int:
        """B: the most that the window may hold."""
        return self.limit - self.stable_tokens - self.recall_reserve - self.context_reserve

    @property
    def volatile_ceiling(self) -> int:
        return self.recall_reserve + self.context_reserve


def default_limit(model: Model, max_output_tokens: int) -> int:
    """The ceiling when the caller names none: below the model's price cliff, and with room for the answer."""
    limit = DEFAULT_MAX_PROMPT_TOKENS
    if model.price_cliff_tokens is not None:
        limit = min(limit, model.price_cliff_tokens)
    if model.context_tokens is not None:
        limit = min(limit, model.context_tokens - max_output_tokens)
    return max(limit, 1)


def default_recall_tokens(limit: int) -> int:
    """The recall reserve when the caller names none; small ceilings give an eighth."""
    return min(DEFAULT_RECALL_TOKENS, int(limit * RECALL_SHARE))


def low_water(ceiling: float, turn_tokens: float, model: Model, ttl: str) -> float:
    """L: what a trim leaves of the window.

    A turn adds d tokens; a trim every n turns rewrites what it keeps. With read and write prices r and w (over the
    input price) and v the worth of a visible token per turn, the cost is least at n* = sqrt(2 (w - r) B / ((v - r) d))
    and L* = B - (n* - 1) d.
    """
    r, w, d = model.read_ratio, model.write_ratio(ttl), max(turn_tokens, 1.0)
    if r is None or w is None or w <= r:
        return UNPRICED_LOW_WATER * ceiling
    floor = LOW_WATER_FLOOR * ceiling
    if r >= TOKEN_WORTH:
        return floor
    # Where system and reserves leave no window at all, the ceiling is below nothing.
    turns_between_trims = max(2.0, sqrt(2 * (w - r) * max(ceiling, 0.0) / ((TOKEN_WORTH - r) * d)))
    return max(floor, ceiling - (turns_between_trims - 1) * d)
