"""The ceiling below the service: pgbench sending the SQL that the service really sends, on the same server.

The statements of one append are recorded from the running application (in this process, over the same database) and
written as a pgbench script: transactions, statements and values as they were, but thread, seq and message id are
computed by pgbench, because they differ with every append. Prepared statements, as psycopg uses them; each is a round trip
for pgbench, also of those that the service sends together (BEGIN, the project and the first).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from starlette.testclient import TestClient

from bench.load import Load
from bench.stack import Stack
from memory_service.api.app import create_app
from memory_service.config import Settings
from memory_service.store import db, session
from memory_service.store.db import connection_options
from memory_service.store.session import Statement

_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one append sent, and what it was about."""

    statements: list[Statement]
    thread_id: str
    message_id: str


def record_append(stack: Stack, text: str) -> Recorded:
    app = create_app(Settings(), stack.open_runtime)
    with TestClient(app, headers={"authorization": f"Bearer {stack.key}"}) as client:
        thread_id = client.post("/v1/threads", json={}).json()["id"]
        path, body = f"/v1/threads/{thread_id}/messages", {"role": "user", "content": text}
        client.post(path, json=body)  # the first append of a process prepares this and that
        with _recorded() as statements:
            answer = client.post(path, json=body).raise_for_status()
    return Recorded(statements, thread_id, answer.json()["data"][0]["id"])


@contextmanager
def _recorded() -> Iterator[list[Statement]]:
    statements: list[Statement] = []
    original = session.send

    async def send(connection: Any, *sent: Statement) -> Any:
        statements.extend(sent)
        return await original(connection, *sent)

    try:
        session.send = db.send = send
        yield statements
    finally:
        session.send = db.send = original


def write_script(path: Path, recorded: Recorded, uri: str) -> None:
    """Each client appends to the thread `bench_<its number>`."""
    lines = ["\\set unique random(1, 9000000000000000000)"]
    with psycopg.connect(uri) as connection:
        for statement in recorded.statements:
            given = (statement.parameters or {}).items()
            values = {name: _value(name, value, recorded, connection) for name, value in given}
            text = _PARAMETER.sub(lambda match: values[match[1]], statement.sql)  # noqa: B023
            text = " ".join(text.replace("%%", "%").split())
            lines += [f"{text} \\gset", "\\set seq :last_seq + 1"] if text.endswith("FOR UPDATE") else [f"{text};"]
    path.write_text("\n".join(lines) + "\n")


def _value(name: str, value: Any, recorded: Recorded, connection: psycopg.Connection) -> str:
    if isinstance(value, list) and value:
        return f"ARRAY[{', '.join(_value(name, one, recorded, connection) for one in value)}]"
    if (rows := getattr(value, "rows", None)) is not None:  # vectors, which only the driver's binary form can carry
        return _value(name, [str(row.tolist()) for row in rows], recorded, connection)
    if value == recorded.thread_id:
        return "('bench_' || :client_id)"
    if value == recorded.message_id:
        return "('msg_' || :unique)"
    if name in ("pk", "thread_pk", "end_pk", "vector_threads"):
        return ":pk"
    if name in ("seq", "last_seq", "end_last_seq", "vector_seqs"):
        return ":seq"
    return sql.Literal(value).as_string(connection)


def make_threads(stack: Stack, count: int) -> None:
    """One for each client, so that no two wait for the same row."""
    with psycopg.connect(stack.postgres.uri) as connection:
        for number in range(count):
            connection.execute(
                "INSERT INTO memory.threads (project_id, id, created_at) SELECT pk, %s, now() FROM memory.projects",
                [f"bench_{number}"],
            )


def run(stack: Stack, script: Path, *, clients: int, seconds: int, one_thread: bool = False) -> Load:
    """`one_thread`: all clients wait for one another at the same row."""
    if one_thread:
        single = script.with_suffix(".one.sql")
        single.write_text(script.read_text().replace("('bench_' || :client_id)", "('bench_' || 0)"))
        script = single
    log = script.with_suffix("")
    command: list[str | Path] = [
        stack.postgres.bin_dir / "pgbench",
        "-n",
        "-M",
        "prepared",
        "-f",
        script,
        "-T",
        str(seconds),
    ]
    command += ["-c", str(clients), "-j", "1", "-l", f"--log-prefix={log}", stack.postgres.uri]
    environment = {**os.environ, "PGOPTIONS": connection_options(stack.postgres.uri, "memory_app")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pgbench failed: {done.stderr}")
    latencies = []
    for path in log.parent.glob(f"{log.name}.*"):
        if path.suffix[1:].isdigit():
            latencies += [int(line.split()[2]) / 1e6 for line in path.read_text().splitlines()]
            path.unlink()
    return Load(latencies, [], seconds, 0.0, len(latencies))
