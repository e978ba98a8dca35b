"""docs/errors.md lists every code that the API can answer with, and its status."""

from __future__ import annotations

import re

from memory_service import errors
from memory_service.api import errors as api_errors
from memory_service.providers.chat import failures
from tests.conftest import REPOSITORY

ROW = re.compile(r"^\| (\d{3})? ?\| ([^|]+) \|", re.MULTILINE)
# Of the start, the command line and the demo.
ELSEWHERE = {"address_unavailable", "embedded_postgres", "engine_unavailable", "invalid_conversation"}
# Recall goes on without the first, prompts without the second; of the third a prompt is built again.
NEVER_ANSWERED = {errors.EmbedderUnavailable.code, errors.CountUnavailable.code, errors.ThreadMoved.code}


def listed() -> dict[str, int]:
    found, status = {}, 0
    for given, codes in ROW.findall((REPOSITORY / "docs" / "errors.md").read_text()):
        status = int(given or status)
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", codes), status))
    return found


def raised() -> set[str]:
    sources = "".join(path.read_text() for path in (REPOSITORY / "memory_service").rglob("*.py"))
    codes = set(re.findall(r'\bcode(?:: str)? ?= ?"(\w+)"', sources)) | set(failures.CODES)
    return codes | set(api_errors._HTTP_CODES.values())


def listed_for_openai() -> set[str]:
    page = (REPOSITORY / "docs" / "openai-compatibility.md").read_text()
    (codes,) = re.findall(r"^- \*\*Codes\*\* (.+)$", page, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", codes))


def test_every_code_is_listed() -> None:
    sources = [path.read_text() for path in (REPOSITORY / "memory_service" / "api" / "openai").glob("*.py")]
    assert all(f'"{code}"' in "".join(sources) for code in listed_for_openai())
    assert set(listed()) == raised() - ELSEWHERE - NEVER_ANSWERED - listed_for_openai()


def test_codes_of_providers_are_told_in_their_own_page_too() -> None:
    rows = re.findall(r"^\| `(provider_\w+)` \|", (REPOSITORY / "docs" / "providers.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(failures.CODES)


def test_with_its_status() -> None:
    for kind, status in api_errors.STATUSES:
        assert listed()[kind.code] == status
    assert listed()["internal"] == 500
    assert {code for code, status in listed().items() if status == 400} == api_errors._UNREADABLE
