"""Every benchmark runs, at sizes that say nothing about speed, and reports what its readers and scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memory_service.demo.engine import Engine
from tests.conftest import evaluation_data

REPOSITORY = Path(__file__).parents[2]
POLICY = {
    "policy",
    "cache_read_share",
    "cost_a_turn",
    "tokens_a_prompt",
    "cost_over_bound",
    "predicted_over_read",
    "trims",
    "share_of_1h",
}
#: Those that take ten seconds and more even so.
LONG = {"append", "startup", "transfer", "cache", "ttft", "runs"}
# The columns of each table, by benchmark.
SHAPES = {
    "append": [
        {
            "scenario",
            "client_p50_ms",
            "client_p95_ms",
            "server_p50_ms",
            "service_cpu_ms",
            "service_per_s",
            "pgbench_p50_ms",
            "pgbench_p95_ms",
            "pgbench_per_s",
            "share",
        },
        {"against", "clients", "p50_ms", "per_s", "generator_cpu_us_per_request"},
    ],
    "prompt": [
        {
            "messages",
            "recall",
            "client_p50_ms",
            "client_p95_ms",
            "server_p50_ms",
            "server_p95_ms",
            "service_cpu_ms",
            "usage_report_p50_ms",
            "prompt_tokens",
            "recalled",
            "prompts",
        },
        {"messages", "recall", "first", "middle", "last"},
        {"messages", "what", "p50_ms", "p95_ms", "cpu_p50_ms"},
        {"messages", "step", "p50_ms"},
    ],
    "storage": [
        {"run", "messages", "text_bytes", "stored_bytes", "ratio", "bytes_per_message"},
        {"table", "messages only", "messages, with Idempotency-Key", "messages, and a prompt for each turn"},
    ],
    "runs": [
        {"what", "p50_ms", "p95_ms"},
        {"what", "completed", "first_text_p50_ms", "first_text_p95_ms"},
    ],
    "edge": [{"what", "native_p50_ms", "edge_p50_ms", "ratio"}],
    "startup": [{"what", "runs", "ready_s", "service_rss_mib", "postgres_mib", "postgres_processes"}],
    "transfer": [{"command", "messages", "seconds", "per_s"}],
    "cache": [
        {
            "prompts",
            "cache_read_share",
            "prompt_tokens",
            "prefill_tokens",
            "prefill_against_ours",
            "p50_ms",
            "p95_ms",
            "seconds",
            "largest_prompt",
            "over_budget",
        }
    ]
    * 2,
    "engine": [
        {"what", "reached", "target", "met"},
        POLICY,
        POLICY,
    ],
    "recall": [
        {"ranking", "@5", "@10", "@20", "500", "1,000", "2,000", "4,000"},
        {"ranking", "1,000", "2,000", "4,000", "8,000"},
        {"ranking", "MADial_@5", "paraKQC_@1"},
    ],
    "evidence": [
        {
            "policy",
            "max_prompt_tokens",
            "evidence",
            "cost_of_a_prompt",
            "cache_read_share",
            "tokens_p50",
            "tokens_max",
            "questions",
        }
    ]
    * 2,
    "tools": [
        {
            "policy",
            "calls",
            "cache_read_share",
            "cost_of_a_call",
            "tokens_p50",
            "tokens_max",
            "over_budget",
            "refused",
            "unpaired",
            "against",
        }
    ]
    * 4,
    "ttft": [
        {
            "prompts",
            "mean_ms",
            "p50_ms",
            "p95_ms",
            "against_ours",
            "cache_read_share",
            "predicted_over_read",
            "largest_prompt",
            "over_budget",
        }
    ]
    * 2,
}


@cache
def run_quick(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", name, "--quick", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quick"] is True
    (report,) = found["reports"]
    assert report["name"] == name
    return report


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in SHAPES])
def test_benchmark_reports(name: str) -> None:
    if name in ("cache", "ttft") and not Engine.available():
        pytest.skip(f"NO ENGINE: pip install 'memory-service[engine]' to run the {name} benchmark")
    if name in ("recall", "evidence", "tools", "ttft"):
        evaluation_data()
    report = run_quick(name)
    assert report["skipped"] is None
    assert [set(section["rows"][0]) for section in report["sections"]] == SHAPES[name]
    for section in report["sections"]:
        for row in section["rows"]:
            assert row.keys() == section["rows"][0].keys(), section["title"]
            numbers = [value for value in row.values() if isinstance(value, int | float)]
            assert all(number >= 0 for number in numbers), row


def test_prompt_recalls_where_it_says_so() -> None:
    """Else the figures with and without recall would compare the same thing."""
    rows = run_quick("prompt")["sections"][0]["rows"]
    recalled = {(row["messages"], row["recall"]): row["recalled"] for row in rows}
    assert recalled[1_000, True] > 0
    assert recalled[1_000, False] == 0


def test_unknown_name_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "nosuch"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'nosuch'" in done.stderr


def test_tool_calls_and_results_stay_together_in_recorded_agents() -> None:
    evaluation_data()
    rows = [row for section in run_quick("tools")["sections"] for row in section["rows"]]
    assert all(row["calls"] > 20 and row["unpaired"] == 0 for row in rows)


def test_evidence_is_found_by_recall_and_not_without() -> None:
    evaluation_data()
    for section in run_quick("evidence")["sections"]:
        found = {row["policy"]: row["evidence"] for row in section["rows"]}
        assert found["full history"] == 1
        assert found["auto + recall"] > found["auto"]
