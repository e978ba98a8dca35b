"""Profiles: `normal` is the same on every run; `thorough` (HYPOTHESIS_PROFILE=thorough) looks for new examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("normal", derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=5_000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))


def examples(normal: int) -> int:
    """How many examples a test takes: its own number, or what a thorough run asks for."""
    return normal if settings.default.max_examples < 1_000 else settings.default.max_examples
