"""What tokens cost, and the limits that go with a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_VERSION = re.compile(r"(?:[-@](?:latest|\d{8}|\d{4}-\d{2}-\d{2}))?")

# How the provider's prompt cache finds a prefix: at marked breakpoints, or the longest prefix it has seen.
CacheRule = Literal["anthropic_breakpoints", "openai_breakpoints", "longest_prefix"]


@dataclass(frozen=True, slots=True)
class Model:
    """One line of the price table. Prices are USD per million tokens; None where nobody published one.

    A prompt of more than `price_cliff_tokens` costs so many times as much, its answer likewise. `takes_prompt_cache_key`:
    only of some servers is it known that they do not refuse OpenAI's field. `binds_thinking`: thinking is refused behind
    anything else than what it was thought behind.
    """

    name: str
    provider: str
    cache_rule: CacheRule
    input_usd: float | None = None
    output_usd: float | None = None
    cache_read_usd: float | None = None
    cache_write_ratio: float = 1.0
    cache_write_1h_ratio: float | None = None
    min_cacheable_tokens: int = 0
    context_tokens: int | None = None
    price_cliff_tokens: int | None = None
    price_cliff_ratio: float = 1.0
    price_cliff_output_ratio: float = 1.0
    takes_prompt_cache_key: bool = False
    binds_thinking: bool = False
    ttl_seconds: int | None = None
    tokens_per_o200k_token: float = 1.0

    @property
    def read_ratio(self) -> float | None:
        """r: price of a token read from the prompt cache over an input token's."""
        if self.input_usd is None or self.cache_read_usd is None or self.input_usd == 0:
            return None
        return self.cache_read_usd / self.input_usd

    def write_ratio(self, ttl: str) -> float | None:
        """w: price of a token written to the prompt cache over an input token's."""
        if self.input_usd is None:
            return None
        return self.cache_write_1h_ratio if ttl == "1h" and self.cache_write_1h_ratio else self.cache_write_ratio

    def cost_usd(
        self, read: int, written: int, uncached: int, ttl: str = "5m", *, written_1h: int | None = None
    ) -> float | None:
        """Price of a request's input; None when the model's prices are not known.

        `written_1h`: how many of the tokens written live an hour; None: all or none of them, as `ttl` says.
        """
        if self.input_usd == 0:
            return 0.0
        write_ratio, long_ratio, read_ratio = self.write_ratio("5m"), self.write_ratio("1h"), self.read_ratio
        if self.input_usd is None or write_ratio is None or long_ratio is None or read_ratio is None:
            return None
        if written_1h is None:
            written_1h = written if ttl == "1h" else 0
        weighed = uncached + (written - written_1h) * write_ratio + written_1h * long_ratio + read * read_ratio
        times = self.price_cliff_ratio if self._is_beyond_cliff(read + written + uncached) else 1.0
        return times * self.input_usd * weighed / 1e6

    def output_cost_usd(self, tokens: int, input_tokens: int = 0) -> float | None:
        """Price of the output of a request with so many input tokens; None when it is not known."""
        times = self.price_cliff_output_ratio if self._is_beyond_cliff(input_tokens) else 1.0
        return None if self.output_usd is None else times * self.output_usd * tokens / 1e6

    def _is_beyond_cliff(self, input_tokens: int) -> bool:
        return self.price_cliff_tokens is not None and input_tokens > self.price_cliff_tokens


def find_model(table: Sequence[Model], provider: str, name: str) -> Model:
    """The table's entry for a model or a dated version of it; for an unknown model one without prices."""
    for model in _named(table, name):
        if model.provider == provider:
            return model
    rule: CacheRule = "anthropic_breakpoints" if provider == "anthropic" else "longest_prefix"
    return Model(name=name, provider=provider, cache_rule=rule)


def provider_of(table: Sequence[Model], name: str) -> str | None:
    """The provider that sells a model of this name, as far as the table knows."""
    return next(iter(providers_of(table, name)), None)


def providers_of(table: Sequence[Model], name: str) -> list[str]:
    """All that do, in the order of the table."""
    return list(dict.fromkeys(model.provider for model in _named(table, name)))


def _named(table: Sequence[Model], name: str) -> list[Model]:
    """`gpt-4o-2024-08-06` is a version of `gpt-4o`; `gpt-4o-mini` is another model, with prices of its own."""
    return [model for model in table if name.startswith(model.name) and _VERSION.fullmatch(name, len(model.name))]
