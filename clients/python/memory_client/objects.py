"""What the server answers, as frozen dataclasses. Content blocks, tools and requests stay plain JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from ._decode import Model

M = TypeVar("M", bound=Model)
T = TypeVar("T", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Thread(Model):
    id: str
    created_at: datetime
    user_id: str | None = None
    assistant_id: str | None = None
    instructions: str | None = None
    tools: list[Any] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    truncation_strategy: dict[str, Any] | None = None
    message_count: int = 0
    last_seq: int | None = None
    pending_embeddings: int = 0
    active_run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Message(Model):
    id: str
    thread_id: str
    seq: int
    role: str
    content: list[dict[str, Any]]
    created_at: datetime
    status: str | None = None
    token_count: int | None = None
    run_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Assistant(Model):
    id: str
    created_at: datetime
    name: str | None = None
    provider: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: list[Any] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class User(Model):
    """How much is held of an end user. `call_count`: calls of a model that the ledger has."""

    id: str
    thread_count: int = 0
    message_count: int = 0
    prompt_count: int = 0
    call_count: int = 0
    first_thread_at: datetime | None = None
    last_thread_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ErasedUser(Model):
    """How much was deleted of an end user; the ledger keeps what was billed, and no longer for whom."""

    id: str
    thread_count: int = 0
    message_count: int = 0
    prompt_count: int = 0
    deleted: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate(Model):
    """What usage reports taught about a model's tokenizer; it is relied on once `calibrated`.

    `error` is the share by which the newest reports are off, `margin` the share added to stay under `max_prompt_tokens`.
    """

    id: str
    provider: str
    model: str
    observations: int = 0
    calibrated: bool = False
    error: float | None = None
    margin: float | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class PromptTokens(Model):
    """Estimated tokens per section; they add up to `total`, which is at most `limit`."""

    system: int = 0
    tools: int = 0
    summary: int = 0
    window: int = 0
    recall: int = 0
    volatile: int = 0
    total: int = 0
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class CachePrediction(Model):
    """What the provider's prompt cache should do with this request. Costs are None without a known price."""

    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    uncached_tokens: int = 0
    cache_read_from: str | None = None
    """`thread`: its own prefix. `assistant`: only what it shares with the assistant's other threads."""
    miss: str | None = None
    """Why less will be read than was sent before."""
    miss_reason: str | None = None
    """The same in one word."""
    cost_usd: float | None = None
    cost_usd_uncached: float | None = None


@dataclass(frozen=True, kw_only=True)
class CacheBreakpoint(Model):
    """A mark behind the assistant's part, the system part, or a message (`seq`)."""

    position: str | None = None
    seq: int | None = None
    ttl: str | None = None
    tokens_before: int | None = None


@dataclass(frozen=True, kw_only=True)
class Window(Model):
    """The newest turns, kept verbatim; `trimmed` says that this prompt moved its start, `reason` why."""

    first_seq: int | None = None
    last_seq: int | None = None
    trimmed: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recalled(Model):
    """An older message brought back; `excerpt` says that only a passage of it was."""

    message_id: str
    seq: int
    score: float | None = None
    why: Any = None
    excerpt: bool = False
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Omitted(Model):
    first_seq: int
    last_seq: int
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrefixBreak(Model):
    """A declared change of what the provider could otherwise have reused from `at_seq` on.

    `differs`: for `new_lane`, what is not as in the thread's prompts before (`model`, `max_prompt_tokens`, …).
    """

    reason: str
    at_seq: int | None = None
    differs: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Repair(Model):
    """Something the prompt says that the thread does not, so that a provider accepts it."""

    seq: int
    reason: str
    tool_use_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportedUsage(Model):
    """What the provider reported, in the words of `CachePrediction`: `cost_usd` is the input's."""

    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    uncached_tokens: int = 0
    output_tokens: int = 0
    miss: str | None = None
    """Why less was read than predicted, as the provider says or as far as the figures tell."""
    miss_reason: str | None = None
    """The same in one word."""
    cost_usd: float | None = None
    output_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recall(Model):
    """How older messages were looked for: by words and vectors (`hybrid`), or by `words` alone; `reason` says why.

    `nothing_to_search` is one of them: no older message has text.
    """

    mode: str | None = None
    reason: str | None = None
    pending: int = 0
    """Passages that have no vector yet, and are found by their words."""


