from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "moves_prefix(reason): in this test a prompt does not extend its predecessor's prefix, for this reason",
    )
