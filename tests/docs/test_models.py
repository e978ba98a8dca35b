"""docs/models.md has every field of a model, and its example is taken."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from memory_service.core.pricing import Model, find_model
from memory_service.runtime import load_models
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "models.md").read_text()


def test_every_field_is_listed() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == {field.name for field in fields(Model)}


def test_the_example_is_taken(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    path = tmp_path / "models.json"
    path.write_text(example)
    model = find_model(load_models(path), "openai", "llama-3.3-70b-2026-03-01")
    assert model.cost_usd(1_000_000, 0, 1_000_000) == 0.66
