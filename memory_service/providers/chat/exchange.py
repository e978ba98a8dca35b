"""One request and its answer, through a vendor's SDK.

The SDK brings address, keys, headers and connections. The body is sent as the bytes that the prompt was built of, and
what comes back is read as it stands: an SDK's objects would lose how numbers are spelled, and what they do not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

import httpx2

from memory_service.core.canonical import dumps
from memory_service.core.content import check_content
from memory_service.errors import InvalidInput
from memory_service.providers.base import Delta, Reply
from memory_service.providers.chat import failures
from memory_service.providers.chat.failures import Called
from memory_service.providers.chat.wire import Malformed, SseReader, read_object

_CONNECT_SECONDS = 10.0
# After the last event a server closes the exchange. Waiting for that keeps the connection for the next call.
_LAST_BYTES_SECONDS = 0.25
_DONE = b"[DONE]"
# A key is for the server it was given for, not for where that one points.
_OPTIONS = {"headers": {"content-type": "application/json"}, "follow_redirects": False}
_SHORTEST_SECRET = 4  # a placeholder like "x" is none, and would be struck out of every message


class SdkClient(Protocol):
    """What the SDKs of both vendors have."""

    @property
    def base_url(self) -> httpx2.URL: ...

    @property
    def post(self) -> Callable[..., Any]: ...

    async def close(self) -> None: ...


def patience(idle_seconds: float) -> httpx2.Timeout:
    """How long a provider may send nothing; a reply as a whole takes as long as it takes."""
    return httpx2.Timeout(idle_seconds, connect=min(_CONNECT_SECONDS, idle_seconds))


class Message(Protocol):
    """A reply that comes in events. `is_whole`: what is needed of it has come, whatever happens to the rest."""

    @property
    def is_whole(self) -> bool: ...

    def add(self, event: Mapping[str, Any]) -> Iterable[Delta]:
        """What there is to show of an event. Raises Malformed."""
        ...

    def reply(self) -> Reply:
        """Raises Malformed."""
        ...


class Exchange:
    """Opens the SDK's client at first use, beside the event loop: importing it takes about a second."""

    def __init__(self, provider: str, path: str, open_client: Callable[[], SdkClient]) -> None:
        self._provider = provider
        self._path = path
        self._open_client = open_client
        self._opening = asyncio.Lock()
        self._client: SdkClient | None = None

    async def client(self) -> SdkClient:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open_client)
        assert self._client is not None
        return self._client

    async def stream(self, body: Mapping[str, Any], message: Message) -> AsyncGenerator[Delta | Reply, None]:
        """What the provider says, as `message` understands it. Closing the generator closes the response.

        Raises ProviderError.
        """
        called, response = await self._sent(body, stream=True)
        request_id = failures.request_id_of(response)
        try:
            async with aclosing(response.aiter_bytes()) as chunks, aclosing(_events(chunks)) as events:
                async for event in events:
                    if event.get("error"):
                        raise failures.told_in_stream(called, event["error"], request_id)
                    for delta in message.add(event):
                        yield delta
            if not message.is_whole:
                raise Malformed("it has no end")
        except (Malformed, httpx2.HTTPError, httpx2.StreamError) as error:
            if not message.is_whole:
                raise failures.cut_off(called, error, request_id) from None
        finally:
            await response.aclose()
        try:
            reply = message.reply()
            if reply.content:
                check_content("assistant", reply.content, "content")
        except (Malformed, InvalidInput) as error:
            raise failures.cut_off(called, error, request_id) from None
        yield reply

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request that is not streamed. Raises ProviderError."""
        called, response = await self._sent(body, stream=False)
        request_id = failures.request_id_of(response)
        try:
            answer = read_object(response.content)
        except Malformed as error:
            raise failures.cut_off(called, error, request_id) from None
        if answer.get("error"):
            raise failures.told_in_stream(called, answer["error"], request_id)
        return answer

    async def _sent(self, body: Mapping[str, Any], *, stream: bool) -> tuple[Called, httpx2.Response]:
        model = str(body.get("model"))
        called, content = Called(self._provider, model), dumps(body).encode()
        try:
            client = await self.client()
            called = Called(self._provider, model, _address(client.base_url), _secrets(client))
            response: httpx2.Response = await client.post(
                self._path, cast_to=httpx2.Response, content=content, options=_OPTIONS, stream=stream
            )
        except Exception as error:  # whatever an SDK raises, callers know one error
            raise failures.not_opened(called, error) from None
        return called, response

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


async def _events(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Until the provider says that it has said all, or the stream ends. Raises Malformed."""
    reader = SseReader()
    async for chunk in chunks:
        for text in reader.feed(chunk):
            event = None if text == _DONE else read_object(text)
            if event is not None:
                yield event
            if event is None or event.get("type") == "message_stop":
                with suppress(TimeoutError, httpx2.HTTPError):
                    async with asyncio.timeout(_LAST_BYTES_SECONDS):
                        async for _ in chunks:
                            pass
                return


def _address(url: httpx2.URL) -> str:
    return f"{url.host}:{url.port}" if url.port else url.host


def _secrets(client: SdkClient) -> tuple[str, ...]:
    held = [getattr(client, name, None) for name in ("api_key", "auth_token")]
    return tuple(secret for secret in held if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET)
