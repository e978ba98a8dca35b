from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from memory_client._encode import (
    Content,
    JSONObject,
    MessageInput,
    Reply,
    SupportsModelDump,
    SupportsToDict,
    reply,
    user_message,
)
from memory_client._endpoints._paging import Order, page_query
from memory_client._request import Request, api_path, get, post
from memory_client.objects import Listing, Prewarm, Prompt, UsageReport, listing_of


def build(
    thread_id: str,
    *,
    model: str | None = None,
    provider: str | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    truncation_strategy: Mapping[str, Any] | None = None,
    recall: Mapping[str, Any] | Literal[False] | None = None,
    context: Sequence[JSONObject] | None = None,
    message: MessageInput | Content | None = None,
    tools: Sequence[JSONObject] | None = None,
    cache: Mapping[str, Any] | Literal[False] | None = None,
    dry_run: bool | None = None,
    refresh: bool | None = None,
    idempotency_key: str | None = None,
) -> Request[Prompt]:
    """Build the next prompt of a thread that ends with a user message, or brings one in `message`.

    `message` is appended first, in the same transaction (a string or blocks: a user message). `context` is put next
    to it, for this turn only. `max_prompt_tokens` bounds this one request. `recall` is
    `{"max_tokens": …, "query": …}`, `cache` is `{"ttl": "auto" | "5m" | "1h"}`; False turns either off.
    `dry_run` plans and stores nothing. `refresh` replaces the recall and context of a turn already under way.

    Returns the Prompt; `anthropic.messages.create(**prompt.request)` sends it.
    """
    body = {
        "model": model,
        "provider": provider,
        "max_prompt_tokens": max_prompt_tokens,
        "max_output_tokens": max_output_tokens,
        "truncation_strategy": truncation_strategy,
        "recall": recall,
        "context": context,
        "message": user_message(message),
        "tools": tools,
        "cache": cache,
        "dry_run": dry_run,
        "refresh": refresh,
    }
    return post(api_path("threads/{thread_id}/prompts", thread_id=thread_id), Prompt.from_json, body, idempotency_key)


def prewarm(
    thread_id: str,
    *,
    model: str | None = None,
    provider: str | None = None,
    max_prompt_tokens: int | None = None,
    truncation_strategy: Mapping[str, Any] | None = None,
    recall: Mapping[str, Any] | Literal[False] | None = None,
    tools: Sequence[JSONObject] | None = None,
    cache: Mapping[str, Any] | Literal[False] | None = None,
    idempotency_key: str | None = None,
) -> Request[Prewarm]:
    """Write the thread's prefix into the provider's prompt cache, without a reply: for when a question is likely soon.

    It costs what writing costs; the next prompt that is built with the same arguments reads it, within the lifetime of
    its entries.
    """
    body = {
        "model": model,
        "provider": provider,
        "max_prompt_tokens": max_prompt_tokens,
        "truncation_strategy": truncation_strategy,
        "recall": recall,
        "tools": tools,
        "cache": cache,
    }
    return post(api_path("threads/{thread_id}/prewarm", thread_id=thread_id), Prewarm.from_json, body, idempotency_key)


def list_(
    thread_id: str,
    *,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Listing[Prompt]]:
    """List the prompts built, newest first. Returns a page; iterating it walks all."""
    query = page_query(limit, after, before, order)
    return get(api_path("threads/{thread_id}/prompts", thread_id=thread_id), listing_of(Prompt), query)


def get_(thread_id: str, prompt_id: str) -> Request[Prompt]:
    """A prompt with its full explanation, the request included."""
    return get(
        api_path("threads/{thread_id}/prompts/{prompt_id}", thread_id=thread_id, prompt_id=prompt_id), Prompt.from_json
    )


def report_usage(
    thread_id: str,
    prompt_id: str,
    *,
    usage: Mapping[str, Any] | SupportsModelDump | SupportsToDict,
    message: Reply | None = None,
    diagnostics: Mapping[str, Any] | SupportsModelDump | SupportsToDict | None = None,
    idempotency_key: str | None = None,
) -> Request[UsageReport]:
    """Report the usage the provider states (`usage=response.usage`); append the reply (`message=response`).

    `message` is Anthropic's message or OpenAI's chat completion (or the message in it), as an object or as a dict; or
    its content: a string, or a list of blocks. OpenAI's tool calls are kept as tool_use blocks. The reply is in the
    thread then: do not append it once more. It may also follow later, reported with the same usage. `diagnostics` is what
    the provider says of its prompt cache, if it was asked (`diagnostics=response.diagnostics`).
    """
    body = {"usage": usage, "message": reply(message), "diagnostics": diagnostics}
    path = api_path("threads/{thread_id}/prompts/{prompt_id}/usage", thread_id=thread_id, prompt_id=prompt_id)
    return post(path, UsageReport.from_json, body, idempotency_key)
