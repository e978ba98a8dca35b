"""What a service does once it is up, before anybody asks."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from memory_service.api.app import create_app
from memory_service.config import Settings
from memory_service.services.lifecycle import OpenDatabase, open_runtime


@pytest.fixture
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_loaded_is_left_out_of_garbage_collection(database_url: str, thawed: None) -> None:
    """To look through it takes a quarter of a second, in which nobody is answered."""
    settings = Settings()
    app = create_app(settings, lambda: open_runtime(settings, OpenDatabase(database_url, embedded=False, described="")))
    with TestClient(app):
        give_up = time.monotonic() + 30
        while gc.get_freeze_count() == 0 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert gc.get_freeze_count() > 100_000
