"""What providers report, and what it costs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_service.core.pricing import Model, find_model, provider_of
from memory_service.core.usage import ReportedUsage, check_form, cost_of
from memory_service.errors import InvalidInput
from memory_service.runtime import load_models
from tests.property.simulator import CLAUDE, UNPRICED


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"input_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 3},
            ReportedUsage(100, 20, 7, 3),
        ),
        ({"input_tokens": 7, "cache_read_input_tokens": None, "output_tokens": 3}, ReportedUsage(0, 0, 7, 3)),
        (
            {"prompt_tokens": 130, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 100}},
            ReportedUsage(100, 0, 30, 3),
        ),
        (
            {
                "input_tokens": 130,
                "output_tokens": 3,
                "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 20},
            },
            ReportedUsage(100, 20, 10, 3),
        ),
        (
            {
                "input_tokens": 7,
                "cache_creation_input_tokens": 20,
                "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
            },
            ReportedUsage(0, 20, 7, 0, 15),
        ),
        (
            {
                "input_tokens": 7,
                "cache_creation_input_tokens": 20,
                "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
            },
            ReportedUsage(0, 20, 7, 0, 0),
        ),
        ({"input_tokens": 7, "cache_creation_input_tokens": 20, "cache_creation": {}}, ReportedUsage(0, 20, 7, 0)),
        (
            {
                "input_tokens": 130,
                "input_tokens_details": {
                    "cache_write_tokens": 20,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 8, "ttl_12h_tokens": 12},
                },
            },
            ReportedUsage(0, 20, 110, 0, 12),
        ),
        ({"prompt_tokens": 5, "prompt_tokens_details": None}, ReportedUsage(0, 0, 5, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, ReportedUsage(9, 0, 0, 0)),
    ],
)
def test_usage_of_any_provider(usage: dict[str, Any], expected: ReportedUsage) -> None:
    assert ReportedUsage.parse(usage) == expected


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        ({}, "usage"),
        ({"output_tokens": 3}, "usage"),
        ({"input_tokens": -1}, "usage.input_tokens"),
        ({"input_tokens": True}, "usage.input_tokens"),
        ({"input_tokens": 1.5}, "usage.input_tokens"),
        ({"prompt_tokens": 2**31}, "usage.prompt_tokens"),
    ],
)
def test_what_is_no_usage_is_refused(usage: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ReportedUsage.parse(usage)
    assert refused.value.details["field"] == field


OPENAI = {"prompt_tokens": 5, "completion_tokens": 1}
RESPONSES = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 0}}
ANTHROPIC = {"input_tokens": 5}


@pytest.mark.parametrize(
    ("provider", "own", "foreign"),
    [("anthropic", [ANTHROPIC], [OPENAI, RESPONSES]), ("openai", [OPENAI, RESPONSES], [ANTHROPIC])],
)
def test_whose_usage_it_is(provider: str, own: list[dict[str, Any]], foreign: list[dict[str, Any]]) -> None:
    for usage in [*own, {**OPENAI, **ANTHROPIC}]:  # some gateways send both
        check_form(usage, provider)
    for usage in foreign:
        check_form(usage, "echo")
        with pytest.raises(InvalidInput, match="was built for"):
            check_form(usage, provider)


def test_costs() -> None:
    assert CLAUDE.cost_usd(1_000_000, 1_000_000, 1_000_000) == pytest.approx(0.5 + 6.25 + 5)
    assert CLAUDE.cost_usd(0, 1_000_000, 0, "1h") == pytest.approx(10)
    assert CLAUDE.cost_usd(0, 1_000_000, 0, "1h", written_1h=400_000) == pytest.approx(0.6 * 6.25 + 0.4 * 10)
    assert UNPRICED.cost_usd(1, 1, 1) is None
    free = Model("echo", "echo", "anthropic_breakpoints", input_usd=0.0, cache_read_usd=0.0)
    assert free.read_ratio is None
    assert free.cost_usd(1, 1, 1) == 0


@pytest.mark.parametrize(
    ("said", "ttl", "usd"), [(None, "5m", 6.25), (None, "1h", 10), (0, "1h", 6.25), (10**6, "5m", 10)]
)
def test_what_the_provider_says_of_lifetimes_wins(said: int | None, ttl: str, usd: float) -> None:
    cost = cost_of(CLAUDE, ReportedUsage(0, 1_000_000, 0, 0, said), ttl)
    assert (cost.usd, cost.usd_uncached) == (pytest.approx(usd), pytest.approx(5))


def test_costs_beyond_a_price_cliff() -> None:
    steep = replace(CLAUDE, price_cliff_tokens=1_000, price_cliff_ratio=2.0, price_cliff_output_ratio=1.5)
    assert steep.cost_usd(500, 300, 200) == CLAUDE.cost_usd(500, 300, 200)
    assert steep.cost_usd(500, 300, 201) == pytest.approx(2 * (CLAUDE.cost_usd(500, 300, 201) or 0))
    assert steep.output_cost_usd(100, 1_000) == CLAUDE.output_cost_usd(100)
    assert steep.output_cost_usd(100, 1_001) == pytest.approx(1.5 * (CLAUDE.output_cost_usd(100) or 0))


def test_the_shipped_table_is_dated_and_consistent() -> None:
    table = load_models()
    assert len({(model.provider, model.name) for model in table}) == len(table)
    for model in table:
        if model.provider == "echo":
            continue
        assert model.input_usd
        assert model.read_ratio is not None
        assert 0 < model.read_ratio <= 0.5 < (model.write_ratio("5m") or 0) <= (model.write_ratio("1h") or 0)
        assert (model.output_usd or 0) > model.input_usd
        assert (model.context_tokens or 0) > (model.price_cliff_tokens or 0)
        assert (model.price_cliff_ratio > 1) is (model.price_cliff_tokens is not None)
        # A name with a dot and the one that the API takes, with a dash, are the same model.
        twin = find_model(table, model.provider, model.name.replace(".", "-"))
        if twin.input_usd is not None:
            assert replace(twin, name=model.name) == model


def test_an_operators_entries_win(tmp_path: Path) -> None:
    own = {"name": "gpt-4o", "provider": "openai", "cache_rule": "longest_prefix", "input_usd": 1.5}
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": [own]}))
    assert find_model(load_models(path), "openai", "gpt-4o").input_usd == 1.5
    assert find_model(load_models(path), "openai", "gpt-4o-mini").input_usd == 0.15


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cache_rule": "none"}, "'cache_rule' of 'mine': input should be 'anthropic_breakpoints', "),
        ({"input_usd": "1.5"}, "'input_usd' of 'mine': input should be a valid number"),
        ({"provider": "ollama"}, "'provider' of 'mine': input should be 'anthropic', 'openai' or 'echo'"),
        ({"inptu_usd": 1.5}, "unknown field 'inptu_usd' in 'mine'"),
    ],
)
def test_an_operators_entry_is_checked_before_a_prompt_needs_it(
    wrong: dict[str, object], said: str, tmp_path: Path
) -> None:
    own = {"name": "mine", "provider": "openai", "cache_rule": "longest_prefix", "cache_read_usd": 1} | wrong
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": [own]}))
    with pytest.raises(InvalidInput, match=re.escape(said)):
        load_models(path)


def test_an_operators_entry_needs_a_name(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"models": [{"provider": "openai"}]}')
    with pytest.raises(InvalidInput, match=r"cannot be read \(KeyError\); it holds"):
        load_models(path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-latest", "gpt-4o-mini"),
        ("gpt-4o-audio", None),
    ],
)
def test_a_dated_version_has_the_price_of_its_model(name: str, found: str | None) -> None:
    table = [Model("gpt-4o", "openai", "longest_prefix", 2.5), Model("gpt-4o-mini", "openai", "longest_prefix", 0.15)]
    model = find_model(table, "openai", name)
    assert model.input_usd == (None if found is None else find_model(table, "openai", found).input_usd)
    assert provider_of(table, name) == ("openai" if found else None)


def test_an_unknown_model_has_the_rule_of_its_provider() -> None:
    assert find_model([], "anthropic", "x").cache_rule == "anthropic_breakpoints"
    assert find_model([], "elsewhere", "x").cache_rule == "longest_prefix"
