from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory_client._encode import Content, MessageInput, is_message, message
from memory_client._endpoints._paging import Order, page_query
from memory_client._request import NOT_GIVEN, NotGiven, Request, api_path, delete, get, patch, post
from memory_client.objects import Listing, Message, list_of, listing_of


def append(
    thread_id: str,
    role: str | None = None,
    content: Content | MessageInput | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    messages: Sequence[MessageInput] | None = None,
    idempotency_key: str | None = None,
) -> Request[list[Message]]:
    """Append one message (`role`, `content`) or several at once, all or none (`messages=[…]`).

    `content` is a string or a list of Anthropic content blocks: dicts, or an SDK's objects as they came
    (`append(thread_id, "assistant", response.content)`). A whole message, with role and content, is taken too.
    Returns the list of Messages as stored.
    """
    single = {"role": role, "content": content, "metadata": metadata}
    if messages is None and content is not None and (role is not None or _has_role(content)):
        body: dict[str, object] = {
            **message(content, role=role),
            **({} if metadata is None else {"metadata": metadata}),
        }
        if role is not None and body.setdefault("role", role) != role:
            raise TypeError(f"role is {role!r}, but that of the message is {body['role']!r}")
    elif messages is not None and all(value is None for value in single.values()):
        body = {"messages": [message(item) for item in messages]}
    else:
        raise TypeError("append takes either role and content, or messages=[…]")
    return post(api_path("threads/{thread_id}/messages", thread_id=thread_id), list_of(Message), body, idempotency_key)


def _has_role(content: object) -> bool:
    return "role" in content if isinstance(content, Mapping) else is_message(content)


def list_(
    thread_id: str,
    *,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Listing[Message]]:
    """List messages, oldest first unless `order="desc"`. Returns a page; iterating it walks all."""
    query = page_query(limit, after, before, order)
    return get(api_path("threads/{thread_id}/messages", thread_id=thread_id), listing_of(Message), query)


def get_(thread_id: str, message_id: str) -> Request[Message]:
    return get(
        api_path("threads/{thread_id}/messages/{message_id}", thread_id=thread_id, message_id=message_id),
        Message.from_json,
    )


def update(
    thread_id: str,
    message_id: str,
    *,
    content: Content | NotGiven = NOT_GIVEN,
    metadata: Mapping[str, str | None] | NotGiven = NOT_GIVEN,
) -> Request[Message]:
    """Replace the content by a new version, or merge metadata (None removes a key).

    New content changes what the provider's prompt cache knows from that message on.
    """
    changes = {"content": content, "metadata": metadata}
    return patch(
        api_path("threads/{thread_id}/messages/{message_id}", thread_id=thread_id, message_id=message_id),
        Message.from_json,
        changes,
    )


def delete_(thread_id: str, message_id: str) -> Request[None]:
    return delete(api_path("threads/{thread_id}/messages/{message_id}", thread_id=thread_id, message_id=message_id))
