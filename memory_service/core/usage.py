"""The `usage` object of a provider's response, whichever provider's it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from memory_service.core.pricing import Model
from memory_service.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """Tokens of one request, split as they were billed.

    `cache_write_1h_tokens`: how many of those written live an hour or longer; None where the provider does not say.
    """

    cache_read_tokens: int
    cache_write_tokens: int
    uncached_tokens: int
    output_tokens: int
    cache_write_1h_tokens: int | None = None

    @property
    def input_tokens(self) -> int:
        return self.cache_read_tokens + self.cache_write_tokens + self.uncached_tokens

    @classmethod
    def parse(cls, usage: Mapping[str, Any]) -> Self:
        """Anthropic's and OpenAI's usage (chat completions and responses).

        Anthropic's `input_tokens` leaves cached tokens out, OpenAI's counts include them. Raises InvalidInput.
        """
        if "prompt_tokens" in usage or "input_tokens_details" in usage:
            total = _count(usage, "prompt_tokens" if "prompt_tokens" in usage else "input_tokens")
            details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
            read, written = _count(details, "cached_tokens"), _count(details, "cache_write_tokens")
            output = _count(usage, "completion_tokens" if "completion_tokens" in usage else "output_tokens")
            for_long = _of_written(written, details, "cache_write_tokens_details", "ttl_30m_tokens", "ttl_12h_tokens")
            return cls(read, written, max(0, total - read - written), output, for_long)
        if "input_tokens" in usage:
            written = _count(usage, "cache_creation_input_tokens")
            return cls(
                _count(usage, "cache_read_input_tokens"),
                written,
                _count(usage, "input_tokens"),
                _count(usage, "output_tokens"),
                _of_written(written, usage, "cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
            )
        raise InvalidInput(
            "`usage` has neither `input_tokens` (Anthropic) nor `prompt_tokens` (OpenAI); pass the provider's usage "
            "object as it is.",
            field="usage",
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost: its input, the same input if nothing had been cached, its output. None: no price is known."""

    usd: float | None
    usd_uncached: float | None
    output_usd: float | None


def written_1h(reported: ReportedUsage, ttl: str) -> int:
    """Tokens written for an hour or longer; where the provider does not say, breakpoints of `ttl` wrote them all."""
    if reported.cache_write_1h_tokens is not None:
        return reported.cache_write_1h_tokens
    return reported.cache_write_tokens if ttl == "1h" else 0


def cost_of(model: Model, reported: ReportedUsage, ttl: str) -> Cost:
    """`ttl` as in `written_1h`."""
    read, written, uncached = reported.cache_read_tokens, reported.cache_write_tokens, reported.uncached_tokens
    return Cost(
        model.cost_usd(read, written, uncached, written_1h=written_1h(reported, ttl)),
        model.cost_usd(0, 0, reported.input_tokens),
        model.output_cost_usd(reported.output_tokens, reported.input_tokens),
    )


def check_form(usage: Mapping[str, Any], provider: str) -> None:
    """Refuse the usage of another provider's form: read in the wrong one, cached tokens would be counted twice or never.

    The echo provider calls nobody, so any form will do for it. Raises InvalidInput.
    """
    is_openai = "prompt_tokens" in usage or "input_tokens_details" in usage
    is_anthropic = "input_tokens" in usage and "input_tokens_details" not in usage
    if provider == "anthropic" and is_openai and not is_anthropic:
        raise InvalidInput(
            "`usage` is OpenAI's (`prompt_tokens`), but this prompt was built for Anthropic. Report the usage of the call "
            "that was made with this prompt's `request`; for calls to OpenAI build prompts with `provider` openai.",
            field="usage",
        )
    if provider == "openai" and is_anthropic and not is_openai:
        raise InvalidInput(
            "`usage` is Anthropic's (`input_tokens` without details), but this prompt was built for OpenAI. Report the "
            "usage of the call that was made with this prompt's `request`; for calls to Anthropic build prompts with "
            "`provider` anthropic.",
            field="usage",
        )


def _of_written(written: int, usage: Any, key: str, short: str, long: str) -> int | None:
    """How many of the tokens written live long, by the split that providers give in an object of its own."""
    split = usage.get(key) if isinstance(usage, Mapping) else None
    if split is None or not _count(split, short) + _count(split, long):
        return None
    return min(written, _count(split, long))


def _count(usage: Any, key: str) -> int:
    value = usage.get(key) if isinstance(usage, Mapping) else None
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InvalidInput(f"`usage.{key}` must be a number of tokens.", field=f"usage.{key}")
    return value
