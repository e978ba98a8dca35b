"""The token estimate: never below what a tokenizer counts, little above it, and not easily fooled."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.core.canonical import dumps
from memory_service.core.tokens import CALIBRATED_AFTER, TokenCounts, TokenEstimate
from tests.property.conftest import examples

Tokenizer = Callable[[TokenCounts], int]

TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": lambda c: c.text_bytes + 8 * c.messages + 12,
    "1.37": lambda c: round(1.37 * (c.latin + c.other) + 5 * c.messages + 7),
    "mixed": lambda c: round(1.31 * c.latin + 1.9 * c.other + 4 * c.messages + 9),
}


def _text(kind: str, tokens: int, rng: random.Random) -> TokenCounts:
    match kind:
        case "korean":
            return TokenCounts(1, tokens // 20, tokens, int(tokens * rng.uniform(5, 6.4)) + tokens // 5)
        case "code":
            return TokenCounts(1, tokens, 0, int(tokens * rng.uniform(2.6, 3.4)))
    return TokenCounts(1, tokens, 0, int(tokens * rng.uniform(3.8, 4.8)))


def prompts(kinds: Sequence[str], seed: int, count: int) -> Iterator[TokenCounts]:
    """The counts of successive prompts of a conversation: growing, trimmed, with recalled text or without."""
    rng = random.Random(seed)
    window: list[TokenCounts] = []
    for _ in range(count):
        window.append(_text(rng.choice(kinds), max(3, int(rng.lognormvariate(4.5, 1))), rng))
        if sum(m.latin + m.other for m in window) > 6_000:
            window = window[len(window) // 3 :]
        recalled = _text(rng.choice(kinds), rng.choice([1, 200, 330]), rng)
        yield TokenCounts.total([TokenCounts(0, 300, 0, 1_300), *window, recalled])


def predict(estimate: TokenEstimate, counts: TokenCounts) -> int:
    scale = estimate.scaled(like=counts)
    return scale.ceil(counts) + scale.per_request


def learn(estimate: TokenEstimate, tokenizer: Tokenizer, seen: Iterator[TokenCounts]) -> TokenEstimate:
    for counts in seen:
        estimate = estimate.observe(counts, tokenizer(counts))
    return estimate


def is_sane(estimate: TokenEstimate) -> bool:
    covariance = np.array(estimate.covariance)
    return bool(
        np.isfinite(covariance).all()
        and np.isfinite(estimate.weights).all()
        and np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9)
        and (np.diag(covariance) > 0).all()
        and np.linalg.eigvalsh((covariance + covariance.T) / 2).min() > -1e-6
    )


@pytest.mark.parametrize("kinds", [["english"], ["english", "code"], ["english", "korean"], ["korean"]], ids="+".join)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prior", [1.0, 1.5])
def test_twenty_reports_are_enough(name: str, kinds: list[str], prior: float) -> None:
    for seed in range(2):
        estimate = TokenEstimate.prior(prior)
        for number, counts in enumerate(prompts(kinds, seed, 520)):
            true = TOKENIZERS[name](counts)
            if number >= CALIBRATED_AFTER:
                assert true <= predict(estimate, counts) <= 1.05 * true
            estimate = estimate.observe(counts, true)
        assert estimate.calibrated
        assert is_sane(estimate)


def test_before_any_report_the_prior_errs_on_the_safe_side() -> None:
    counts = next(prompts(["english"], 1, 1))
    assert predict(TokenEstimate.prior(1.5), counts) > 1.5 * counts.latin


def test_ten_thousand_reports() -> None:
    estimate = learn(TokenEstimate.prior(1.0), TOKENIZERS["mixed"], prompts(["english", "korean"], 3, 10_000))
    assert is_sane(estimate)
    for counts in prompts(["english", "korean"], 4, 100):
        true = TOKENIZERS["mixed"](counts)
        assert true <= predict(estimate, counts) <= 1.05 * true + 100  # short prompts were not seen for long


def test_the_same_prompt_ten_thousand_times_and_then_another() -> None:
    """Nothing is learnt of what does not vary, and nothing blows up."""
    counts = next(prompts(["english"], 1, 1))
    estimate = learn(TokenEstimate.prior(1.0), TOKENIZERS["1.37"], (counts for _ in range(10_000)))
    assert is_sane(estimate)
    estimate = learn(estimate, TOKENIZERS["1.37"], prompts(["english"], 2, 20))
    for other in prompts(["english"], 5, 50):
        true = TOKENIZERS["1.37"](other)
        assert true <= predict(estimate, other) <= 1.05 * true


@pytest.mark.parametrize(
    ("before", "after"), [("1.37", "bytes"), ("bytes", "1.37"), ("1.37", "mixed"), ("mixed", "1.37")]
)
def test_a_new_tokenizer_is_learnt(before: str, after: str) -> None:
    kinds = ["english", "korean"]
    estimate = learn(TokenEstimate.prior(1.0), TOKENIZERS[before], prompts(kinds, 6, 200))
    for number, counts in enumerate(prompts(kinds, 7, 300)):
        true = TOKENIZERS[after](counts)
        if number >= CALIBRATED_AFTER:
            assert true <= predict(estimate, counts)
        if number >= 250:
            assert predict(estimate, counts) <= 1.05 * true
        estimate = estimate.observe(counts, true)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("at", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("absurd", [lambda true: 10 * true, lambda true: 0, lambda true: 1], ids=["10x", "0", "1"])
def test_one_absurd_report_does_no_harm(name: str, at: int, absurd: Callable[[int], int]) -> None:
    tokenizer = TOKENIZERS[name]
    estimate = TokenEstimate.prior(1.0)
    for number, counts in enumerate(prompts(["english", "korean"], 8, 80)):
        true = tokenizer(counts)
        if number == at:
            estimate = estimate.observe(counts, absurd(true))
        if number >= max(at + 1, CALIBRATED_AFTER):
            assert true <= predict(estimate, counts) <= 1.05 * true
        estimate = estimate.observe(counts, true)
    assert is_sane(estimate)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_impossible_report_is_not_believed_even_when_it_is_the_first(name: str) -> None:
    """A first report of ten times the truth would have every later prompt refused, and so never be corrected."""
    prior = TokenEstimate.prior(1.0)
    *_, counts = prompts(["english"], 9, 40)
    true = TOKENIZERS[name](counts)
    assert prior.observe(counts, 10 * true) == prior.observe(counts, 0) == prior.observe(counts, 1) == prior
    assert prior.observe(counts, true) != prior


counts_strategy = st.builds(
    TokenCounts,
    st.integers(0, 3_000),
    st.integers(0, 1_000_000),
    st.integers(0, 1_000_000),
    st.integers(0, 5_000_000),
    st.integers(0, 100_000),
)


SOME_ENGLISH = next(prompts(["english"], 12, 1))
ONE_OF_EACH = [
    TokenCounts(messages=1),
    TokenCounts(latin=1, text_bytes=1),
    TokenCounts(other=1, text_bytes=1),
    TokenCounts(images=1),
]


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(counts_strategy, st.integers(0, 2**31)), max_size=30), counts_strategy)
def test_whatever_is_reported_the_estimate_stays_finite(
    reports: list[tuple[TokenCounts, int]], counts: TokenCounts
) -> None:
    estimate = TokenEstimate.prior(1.0)
    for seen, reported in reports:
        estimate = estimate.observe(seen, reported)
        assert TokenEstimate.from_json(json.loads(dumps(estimate.to_json()))) == estimate
    assert is_sane(estimate)
    assert 0 <= estimate.margin <= estimate.margin_for(counts)
    assert 0 <= predict(estimate, counts) < 10**12
    scale = estimate.scaled(like=counts)
    for more in ONE_OF_EACH:
        assert scale.tokens(counts + more) > scale.tokens(counts)
        assert scale.tokens(more) > 0


@settings(max_examples=examples(100))
@given(
    st.tuples(st.floats(0.5, 2.5), st.floats(0.5, 5), st.floats(0, 1), st.integers(1, 20), st.integers(0, 500)),
    st.lists(st.sampled_from(["english", "code", "korean"]), min_size=1, unique=True),
    st.integers(0, 99),
)
def test_after_twenty_reports_no_prompt_is_over_whatever_the_tokenizer(
    weights: tuple[float, float, float, int, int], kinds: list[str], seed: int
) -> None:
    latin, other, of_bytes, message, request = weights

    def tokenizer(c: TokenCounts) -> int:
        words = (1 - of_bytes) * (latin * c.latin + other * c.other) + of_bytes * c.text_bytes
        return round(words) + message * c.messages + request

    seen = prompts(kinds, seed, 60)
    estimate = learn(TokenEstimate.prior(1.0), tokenizer, islice(seen, CALIBRATED_AFTER))
    for counts in seen:
        true = tokenizer(counts)
        assert true <= predict(estimate, counts) <= 1.25 * true
        estimate = estimate.observe(counts, true)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("unlike", ["korean", "image"])
def test_what_was_never_seen_is_estimated_with_care(name: str, unlike: str) -> None:
    """Korean after English only, or an image after text: a wider margin, and not over."""
    estimate = learn(TokenEstimate.prior(1.0), TOKENIZERS[name], prompts(["english"], 10, 40))
    for text in prompts(["english" if unlike == "image" else unlike], 11, 30):
        counts = replace(text, images=3_000) if unlike == "image" else text
        assert estimate.margin_for(counts) > 3 * estimate.margin_for(text if unlike == "image" else SOME_ENGLISH)
        assert TOKENIZERS[name](counts) + counts.images <= predict(estimate, counts)


@given(st.lists(counts_strategy, max_size=8))
def test_counts_add_up(counts: list[TokenCounts]) -> None:
    added = TokenCounts()
    for count in counts:
        added += count
    assert TokenCounts.total(counts) == added
