"""The client for asyncio: the same thin shell, with await."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import httpx2

from ._async_results import AsyncExport, AsyncPage, AsyncPaginator, AsyncRunStream
from ._call import Call
from ._config import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, Timeout, resolve_config
from ._endpoints import assistants, estimates, messages, prompts, runs, service, threads, usage, users
from ._endpoints.runs import ToolLoop, chat_reply
from ._errors import REFUSED, APIConnectionError, APIError
from ._following import Follow, Following
from ._method import Method
from ._request import NOT_GIVEN, NotGiven, Request
from ._retry import Outcome
from .objects import Listing
from .runs import ChatReply, Run, RunEvent

P = ParamSpec("P")
T = TypeVar("T")


def _sends(build: Callable[P, Request[T]]) -> Method[P, Coroutine[Any, Any, T]]:
    return Method(build, lambda client, request: client._send(request))


def _lists(build: Callable[P, Request[Listing[T]]]) -> Method[P, AsyncPaginator[T]]:
    return Method(build, AsyncPaginator)


def _exports(build: Callable[P, Request[None]]) -> Method[P, AsyncExport]:
    return Method(build, AsyncExport)


def _starts(build: Callable[P, Request[Run] | Follow]) -> Method[P, Coroutine[Any, Any, Run]]:
    return Method(build, lambda client, asked: client._started(asked))


def _follows(build: Callable[P, Follow]) -> Method[P, AsyncRunStream]:
    return Method(build, AsyncRunStream)


def _loops(build: Callable[P, ToolLoop]) -> Method[P, Coroutine[Any, Any, Run]]:
    return Method(build, lambda client, loop: client._run(loop))


def _chats(build: Callable[P, ToolLoop]) -> Method[P, Coroutine[Any, Any, ChatReply]]:
    return Method(build, lambda client, loop: client._chat(loop))


class _Resource:
    def __init__(self, client: AsyncMemoryClient) -> None:
        self._client = client


class AsyncMessages(_Resource):
    append = _sends(messages.append)
    list = _lists(messages.list_)
    get = _sends(messages.get_)
    update = _sends(messages.update)
    delete = _sends(messages.delete_)


class AsyncPrompts(_Resource):
    build = _sends(prompts.build)
    list = _lists(prompts.list_)
    get = _sends(prompts.get_)
    report_usage = _sends(prompts.report_usage)


class AsyncRuns(_Resource):
    create = _starts(runs.create)
    stream = _follows(runs.stream)
    resume = _follows(runs.resume)
    get = _sends(runs.get_)
    list = _lists(runs.list_)
    cancel = _sends(runs.cancel)
    submit_tool_outputs = _starts(runs.submit_tool_outputs)
    stream_tool_outputs = _follows(runs.stream_tool_outputs)
    run = _loops(runs.run)


class AsyncThreads(_Resource):
    create = _sends(threads.create)
    list = _lists(threads.list_)
    get = _sends(threads.get_)
    update = _sends(threads.update)
    delete = _sends(threads.delete_)
    fork = _sends(threads.fork)
    prewarm = _sends(prompts.prewarm)
    search = _sends(threads.search)
    export = _exports(threads.export)

    @property
    def messages(self) -> AsyncMessages:
        return AsyncMessages(self._client)

    @property
    def prompts(self) -> AsyncPrompts:
        return AsyncPrompts(self._client)

    @property
    def runs(self) -> AsyncRuns:
        return AsyncRuns(self._client)


class AsyncAssistants(_Resource):
    create = _sends(assistants.create)
    list = _lists(assistants.list_)
    get = _sends(assistants.get_)
    update = _sends(assistants.update)
    delete = _sends(assistants.delete_)


class AsyncUsers(_Resource):
    get = _sends(users.get_)
    export = _exports(users.export)
    delete = _sends(users.delete_)


class AsyncEstimates(_Resource):
    list = _sends(estimates.list_)
    delete = _sends(estimates.delete_)


class AsyncUsageLedger(_Resource):
    get = _sends(usage.get_)


class AsyncMemoryClient:
    """`MemoryClient` for asyncio. Close it with `await client.close()`, or use it with `async with`."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        self._config = resolve_config(base_url, api_key, timeout, max_retries, default_headers)
        # A proxy from the environment can never be the way to this machine.
        self._http = httpx2.AsyncClient(trust_env=not self._config.is_local)
        self._owns_http = True

    search = _sends(service.search)
    import_ndjson = _sends(service.import_ndjson)
    health = _sends(service.health)
    chat = _chats(runs.chat)

    @property
    def threads(self) -> AsyncThreads:
        return AsyncThreads(self)

    @property
    def assistants(self) -> AsyncAssistants:
        return AsyncAssistants(self)

    @property
    def users(self) -> AsyncUsers:
        return AsyncUsers(self)

    @property
    def estimates(self) -> AsyncEstimates:
        return AsyncEstimates(self)

    @property
    def usage(self) -> AsyncUsageLedger:
        return AsyncUsageLedger(self)

    @property
    def base_url(self) -> str:
        return self._config.base_url

    def with_options(
        self,
        *,
        timeout: Timeout | NotGiven = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        default_headers: Mapping[str, str] | NotGiven = NOT_GIVEN,
    ) -> Self:
        """This client with other patience or headers, over the same connections, which stay this client's to close."""
        derived = copy.copy(self)
        derived._config = self._config.with_options(timeout, max_retries, default_headers)
        derived._owns_http = False
        return derived

    async def close(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    @property
    def _client(self) -> AsyncMemoryClient:
        return self

    async def _send(self, request: Request[T]) -> T:
        call = Call(self._config, request)
        return call.result(await self._outcome(call))

    async def _list(self, request: Request[Listing[T]]) -> AsyncPage[T]:
        listing = await self._send(request)
        return AsyncPage(**vars(listing), _client=self, _request=request)

    async def _stream(self, request: Request[Any]) -> AsyncGenerator[bytes, None]:
        call = Call(self._config, request)
        response = call.accepted(await self._outcome(call, stream=True))
        async with aclosing(response):
            with call.translated_errors(response):
                async for chunk in response.aiter_bytes():
                    yield chunk

    async def _started(self, asked: Request[Run] | Follow) -> Run:
        return await (self._stopped(asked) if isinstance(asked, Follow) else self._send(asked))

    async def _stopped(self, follow: Follow) -> Run:
        async with AsyncRunStream(self, follow) as stream:
            return await stream.until_done()

    async def _run(self, loop: ToolLoop) -> Run:
        run, rounds = await self._stopped(loop.start), 0
        while loop.can_answer(run):
            if rounds == loop.max_round_trips:
                raise loop.too_many(await self.threads.runs.cancel(run.thread_id, run.id))
            run = await self._answered(loop, run)
            rounds += 1
        return run

    async def _answered(self, loop: ToolLoop, run: Run) -> Run:
        try:
            outputs = await loop.toolbox.outputs_async(run.tool_calls)
        except BaseException:
            await self._give_up(run)
            raise
        try:
            return await self._stopped(loop.go_on(run, outputs))
        except REFUSED:
            await self._give_up(run)
            raise

    async def _give_up(self, run: Run) -> None:
        """Nobody will answer its calls, and until then its thread is busy."""
        with suppress(APIError):
            await self.threads.runs.cancel(run.thread_id, run.id)

    async def _chat(self, loop: ToolLoop) -> ChatReply:
        return chat_reply(await self._run(loop))

    async def _follow(self, following: Following) -> AsyncGenerator[RunEvent, None]:
        while request := following.next_request():
            await asyncio.sleep(following.delay())
            call = Call(self._config, request)
            response = call.accepted(await self._outcome(call, stream=True))
            broke = None
            try:
                async with aclosing(response):
                    with call.translated_errors(response):
                        async for chunk in response.aiter_bytes():
                            for event in following.feed(chunk):
                                yield event
            except APIConnectionError as error:
                broke = error
            following.ended(broke)

    async def _outcome(self, call: Call[Any], *, stream: bool = False) -> Outcome:
        while True:
            outcome = await self._attempt(call.http_request(), stream=stream)
            delay = call.delay_before_retry(outcome)
            if delay is None:
                return outcome
            await asyncio.sleep(delay)

    async def _attempt(self, request: httpx2.Request, *, stream: bool) -> Outcome:
        try:
            response = await self._http.send(request, stream=stream)
            if stream and not response.is_success:
                await response.aread()
        except httpx2.RequestError as error:
            return error
        return response
