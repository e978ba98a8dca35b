"""Metrics of this process, in the format that Prometheus reads.

No label names a project, a user, a thread or a model: labels have few values, whatever callers send.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "exposition"]

_REGISTRY = CollectorRegistry(auto_describe=True)
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ProcessCollector(registry=_REGISTRY)

REQUESTS = Counter(
    "memory_http_requests",
    "Requests answered, by route template, method and status.",
    ("route", "method", "status"),
    registry=_REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "memory_http_request_duration_seconds",
    "Time from a request's head to the end of its answer.",
    ("route", "method"),
    buckets=_SECONDS,
    registry=_REGISTRY,
)
REQUESTS_IN_FLIGHT = Gauge("memory_http_requests_in_flight", "Requests that are being answered.", registry=_REGISTRY)
MESSAGES = Counter(
    "memory_messages_appended", "Messages stored: appended, imported or copied by a fork.", registry=_REGISTRY
)
MESSAGE_TOKENS = Counter("memory_message_tokens_appended", "o200k_base tokens of those messages.", registry=_REGISTRY)
PROMPTS = Counter("memory_prompts_built", "Prompts built and stored.", ("provider",), registry=_REGISTRY)
PROMPT_TOKENS = Counter(
    "memory_prompt_tokens",
    "Estimated tokens of the prompts built, by section.",
    ("section",),
    registry=_REGISTRY,
)
CACHE_TOKENS = Counter(
    "memory_prompt_cache_tokens",
    "Input tokens read from the provider's prompt cache, written to it, or neither. "
    "Predicted: of all prompts built; reported: by the provider, of those whose usage was reported.",
    ("source", "kind"),
    registry=_REGISTRY,
)
CACHE_READ_RATIO = Gauge(
    "memory_prompt_cache_read_ratio",
    "Share of input tokens read from the provider's prompt cache since the start; 0 before there are any.",
    ("source",),
    registry=_REGISTRY,
)
CACHE_MISSES = Counter(
    "memory_prompt_cache_misses",
    "Calls that read far less from the provider's prompt cache than predicted: by at least 2,000 tokens, and by more than "
    "5 % of their input. The reason is the provider's, or what the figures tell.",
    ("provider", "reason"),
    registry=_REGISTRY,
)
RUNS = Counter("memory_runs", "Stretches of runs, by how they ended.", ("provider", "status"), registry=_REGISTRY)
PROVIDER_ERRORS = Counter(
    "memory_provider_errors", "Calls of models that failed, each attempt.", ("provider", "code"), registry=_REGISTRY
)
DATABASE_UP = Gauge("memory_database_up", "1 if the database answered just now.", registry=_REGISTRY)
CONNECTIONS = Gauge("memory_database_connections", "Size of the connection pool.", ("pool",), registry=_REGISTRY)
CONNECTIONS_IN_USE = Gauge(
    "memory_database_connections_in_use", "Connections that a transaction has.", ("pool",), registry=_REGISTRY
)
CONNECTIONS_WAITING = Gauge(
    "memory_database_connections_waiting", "Transactions that wait for a connection.", ("pool",), registry=_REGISTRY
)
PENDING_EMBEDDINGS = Gauge(
    "memory_pending_embeddings", "Messages of all projects whose vector is still to be made.", registry=_REGISTRY
)


def exposition() -> bytes:
    return generate_latest(_REGISTRY)


def count_request(route: str | None, method: str, status: int, seconds: float) -> None:
    template = route or "none"
    REQUESTS.labels(template, method, str(status)).inc()
    REQUEST_SECONDS.labels(template, method).observe(seconds)


def count_appended(messages: int, tokens: int) -> None:
    MESSAGES.inc(messages)
    MESSAGE_TOKENS.inc(tokens)


def count_prompt(provider: str, section_tokens: Mapping[str, int]) -> None:
    PROMPTS.labels(provider).inc()
    for section, tokens in section_tokens.items():
        PROMPT_TOKENS.labels(section).inc(tokens)


class _CacheTokens:
    """The tokens of one source, and the share of them that was read."""

    _KINDS = ("read", "written", "uncached")

    def __init__(self, source: str) -> None:
        self._counters = [CACHE_TOKENS.labels(source, kind) for kind in self._KINDS]
        self._read = self._total = 0
        CACHE_READ_RATIO.labels(source).set_function(lambda: self._read / (self._total or 1))

    def count(self, read: int, written: int, uncached: int) -> None:
        for counter, tokens in zip(self._counters, (read, written, uncached), strict=True):
            counter.inc(tokens)
        self._read += read
        self._total += read + written + uncached


PREDICTED = _CacheTokens("predicted")
REPORTED = _CacheTokens("reported")