@dataclass(frozen=True, kw_only=True)
class KeptTurn(Model):
    """A closed turn that is shown with what was recalled for it, because that is cheaper than to rewrite what follows."""

    first_seq: int = 0
    last_seq: int = 0
    tokens: int = 0
    recalled_seqs: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShortenedResult(Model):
    """A tool result of which the prompt shows head and tail only, because the last turn alone was too large."""

    seq: int = 0
    tool_use_id: str = ""
    characters: int = 0
    kept_characters: int = 0


@dataclass(frozen=True, kw_only=True)
class CacheLifetime(Model):
    """How long the prompt's breakpoints live (None without any), and who chose that: you, or the gaps between requests."""

    ttl: str | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompt(Model):
    """`request` is what the provider's SDK takes: `anthropic.messages.create(**prompt.request)`.

    It is empty in a list, and when a message it held was deleted since (`request_missing` says so). `usage` and
    `reported` are there once the usage was reported.
    """

    id: str = ""
    """Empty for a dry run the server kept nothing of."""
    thread_id: str = ""
    created_at: datetime | None = None
    status: str | None = None
    provider: str | None = None
    model: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    tokens: PromptTokens = field(default_factory=lambda: PromptTokens(raw={}))
    counted: dict[str, Any] | None = None
    """`tokens` by the provider's own count, or the `reason` why there is none; None when it was not asked."""
    prediction: CachePrediction = field(default_factory=lambda: CachePrediction(raw={}))
    cache: CacheLifetime | None = None
    """None for a prompt of a server that did not choose yet."""
    breakpoints: list[CacheBreakpoint] = field(default_factory=list)
    window: Window = field(default_factory=lambda: Window(raw={}))
    recall: Recall | None = None
    """None when nothing was looked for."""
    recalled: list[Recalled] = field(default_factory=list)
    kept: list[KeptTurn] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)
    breaks: list[PrefixBreak] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    shortened: list[ShortenedResult] = field(default_factory=list)
    prefix_digest: str | None = None
    request_digest: str | None = None
    request_missing: str | None = None
    usage: dict[str, Any] | None = None
    reported: ReportedUsage | None = None


@dataclass(frozen=True, kw_only=True)
class UsageReport(Model):
    """What the server noted of a usage report; `message` is the appended reply, if one was given."""

    prompt_id: str | None = None
    thread_id: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    reported: ReportedUsage | None = None
    prediction: CachePrediction = field(default_factory=lambda: CachePrediction(raw={}))
    message: Message | None = None


@dataclass(frozen=True, kw_only=True)
class Prewarm(Model):
    """What was written into the provider's prompt cache. `usage` and `reported` are None when no model was asked."""

    thread_id: str
    provider: str
    model: str
    prediction: CachePrediction
    cache: CacheLifetime | None = None
    breakpoints: list[CacheBreakpoint] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    reported: ReportedUsage | None = None


@dataclass(frozen=True, kw_only=True)
class SearchHit(Model):
    message_id: str
    seq: int
    role: str
    score: float
    thread_id: str = ""
    why: Any = None
    """`{"words": …, "neighbours": …, "vector": …}`: what led to it; without a word of its own it came by its neighbours."""
    excerpt: str | None = None
    message: Message | None = None


class SearchHits(list[SearchHit]):
    """Best first. `recall` says how they were looked for: by words and vectors, or by words alone, and why."""

    recall: Recall | None = None


@dataclass(frozen=True, kw_only=True)
class ImportReport(Model):
    """An id that was taken got a fresh one; `renamed` says which. `skipped` messages were there already."""

    assistants: int = 0
    threads: int = 0
    runs: int = 0
    messages: int = 0
    skipped: int = 0
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Health(Model):
    status: str
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[T]):
    """One page as the server sent it."""

    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None
    raw: dict[str, Any] = field(repr=False, compare=False)


def listing_of(model: type[M]) -> Callable[[Any], Listing[M]]:
    def parse(value: Any) -> Listing[M]:
        data = parse_list(value)
        return Listing(
            data=[model.from_json(item) for item in data],
            has_more=bool(value.get("has_more")),
            first_id=value.get("first_id") or (data[0].get("id") if data else None),
            last_id=value.get("last_id") or (data[-1].get("id") if data else None),
            raw=value,
        )

    return parse


def list_of(model: type[M]) -> Callable[[Any], list[M]]:
    """For answers that are lists without pages."""
    return lambda value: [model.from_json(item) for item in parse_list(value)]


def search_hits(value: Any) -> SearchHits:
    hits = SearchHits(list_of(SearchHit)(value))
    if value.get("recall") is not None:
        hits.recall = Recall.from_json(value["recall"])
    return hits


def parse_list(value: Any) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise ValueError("expected a list object with data")
    return list(value["data"])
