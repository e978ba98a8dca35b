"""The blocking client: a thin shell that sends and sleeps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import httpx2

from ._call import Call
from ._config import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, Timeout, resolve_config
from ._endpoints import assistants, estimates, messages, prompts, runs, service, threads, usage, users
from ._endpoints.runs import ToolLoop, chat_reply
from ._errors import REFUSED, APIConnectionError, APIError
from ._following import Follow, Following
from ._method import Method
from ._request import NOT_GIVEN, NotGiven, Request
from ._retry import Outcome
from ._sync_results import Export, Page, RunStream
from .objects import Listing
from .runs import ChatReply, Run, RunEvent

P = ParamSpec("P")
T = TypeVar("T")


def _sends(build: Callable[P, Request[T]]) -> Method[P, T]:
    return Method(build, lambda client, request: client._send(request))


def _lists(build: Callable[P, Request[Listing[T]]]) -> Method[P, Page[T]]:
    return Method(build, lambda client, request: client._list(request))


def _exports(build: Callable[P, Request[None]]) -> Method[P, Export]:
    return Method(build, Export)


def _starts(build: Callable[P, Request[Run] | Follow]) -> Method[P, Run]:
    return Method(build, lambda client, asked: client._started(asked))


def _follows(build: Callable[P, Follow]) -> Method[P, RunStream]:
    return Method(build, RunStream)


def _loops(build: Callable[P, ToolLoop]) -> Method[P, Run]:
    return Method(build, lambda client, loop: client._run(loop))


def _chats(build: Callable[P, ToolLoop]) -> Method[P, ChatReply]:
    return Method(build, lambda client, loop: client._chat(loop))


class _Resource:
    def __init__(self, client: MemoryClient) -> None:
        self._client = client


class Messages(_Resource):
    append = _sends(messages.append)
    list = _lists(messages.list_)
    get = _sends(messages.get_)
    update = _sends(messages.update)
    delete = _sends(messages.delete_)


class Prompts(_Resource):
    build = _sends(prompts.build)
    list = _lists(prompts.list_)
    get = _sends(prompts.get_)
    report_usage = _sends(prompts.report_usage)


class Runs(_Resource):
    create = _starts(runs.create)
    stream = _follows(runs.stream)
    resume = _follows(runs.resume)
    get = _sends(runs.get_)
    list = _lists(runs.list_)
    cancel = _sends(runs.cancel)
    submit_tool_outputs = _starts(runs.submit_tool_outputs)
    stream_tool_outputs = _follows(runs.stream_tool_outputs)
    run = _loops(runs.run)


class Threads(_Resource):
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
    def messages(self) -> Messages:
        return Messages(self._client)

    @property
    def prompts(self) -> Prompts:
        return Prompts(self._client)

    @property
    def runs(self) -> Runs:
        return Runs(self._client)


class Assistants(_Resource):
    create = _sends(assistants.create)
    list = _lists(assistants.list_)
    get = _sends(assistants.get_)
    update = _sends(assistants.update)
    delete = _sends(assistants.delete_)


class Users(_Resource):
    get = _sends(users.get_)
    export = _exports(users.export)
    delete = _sends(users.delete_)


class Estimates(_Resource):
    list = _sends(estimates.list_)
    delete = _sends(estimates.delete_)


class UsageLedger(_Resource):
    get = _sends(usage.get_)


class MemoryClient:
    """A client of one server and project. Close it, or use it as a context manager; threads may share it.

    `base_url` falls back to MEMORY_BASE_URL, then http://127.0.0.1 at MEMORY_PORT (8080); `api_key` to MEMORY_API_KEY,
    then, for a server on this machine, to the file the server keeps its first key in.
    """

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
        self._http = httpx2.Client(trust_env=not self._config.is_local)
        self._owns_http = True

    search = _sends(service.search)
    import_ndjson = _sends(service.import_ndjson)
    health = _sends(service.health)
    chat = _chats(runs.chat)

    @property
    def threads(self) -> Threads:
        return Threads(self)

    @property
    def assistants(self) -> Assistants:
        return Assistants(self)

    @property
    def users(self) -> Users:
        return Users(self)

    @property
    def estimates(self) -> Estimates:
        return Estimates(self)

    @property
    def usage(self) -> UsageLedger:
        return UsageLedger(self)

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

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    @property
    def _client(self) -> MemoryClient:
        return self

    def _send(self, request: Request[T]) -> T:
        call = Call(self._config, request)
        return call.result(self._outcome(call))

    def _list(self, request: Request[Listing[T]]) -> Page[T]:
        listing = self._send(request)
        return Page(**vars(listing), _client=self, _request=request)

    def _stream(self, request: Request[Any]) -> Generator[bytes, None, None]:
        call = Call(self._config, request)
        response = call.accepted(self._outcome(call, stream=True))
        with closing(response), call.translated_errors(response):
            yield from response.iter_bytes()

    def _started(self, asked: Request[Run] | Follow) -> Run:
        return self._stopped(asked) if isinstance(asked, Follow) else self._send(asked)

    def _stopped(self, follow: Follow) -> Run:
        with RunStream(self, follow) as stream:
            return stream.until_done()

    def _run(self, loop: ToolLoop) -> Run:
        loop.toolbox.check_blocking()
        run, rounds = self._stopped(loop.start), 0
        while loop.can_answer(run):
            if rounds == loop.max_round_trips:
                raise loop.too_many(self.threads.runs.cancel(run.thread_id, run.id))
            run = self._answered(loop, run)
            rounds += 1
        return run

    def _answered(self, loop: ToolLoop, run: Run) -> Run:
        try:
            outputs = loop.toolbox.outputs(run.tool_calls)
        except BaseException:
            self._give_up(run)
            raise
        try:
            return self._stopped(loop.go_on(run, outputs))
        except REFUSED:
            self._give_up(run)
            raise

    def _give_up(self, run: Run) -> None:
        """Nobody will answer its calls, and until then its thread is busy."""
        with suppress(APIError):
            self.threads.runs.cancel(run.thread_id, run.id)

    def _chat(self, loop: ToolLoop) -> ChatReply:
        return chat_reply(self._run(loop))

    def _follow(self, following: Following) -> Generator[RunEvent, None, None]:
        while request := following.next_request():
            time.sleep(following.delay())
            call = Call(self._config, request)
            response = call.accepted(self._outcome(call, stream=True))
            broke = None
            try:
                with closing(response), call.translated_errors(response):
                    for chunk in response.iter_bytes():
                        yield from following.feed(chunk)
            except APIConnectionError as error:
                broke = error
            following.ended(broke)

    def _outcome(self, call: Call[Any], *, stream: bool = False) -> Outcome:
        while True:
            outcome = self._attempt(call.http_request(), stream=stream)
            delay = call.delay_before_retry(outcome)
            if delay is None:
                return outcome
            time.sleep(delay)

    def _attempt(self, request: httpx2.Request, *, stream: bool) -> Outcome:
        try:
            response = self._http.send(request, stream=stream)
            if stream and not response.is_success:
                response.read()
        except httpx2.RequestError as error:
            return error
        return response
