"""Appending one message of about 180 characters over HTTP, beside what pgbench does with the same SQL on the same server.

Each client appends to a thread of its own, the next message as soon as the last was acknowledged; and once all to one
thread, where they wait for each other's row lock. `share` is the service's throughput over pgbench's in the same
scenario, in the same round; the row shown is the median round by throughput. `service cpu` is the CPU time that the
service's process takes for a request, which says more than wall time on a machine that does other things too. The load
generator runs in a process of its own; what it can do against an ASGI route that does nothing, and the CPU time it takes
a request, stand beside.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bench import pgbench
from bench.load import Client, Load, Target, generate
from bench.report import Report, Row, Section, middle_run, milliseconds, progress
from bench.stack import Stack, listening, running_stack, temporary_dir
from bench.texts import generated_texts

_BODIES = 200
_MANY = 16


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    clients: int
    one_thread: bool = False
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Effort:
    seconds: float
    rounds: int

    @property
    def warmup_seconds(self) -> float:
        return self.seconds / 5


_SCENARIOS = (
    Scenario("1 client", 1),
    Scenario(f"{_MANY} clients, {_MANY} threads", _MANY),
    Scenario(f"{_MANY} clients, one thread", _MANY, one_thread=True),
    Scenario("1 client, Idempotency-Key", 1, idempotent=True),
    Scenario(f"{_MANY} clients, Idempotency-Key", _MANY, idempotent=True),
)


def run(*, quick: bool) -> Report:
    effort = Effort(0.3, 1) if quick else Effort(6, 3)
    with running_stack() as stack, temporary_dir() as directory:
        script = directory / "append.sql"
        recorded = pgbench.record_append(stack, next(generated_texts(1)))
        pgbench.write_script(script, recorded, stack.postgres.uri)
        pgbench.make_threads(stack, _MANY)
        rounds: dict[Scenario, list[Row]] = {scenario: [] for scenario in _SCENARIOS}
        for number in range(effort.rounds):
            for scenario in _SCENARIOS:
                progress(f"append: round {number + 1} of {effort.rounds}: {scenario.name}")
                used = stack.service_cpu_seconds()
                measured = _service(stack, scenario, effort)
                used = stack.service_cpu_seconds() - used
                floor = None
                if not scenario.idempotent:
                    floor = pgbench.run(
                        stack,
                        script,
                        clients=scenario.clients,
                        seconds=max(1, round(effort.seconds)),  # it knows whole seconds only
                        one_thread=scenario.one_thread,
                    )
                rounds[scenario].append(_row(scenario, measured, used / measured.requests, floor))
        generator = _generator(stack.target, stack.key, effort)
    rows = [middle_run(found, "service_per_s") for found in rounds.values()]
    notes = [
        f"SQL of one append, as pgbench sends it too: {len(recorded.statements)} statements, "
        f"{sum(s.sql == 'COMMIT' for s in recorded.statements)} of them commits.",
        "The service is one process: with several clients its own CPU time for a request is what limits it.",
    ]
    return Report("append", [Section("Appending one message", rows), Section("The load generator", generator)], notes)


def _service(stack: Stack, scenario: Scenario, effort: Effort) -> Load:
    api = stack.connect()
    threads = [api.new_thread() for _ in range(1 if scenario.one_thread else scenario.clients)]
    api.close()
    bodies = [json.dumps({"role": "user", "content": text}) for text in islice(generated_texts(7), _BODIES)]
    clients = [
        Client("POST", f"/v1/threads/{threads[i % len(threads)]}/messages", bodies, scenario.idempotent)
        for i in range(scenario.clients)
    ]
    return generate(stack.target, stack.key, clients, seconds=effort.seconds, warmup_seconds=effort.warmup_seconds)


def _row(scenario: Scenario, measured: Load, cpu_seconds: float, floor: Load | None) -> dict[str, Any]:
    client, server = milliseconds(measured.latencies), milliseconds(measured.server_times)
    below = milliseconds(floor.latencies) if floor else None
    return {
        "scenario": scenario.name,
        "client_p50_ms": client["p50_ms"],
        "client_p95_ms": client["p95_ms"],
        "server_p50_ms": server["p50_ms"],
        "service_cpu_ms": round(cpu_seconds * 1000, 2),
        "service_per_s": round(measured.per_second),
        "pgbench_p50_ms": below and below["p50_ms"],
        "pgbench_p95_ms": below and below["p95_ms"],
        "pgbench_per_s": floor and round(floor.per_second),
        "share": floor and round(measured.per_second / floor.per_second, 3),
    }


def _generator(target: Target, key: str, effort: Effort) -> Sequence[Row]:
    """What the generator can do where nothing, or nearly nothing, answers."""
    progress("append: the load generator against an ASGI route that does nothing")
    body = json.dumps({"role": "user", "content": next(generated_texts(7))})
    rows = []
    with listening([sys.executable, "-m", "bench.nothing"], env={}) as (_, nothing):
        for where, at, client in (
            ("a route that does nothing", nothing, Client("POST", "/", [body])),
            ("the service's /healthz", target, Client("GET", "/healthz", [""])),
        ):
            for clients in (1, _MANY):
                load = generate(
                    at, key, [client] * clients, seconds=effort.seconds / 2, warmup_seconds=effort.warmup_seconds
                )
                rows.append(
                    {
                        "against": where,
                        "clients": clients,
                        "p50_ms": milliseconds(load.latencies)["p50_ms"],
                        "per_s": round(load.per_second),
                        "generator_cpu_us_per_request": round(load.cpu_seconds / len(load.latencies) * 1e6),
                    }
                )
    return rows
