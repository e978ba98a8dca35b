"""What answers look like. These models document; the routes write the JSON, because content must keep its bytes."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")
_NOT_DELETED = "Messages that were not deleted."
_WHY = (
    "What the score is made of: BM25 of its own words (`words`), BM25 together with what stands near it (`neighbours`), "
    "by how much its vector is more like that of the query than like the others (`vector`)."
)


class ErrorDetail(BaseModel):
    code: str = Field(description="Stable; programs may switch on it.")
    message: str = Field(description="What is wrong, and what to do.")
    details: dict[str, Any] = Field(description="The field concerned, figures, and the like.")


class ErrorBody(BaseModel):
    error: ErrorDetail
    request_id: str


class Page(BaseModel, Generic[T]):
    object: Literal["list"]
    data: list[T]
    first_id: str | None = Field(description="Null on an empty page.")
    last_id: str | None = Field(description="Null on an empty page; `after` it comes the next page.")
    has_more: bool = Field(description="Whether there is more in the direction of `order`.")


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True]


class User(BaseModel):
    """An end user, as far as threads tell; one of whom nothing is held has zeros."""

    id: str
    object: Literal["user"]
    thread_count: int
    message_count: int = Field(description=_NOT_DELETED)
    prompt_count: int
    call_count: int = Field(description="Calls of a model for this user, of threads that were deleted too.")
    first_thread_at: str | None
    last_thread_at: str | None


class DeletedUser(Deleted):
    thread_count: int
    message_count: int = Field(description=_NOT_DELETED)
    prompt_count: int


class Thread(BaseModel):
    id: str
    object: Literal["thread"]
    created_at: str
    user_id: str | None
    assistant_id: str | None
    instructions: str | None = Field(description="Stands in the system part of every prompt.")
    tools: list[dict[str, Any]] | None = Field(description="In Anthropic's format.")
    documents: list[dict[str, Any]] | None
    metadata: dict[str, str]
    truncation_strategy: dict[str, Any] | None
    message_count: int = Field(description=_NOT_DELETED)
    last_seq: int = Field(description="`seq` of the newest message; 0 in an empty thread.")
    pending_embeddings: int = Field(description="Messages that recall does not know by meaning yet.")
    active_run_id: str | None = Field(description="The run that is under way.")


class Message(BaseModel):
    id: str
    object: Literal["message"]
    thread_id: str
    seq: int = Field(description="Place in the thread, from 1 on; never used again when a message is deleted.")
    role: Literal["user", "assistant"]
    content: list[dict[str, Any]] = Field(description="Content blocks as they came, without `cache_control`.")
    status: str = Field(description="`incomplete` when it was cut short.")
    token_count: int = Field(description="By o200k_base, without thinking; prompts scale it for their model.")
    run_id: str | None
    metadata: dict[str, str]
    created_at: str


class MessageList(BaseModel):
    object: Literal["list"]
    data: list[Message]


class SearchHit(BaseModel):
    message_id: str
    thread_id: str
    seq: int
    role: Literal["user", "assistant"]
    score: float = Field(description="Comparable within one answer only.")
    why: dict[str, float | None] = Field(description=_WHY)
    excerpt: str = Field(description="The passage of the message that fits best.")
    message: Message


class Recall(BaseModel):
    """How messages were looked for: by words and vectors (`hybrid`), or by `words` alone, and why."""

    mode: Literal["hybrid", "words"]
    reason: (
        Literal["embedder_unavailable", "nothing_to_search", "pending", "query_has_no_vector", "thread_busy"] | None
    ) = Field(
        description="`pending`: what was looked through has no vectors yet, or not all of it has. `thread_busy`: the "
        "thread kept changing while the query was embedded."
    )
    pending: int = Field(description="Passages that have no vector yet, and are found by their words.")


class SearchHits(BaseModel):
    object: Literal["list"]
    data: list[SearchHit]
    recall: Recall


class SectionTokens(BaseModel):
    system: int = Field(description="Instructions and documents.")
    tools: int
    summary: int
    window: int = Field(description="The newest turns, verbatim.")
    recall: int = Field(description="Older messages that were brought back, with their markup.")
    volatile: int = Field(description="The request's own context.")
    total: int = Field(description="The sum of all sections.")
    limit: int = Field(description="`max_prompt_tokens`.")


class PredictionOut(BaseModel):
    cache_read_tokens: int = Field(description="Expected to be read from the provider's prompt cache.")
    cache_write_tokens: int = Field(description="Expected to be written to it.")
    uncached_tokens: int = Field(description="Neither read nor written.")
    cache_read_from: Literal["assistant", "thread"] | None = Field(
        description="Whose: this thread's own prefix, or only what it shares with the assistant's other threads."
    )
    miss: str | None = Field(description="Why less will be read than was sent before.")
    miss_reason: str | None = Field(description="The same in one word.")
    cost_usd: float | None = Field(description="The input's price, without output. Null without a known price.")
    cost_usd_uncached: float | None = Field(description="The same if nothing were cached.")


class Breakpoint(BaseModel):
    position: Literal["assistant", "system", "message"] = Field(
        description="Behind what the assistant's threads share, behind the thread's own system text, or behind a message."
    )
    seq: int | None = Field(description="The message; null for the other two.")
    ttl: str
    tokens_before: int = Field(description="Estimated tokens that are read from the prompt cache if it is hit here.")


class WindowOut(BaseModel):
    first_seq: int
    last_seq: int
    trimmed: bool = Field(description="Whether this prompt begins with a later message than the one before it.")
    reason: Literal["over_ceiling", "cold", "last_messages", "fresh"] | None = Field(
        description="Why the window begins where it does, if this prompt decided it: it had grown to its ceiling; the "
        "prompt cache had expired, so that trimming cost nothing; the strategy counts messages; or it is the first for "
        "this model, strategy and budget, and not all fits. Null when it stays as it was."
    )


class RecalledOut(BaseModel):
    message_id: str
    seq: int
    score: float = Field(description="Comparable within one prompt only.")
    why: dict[str, float] = Field(description=_WHY)
    excerpt: bool = Field(description="Whether only a passage of it is quoted.")
    tokens: int = Field(description="Estimated, with its markup.")


class Omitted(BaseModel):
    first_seq: int
    last_seq: int
    reason: Literal["before_window"] = Field(description="They are older than the window; some may be in `recalled`.")


class BreakOut(BaseModel):
    """What of the prompt before is not at the front of this one any more, so that it is not read from the prompt cache."""

    reason: Literal[
        "trimmed",
        "turn_closed",
        "edited",
        "deleted",
        "tools_changed",
        "instructions_changed",
        "documents_changed",
        "new_lane",
        "refreshed",
        "shortened",
        "recall_dropped",
        "changed",
    ] = Field(
        description="`turn_closed`: what was recalled for a tool loop is gone with its turn. `new_lane`: the first prompt "
        "of the thread for this provider, model, strategy and budget; `differs` says which of these. `refreshed`: as you "
        "asked. `recall_dropped`: what was recalled for the open turn no longer fits. `changed`: anything else, for "
        "example another version of the service."
    )
    at_seq: int = Field(description="The first message that is not as it was.")
    differs: list[str] | None = None


class RepairOut(BaseModel):
    """What the prompt says though the thread does not."""

    seq: int
    reason: Literal["missing_tool_result", "opened_by_assistant"] = Field(
        description="A tool call without a result is told that none was recorded; a line stands in front of an assistant's "
        "message that opens the thread."
    )
    tool_use_id: str | None


class Shortened(BaseModel):
    """A tool result of which the prompt shows head and tail, and says so in between."""

    seq: int
    tool_use_id: str
    characters: int = Field(description="That it has.")
    kept_characters: int


class KeptTurn(BaseModel):
    """A closed turn with a long tool loop, shown with what was recalled for it and its thinking until the next trim."""

    first_seq: int
    last_seq: int = Field(description="The last message that was sent while the turn was open.")
    tokens: int = Field(description="Of the text that was recalled for it, or came with it as `context`.")
    recalled_seqs: list[int] = Field(description="Messages quoted there; they are not recalled again.")


class CacheOut(BaseModel):
    ttl: str | None = Field(description="How long this prompt's breakpoints live. Null without breakpoints.")
    why: str = Field(description="Who chose it: the caller, or which gaps between requests made it the cheaper one.")


class Reported(BaseModel):
    """What the provider counted, in the words of `prediction`."""

    cache_read_tokens: int
    cache_write_tokens: int
    uncached_tokens: int
    output_tokens: int
    miss: str | None = Field(
        description="Why less was read than predicted, as the provider says or as far as the figures tell."
    )
    miss_reason: str | None = Field(description="The same in one word: the provider's own, or one of ours.")
    cost_usd: float | None = Field(description="The input's price, without output. Null without a known price.")
    output_usd: float | None = Field(description="The output's price. Null without a known price.")


class Counted(BaseModel):
    tokens: int | None = Field(
        description="Null when the provider gave no count; `tokens` of the prompt is estimated anyway."
    )
    reason: str | None = Field(description="Why there is no count.")


class PromptSummary(BaseModel):
    id: str | None = Field(description="Null under `dry_run`.")
    object: Literal["prompt"]
    thread_id: str
    status: Literal["built", "sent", "abandoned"] = Field(
        description="`sent` once its usage is reported; `abandoned` when a later one was."
    )
    created_at: str
    provider: str
    model: str
    tokens: SectionTokens
    counted: Counted | None = Field(description="The provider's own count of the request. Null when it was not asked.")
    prediction: PredictionOut
    cache: CacheOut | None = Field(description="Null for prompts of versions that did not choose.")
    breakpoints: list[Breakpoint] = Field(description="Cache breakpoints, and the tokens before each.")
    window: WindowOut = Field(description="What is shown verbatim, and whether this prompt moved it.")
    recall: Recall | None = Field(description="Null when nothing was looked for.")
    recalled: list[RecalledOut] = Field(description="Older messages that were brought back, and why.")
    kept: list[KeptTurn] = Field(description="Closed turns that are shown as they were sent: cheaper than to rewrite.")
    omitted: list[Omitted] = Field(description="Messages that are not in the prompt.")
    breaks: list[BreakOut] = Field(description="Why this prompt does not extend the one before it.")
    hints: list[str] = Field(description="What is amiss on your side, in words.")
    repairs: list[RepairOut] = Field(description="Added so that a provider accepts the prompt.")
    shortened: list[Shortened] = Field(description="Tool results that are not shown whole, as the strategy asks.")
    prefix_digest: str = Field(description="Of all up to the last place where a breakpoint may stand.")
    request_digest: str = Field(description="SHA-256 of `request`.")
    usage: dict[str, Any] | None = Field(description="The provider's usage as it was reported.")
    reported: Reported | None


class Prompt(PromptSummary):
    request: dict[str, Any] | None = Field(description="The keyword arguments for the provider's SDK.")
    request_missing: str | None = Field(description="Why `request` is null.")


class UsageAnswer(BaseModel):
    object: Literal["usage_report"]
    prompt_id: str
    thread_id: str
    usage: dict[str, Any]
    reported: Reported
    prediction: PredictionOut
    message: Message | None


class Assistant(BaseModel):
    id: str
    object: Literal["assistant"]
    created_at: str
    name: str | None
    model: str | None = Field(description="Of prompts that name none.")
    provider: str | None = Field(description="Whose form a request takes, if the prompt names no model.")
    instructions: str | None = Field(description="Stands before the thread's own, in the system part of every prompt.")
    tools: list[dict[str, Any]] | None
    documents: list[dict[str, Any]] | None
    defaults: dict[str, Any] | None = Field(description="What prompts take where they and their thread say nothing.")
    metadata: dict[str, str]


class ImportReport(BaseModel):
    object: Literal["import"]
    assistants: int = Field(description="Written.")
    threads: int = Field(description="Written.")
    runs: int = Field(description="Written.")
    messages: int = Field(description="Written.")
    skipped: int = Field(description="Messages that were there already.")
    renamed: dict[str, str] = Field(description="Ids that were taken, with the new ones.")


class Health(BaseModel):
    status: Literal["ok"]
    version: str
