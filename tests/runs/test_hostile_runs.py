"""Many runs against a provider that does everything wrong: each ends in the right state, and nothing is left behind."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from tests.conftest import Service
from tests.providers.scripted import (
    Asked,
    Behaviour,
    ScriptedProvider,
    cut,
    early,
    malformed,
    ok,
    stall,
    status,
    stream_error,
)
from tests.runs.conftest import Runs, settings_of

ENDINGS: list[tuple[Behaviour, str, str | None]] = [
    (status(429, retry_after="3600"), "failed", "provider_rate_limited"),
    (status(500, retry_after="3600"), "failed", "provider_failed"),
    (status(529, retry_after="3600"), "failed", "provider_overloaded"),
    (status(400), "failed", "provider_refused"),
    (malformed(after=1), "failed", "provider_stream_broken"),
    (cut(after=1), "failed", "provider_stream_broken"),
    (early(after=1), "failed", "provider_stream_broken"),
    (stream_error("overloaded_error", after=1), "failed", "provider_overloaded"),
    (stall(after=1), "failed", "run_timeout"),
    (ok(), "completed", None),
]
AT_ONCE = 8
MOST_GROWTH_BYTES = 40_000_000


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_every_failure_many_times(database_url: str, api_key: str, provider: ScriptedProvider, times: int) -> None:
    provider.respond = _as_asked
    served = Service.start(env=settings_of(database_url, provider))
    try:
        headers = {"authorization": f"Bearer {api_key}"}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=60) as api:
            _round(api, AT_ONCE)  # what is loaded once
            before = _held(served, provider)
            seen = _round(api, times)
            after = _held(served, provider)
    finally:
        served.stop()
    assert seen == Counter(
        {(status_, code): times for _, status_, code in ENDINGS if code != "provider_stream_broken"}
    ) + (Counter({("failed", "provider_overloaded"): times, ("failed", "provider_stream_broken"): 3 * times}))
    assert after["connections"] <= before["connections"] + 2
    assert after["files"] <= before["files"] + 4
    assert after["bytes"] - before["bytes"] < MOST_GROWTH_BYTES


def _as_asked(asked: Asked) -> Behaviour:
    """The newest question names the number of a behaviour."""
    content = asked.body["messages"][-1]["content"]
    return ENDINGS[int(content if isinstance(content, str) else content[-1]["text"])][0]


def _round(api: httpx2.Client, times: int) -> Counter[tuple[str, str | None]]:
    def one(number: int) -> tuple[str, str | None]:
        run = Runs(api).run(
            str(number % len(ENDINGS)), wait=True, timeout_seconds=2 if number % len(ENDINGS) == 8 else 60
        )
        return run["status"], run["last_error"] and run["last_error"]["code"]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(one, range(times * len(ENDINGS))))


def _held(served: Service, provider: ScriptedProvider) -> dict[str, int]:
    """What the process holds, once it has let go of what it will."""
    process, port = psutil.Process(served.process.pid), int(provider.url.rpartition(":")[2])
    deadline = time.monotonic() + 15
    while True:
        to_provider = [c for c in process.net_connections() if c.raddr and c.raddr.port == port]
        busy = [c for c in to_provider if c.status == psutil.CONN_CLOSE_WAIT]
        if (len(to_provider) <= AT_ONCE and not busy) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return {
        "connections": len(to_provider),
        "files": process.num_fds(),
        "bytes": process.memory_info().rss,
    }
