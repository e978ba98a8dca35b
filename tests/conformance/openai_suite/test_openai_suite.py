"""OpenAI's own tests of its SDK, unmodified, against the edge that speaks OpenAI's API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.openai_suite.conflicts import CONFLICTS
from tests.conformance.openai_suite.sdist import install, unpack
from tests.conftest import REPOSITORY, Service

_FILES = (
    "beta/test_assistants.py",
    "beta/test_threads.py",
    "beta/threads/test_messages.py",
    "beta/threads/test_runs.py",
    "beta/threads/runs/test_steps.py",
    "test_conversations.py",
    "conversations/test_items.py",
    "test_responses.py",
    "responses/test_input_items.py",
    "responses/test_input_tokens.py",
)
_OPTIONS = (
    *("-c", os.devnull, "-p", "openai_suite_seed", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--tb=line"),
    *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=session"),
)
_CASE = re.compile(r"(?:tests/api_resources/)?(?P<file>[\w/]+\.py)::Test\w+::(?P<name>\w+)\[.*\]")


@pytest.fixture(scope="module")
def echoing(database_url: str) -> Iterator[Service]:
    """A service that asks no model, whatever keys there are."""
    nobody = dict.fromkeys(("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"), "")
    served = Service.start(env={**nobody, "MEMORY_DATABASE_URL": database_url, "MEMORY_WRONG_KEYS_PER_MINUTE": "0"})
    yield served
    served.stop()


def test_the_suite_of_the_newest_sdk(echoing: Service, database_url: str, tmp_path: Path) -> None:
    cases = _outcomes(unpack("3.52.0", tmp_path), echoing, database_url, tmp_path)
    failed = {case: why for case, (passed, why) in cases.items() if not passed}
    expected = {case for case in cases if _function(case) in CONFLICTS}
    assert len(expected) <= 100
    unexpected = {case: why for case, why in failed.items() if case not in expected}
    assert not unexpected, "\n\n".join(f"{case}\n{why}" for case, why in sorted(unexpected.items())[:20])
    assert len(cases) == 950
    assert expected <= failed.keys(), f"these pass: {sorted(expected - failed.keys())}"
    assert CONFLICTS.keys() <= set(map(_function, cases)), "a function that is not in the suite"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.109.1", "2.54.0"])
def test_the_suites_of_older_sdks(echoing: Service, database_url: str, tmp_path: Path, version: str) -> None:
    sdk = install(version, tmp_path / "sdk")
    cases = _outcomes(unpack(version, tmp_path), echoing, database_url, tmp_path, sdk)
    assert len(cases) > 850
    failed = {case: why for case, (passed, why) in cases.items() if not passed and _function(case) not in CONFLICTS}
    assert not failed, "\n\n".join(f"{case}\n{why}" for case, why in sorted(failed.items())[:20])


def _function(case: str) -> str:
    found = _CASE.fullmatch(case)
    assert found, case
    return f"{found['file']}::{found['name']}"


def _outcomes(
    suite: Path, service: Service, database_url: str, directory: Path, sdk: Path | None = None
) -> dict[str, tuple[bool, str]]:
    """Of each case whether it passed, and what it said."""
    written = directory / "outcomes.ndjson"
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    paths = [suite, Path(__file__).parent, *([sdk] if sdk else []), REPOSITORY]
    environment = {
        **os.environ,
        # The suite's own package `tests` comes first, then the plugin, then what the plugin imports.
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]),
        "TEST_API_BASE_URL": f"{service.url}/openai/v1",
        "OPENAI_SUITE_DATABASE_URL": database_url,
        "OPENAI_SUITE_OUTCOMES": str(written),
    }
    present = [file for file in _FILES if (suite / "tests" / "api_resources" / file).exists()]
    files = [str(suite / "tests" / "api_resources" / file) for file in present]
    command = [sys.executable, "-m", "pytest", *_OPTIONS, f"--rootdir={suite}", *files]
    ran = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True)
    assert written.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
    cases: dict[str, tuple[bool, str]] = {}
    for line in written.read_text().splitlines():
        told = json.loads(line)
        passed = told["outcome"] == "passed" and cases.get(told["id"], (True, ""))[0]
        cases[told["id"]] = (passed, told["why"])
    return cases
