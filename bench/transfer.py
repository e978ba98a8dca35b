"""Moving whole projects: `memory-service import` of 100,000 messages in 500 threads into an empty database, and `export`
of the same, as the commands themselves time it. Each message is checked, counted, indexed and embedded on its way in, so
it can be searched as soon as it is committed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.report import Report, Row, Section, progress
from bench.stack import running_stack
from bench.texts import generated_texts

_THREADS = 500
_USER = "mover"


def run(*, quick: bool) -> Report:
    count = 5_000 if quick else 100_000
    with TemporaryDirectory(prefix="memory-service-bench-") as directory, running_stack() as stack:
        source, target = Path(directory, "in.ndjson"), Path(directory, "out.ndjson")
        progress(f"transfer: writing {count:,} messages")
        with source.open("w") as lines:
            lines.writelines(f"{json.dumps(line)}\n" for line in _lines(count))
        rows = [
            _measure(stack.postgres.uri, "import", str(source), "--project", "moved"),
            _measure(stack.postgres.uri, "export", "--project", "moved", "--out", str(target)),
        ]
        megabytes = round(target.stat().st_size / 1e6, 1)
    return Report("transfer", [Section("Whole projects", rows)], [f"{megabytes} MB of NDJSON, {_THREADS} threads."])


def _lines(count: int) -> Iterator[dict[str, Any]]:
    texts = generated_texts(count)
    for thread in range(_THREADS):
        yield {"type": "thread", "id": f"thread-{thread}", "user_id": _USER}
        for number in range(count // _THREADS):
            role = ("user", "assistant")[number % 2]
            yield {"type": "message", "thread_id": f"thread-{thread}", "role": role, "content": next(texts)}


def _measure(uri: str, command: str, *arguments: str) -> Row:
    progress(f"transfer: {command}")
    ran = subprocess.run(
        [sys.executable, "-m", "memory_service", command, *arguments, "--json"],
        env={**os.environ, "MEMORY_DATABASE_URL": uri},
        stdout=subprocess.PIPE,
        check=True,
    )
    summary = json.loads(ran.stdout)
    per_second = round(summary["messages"] / summary["seconds"])
    return {"command": command, "messages": summary["messages"], "seconds": summary["seconds"], "per_s": per_second}
