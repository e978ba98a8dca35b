"""The same work through OpenAI's API and through ours, in turn, on the same threads: what the translation costs.

The model is a local server that answers at once. `native` and `edge` are milliseconds at one client, `ratio` is that of the
medians. A run is read as a stream, to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

import httpx2

from bench.report import Report, Row, Section, progress
from bench.stack import Stack, running_stack
from tests.providers.scripted import ok, scripted

_MODEL = "claude-sonnet-5"
_TEXT = "Do you remember the old boat that lay behind the shed, and the dog that slept in it all summer long?"


def run(*, quick: bool) -> Report:
    times = 10 if quick else 200
    with scripted() as provider:
        provider.respond = lambda _: ok("I do.")
        env = {"ANTHROPIC_API_KEY": "bench", "ANTHROPIC_BASE_URL": provider.url, "MEMORY_COUNT_TOKENS": "off"}
        with running_stack(env) as stack, _client(stack) as client:
            rows = [_row(name, *pair, times) for name, pair in _operations(client).items()]
    return Report("edge", [Section("Through OpenAI's API and through ours", rows)], [])


def _client(stack: Stack) -> httpx2.Client:
    url = f"http://{stack.target.host}:{stack.target.port}"
    return httpx2.Client(base_url=url, headers={"authorization": f"Bearer {stack.key}"}, timeout=60)


def _operations(client: httpx2.Client) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    assistant = str(_post(client, "/v1/assistants", {"model": _MODEL})["id"])
    numbers = count()

    def thread() -> str:
        return str(_post(client, "/v1/threads", {"assistant_id": assistant})["id"])

    ours, theirs, listed, run_ours, run_theirs = (thread() for _ in range(5))
    for number in range(200):
        _post(client, f"/v1/threads/{listed}/messages", {"role": "user", "content": f"{_TEXT} {number}"})

    def append(path: str) -> Callable[[], None]:
        return lambda: void(_post(client, path, {"role": "user", "content": f"{_TEXT} {next(numbers)}"}))

    def read(path: str) -> Callable[[], None]:
        return lambda: void(client.get(path).raise_for_status())

    def run_native() -> None:
        _stream(client, f"/v1/threads/{run_ours}/runs", {"message": _TEXT, "stream": True}, "event: run.completed")

    def run_edge() -> None:
        body = {
            "assistant_id": assistant,
            "additional_messages": [{"role": "user", "content": _TEXT}],
            "stream": True,
        }
        _stream(client, f"/openai/v1/threads/{run_theirs}/runs", body, "event: thread.run.completed")

    return {
        "append a message": (append(f"/v1/threads/{ours}/messages"), append(f"/openai/v1/threads/{theirs}/messages")),
        "list 100 of 200 messages": (
            read(f"/v1/threads/{listed}/messages?limit=100&order=desc"),
            read(f"/openai/v1/threads/{listed}/messages?limit=100"),
        ),
        "a run with its message, streamed": (run_native, run_edge),
    }


def void(_: object) -> None:
    """For what is timed, not looked at."""


def _post(client: httpx2.Client, path: str, body: dict[str, object]) -> dict[str, object]:
    answer: dict[str, object] = client.post(path, json=body).raise_for_status().json()
    return answer


def _stream(client: httpx2.Client, path: str, body: dict[str, object], last: str) -> None:
    with client.stream("POST", path, json=body) as answer:
        lines = list(answer.raise_for_status().iter_lines())
    if last not in lines:
        raise RuntimeError(f"{path} did not complete: {lines[-6:]}")


def _row(name: str, native: Callable[[], None], edge: Callable[[], None], times: int) -> Row:
    progress(f"edge: {name}")
    for call in (native, edge):
        call()
    measured = [(_timed(native), _timed(edge)) for _ in range(times)]
    ours, theirs = ([pair[i] for pair in measured] for i in (0, 1))
    return {
        "what": name,
        "native_p50_ms": _p50(ours),
        "edge_p50_ms": _p50(theirs),
        "ratio": round(median(theirs) / median(ours), 3),
    }


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _p50(seconds: Sequence[float]) -> float:
    return round(median(seconds) * 1000, 2)
