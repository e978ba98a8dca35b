"""What a text costs in a provider's tokens, learnt from the usage it reports.

No public tokenizer exists for Claude, and o200k_base is 15-50 % off for it. But the number of tokens is close to linear
in a few things that we count once, at write time. So each model has a small Bayesian linear regression (a Kalman filter
without dynamics) from those counts to the input tokens that the provider reported, starting from a plausible prior,
and a safety margin: the largest share by which the newest observations exceeded today's estimate, and more for a request
that is unlike all of them (another script, images, far longer). No weight leaves the range that a tokenizer can have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import ceil, sqrt
from operator import le, mul
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Weights = tuple[float, ...]

# A byte-level tokenizer reports about 4.5 tokens per o200k token, Claude up to 1.5: the prior must be able to go there.
_PRIOR_STD = (200.0, 4.0, 0.6, 0.8, 0.6, 0.5)
# Tokens for a request, message, o200k token of Latin and of other scripts, byte, image token: the least and the most.
_LEAST = (0.0, 0.5, 0.1, 0.1, 0.0, 0.1)
_MOST = (4_000.0, 50.0, 8.0, 8.0, 1.0, 4.0)
_ALIKE = 0.8
_RELATIVE_NOISE = 0.01
_DRIFT = 1.005  # old observations fade, so that a provider's new tokenizer is learnt again
_MARGIN_WINDOW = 32
_MARGIN_FLOOR = 0.01
_UNSEEN_MARGIN = 0.10
_UNLIKE_STDS = 2.0  # of what the weights leave open about a request
_UNLIKE_MARGIN = 0.4  # at most
# Reports that contradict what is known mean a new tokenizer, once there are three in a row.
_CONTRADICTION_STDS = 6.0
_BELIEVED_AFTER = 3
_ABSURD_FACTOR = 2.0  # so far off that it does not widen the margin either
# No tokenizer makes more tokens than bytes, or far fewer than o200k_base; a provider adds some text of its own.
_HIDDEN_TOKENS, _HIDDEN_TOKENS_PER_MESSAGE = _MOST[:2]
_COARSEST = 0.2
_WORD_BEGINS = re.compile(r"\s[^\W_]")
CALIBRATED_AFTER = 20  # observations


def _prior_covariance() -> tuple[tuple[float, ...], ...]:
    """What is finer for one script than o200k_base is most likely finer for the others too."""
    covariance = np.diag(np.square(_PRIOR_STD))
    covariance[2, 3] = covariance[3, 2] = _ALIKE * _PRIOR_STD[2] * _PRIOR_STD[3]
    return tuple(map(tuple, covariance.tolist()))


_PRIOR_COVARIANCE = _prior_covariance()


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What we can count ourselves: rendered messages, o200k_base tokens by script, UTF-8 bytes, image tokens by size."""

    messages: int = 0
    latin: int = 0
    other: int = 0
    text_bytes: int = 0
    images: int = 0

    def __add__(self, more: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.messages + more.messages,
            self.latin + more.latin,
            self.other + more.other,
            self.text_bytes + more.text_bytes,
            self.images + more.images,
        )

    @classmethod
    def total(cls, counts: Iterable[TokenCounts]) -> TokenCounts:
        messages = latin = other = text_bytes = images = 0
        for c in counts:
            messages += c.messages
            latin += c.latin
            other += c.other
            text_bytes += c.text_bytes
            images += c.images
        return cls(messages, latin, other, text_bytes, images)

    @property
    def features(self) -> tuple[float, ...]:
        """What the weights of an estimate are for: of one request."""
        return (1.0, self.messages, self.latin, self.other, self.text_bytes, self.images)


class Observation(NamedTuple):
    """What a provider reported for a request, and what was counted of it."""

    messages: int
    latin: int
    other: int
    text_bytes: int
    images: int
    reported_tokens: int

    @classmethod
    def of(cls, counts: TokenCounts, reported_tokens: int) -> Self:
        return cls(counts.messages, counts.latin, counts.other, counts.text_bytes, counts.images, reported_tokens)

    @property
    def counts(self) -> TokenCounts:
        return TokenCounts(*self[:-1])

    @property
    def features(self) -> tuple[float, ...]:
        """As those of its counts."""
        return (1.0, *self[:-1])

    @property
    def is_possible(self) -> bool:
        """Whether any tokenizer could have made as many tokens of it."""
        most = self.text_bytes + _MOST[5] * self.images + _HIDDEN_TOKENS_PER_MESSAGE * self.messages + _HIDDEN_TOKENS
        return _COARSEST * (self.latin + self.other) < self.reported_tokens <= most


@dataclass(frozen=True)
class TokenEstimate:
    """Weights (tokens per request, message, latin token, other token, byte, image token) and their covariance.

    `recent` reports set the margin. `doubted` are the newest ones if they contradict the weights: not yet learnt from.
    """

    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    recent: tuple[Observation, ...] = ()
    observations: int = 0
    doubted: tuple[Observation, ...] = ()

    @classmethod
    def prior(cls, tokens_per_o200k_token: float) -> TokenEstimate:
        """The estimate for a model that has reported nothing yet."""
        weights = (4.0, 4.0, tokens_per_o200k_token, tokens_per_o200k_token, 0.0, 1.0)
        return cls(weights, _PRIOR_COVARIANCE)

    @property
    def calibrated(self) -> bool:
        return self.observations >= CALIBRATED_AFTER

    @cached_property
    def margin(self) -> float:
        """Share added to the plain estimate so that it is not exceeded."""
        if len(self.recent) < 3:
            return _UNSEEN_MARGIN
        excess = max([seen.reported_tokens / max(self._plain(seen.features), 1.0) - 1.0 for seen in self.recent])
        return max(excess, 0.0) + _MARGIN_FLOOR

    @property
    def error(self) -> float | None:
        """By what share the newest reports are off the plain estimate, on average; None before the first."""
        if not self.recent:
            return None
        off = (abs(seen.reported_tokens / max(self._plain(seen.features), 1.0) - 1.0) for seen in self.recent)
        return sum(off) / len(self.recent)

    def margin_for(self, counts: TokenCounts) -> float:
        """The margin for a request like this: wider when what was reported so far says little about it."""
        if len(self.recent) < 3:
            return _UNSEEN_MARGIN
        x = counts.features
        # Not with arrays: for six numbers these take longer.
        variance = _dot(x, [_dot(row, x) for row in self.covariance])
        spread = _UNLIKE_STDS * sqrt(max(variance, 0.0)) / max(self._plain(x), 1.0)
        return max(self.margin, min(spread, _UNLIKE_MARGIN))

    def scaled(self, like: TokenCounts | None = None) -> Scale:
        """The estimate as one linear function with its margin, for a request like this: what budgets are computed with."""
        factor = 1.0 + (self.margin if like is None else self.margin_for(like))
        return Scale(self.weights).times(factor)

    def observe(self, counts: TokenCounts, reported_tokens: int) -> TokenEstimate:
        """The estimate after a request with these counts was reported to have that many input tokens."""
        seen = Observation.of(counts, reported_tokens)
        if not seen.is_possible:
            return self
        if not self._is_contradicted_by(seen):
            return replace(self._learn(seen), doubted=())
        doubted = (*self.doubted, seen)
        if len(doubted) == _BELIEVED_AFTER:
            return reduce(TokenEstimate._learn, doubted, self._with_open_mind())
        is_absurd = not 1 / _ABSURD_FACTOR < reported_tokens / max(self._plain(seen.features), 1.0) < _ABSURD_FACTOR
        return replace(self, doubted=doubted, recent=self.recent if is_absurd else self._recent_and(seen))

    def _is_contradicted_by(self, seen: Observation) -> bool:
        x = np.array(seen.features)
        expected = self._plain(seen.features)
        variance = x @ np.array(self.covariance) @ x + _noise(expected)
        return bool(abs(seen.reported_tokens - expected) > _CONTRADICTION_STDS * sqrt(variance))

    def _with_open_mind(self) -> TokenEstimate:
        """What is known counts for no more than a prior."""
        return replace(self, covariance=_PRIOR_COVARIANCE, recent=(), doubted=())

    def _learn(self, seen: Observation) -> TokenEstimate:
        """One step of the Kalman filter, in Joseph's form, which keeps the covariance symmetric and positive."""
        x = np.array(seen.features)
        held = np.array(self.covariance)
        # Forget a little, but never know less than the prior did.
        fade = np.sqrt(np.minimum(_DRIFT, np.square(_PRIOR_STD) / np.diag(held)))
        spread = held * np.outer(fade, fade)
        noise = _noise(seen.reported_tokens)
        gain = spread @ x / (x @ spread @ x + noise)
        kept = np.eye(len(x)) - np.outer(gain, x)
        covariance = kept @ spread @ kept.T + noise * np.outer(gain, gain)
        weights = np.array(self.weights) + gain * (seen.reported_tokens - self._plain(seen.features))
        return replace(
            self,
            weights=_within_bounds(tuple(weights.tolist()), covariance.tolist()),
            covariance=tuple(map(tuple, ((covariance + covariance.T) / 2).tolist())),
            recent=self._recent_and(seen),
            observations=self.observations + 1,
        )

    def _recent_and(self, seen: Observation) -> tuple[Observation, ...]:
        return (*self.recent, seen)[-_MARGIN_WINDOW:]

    def _plain(self, features: Sequence[float]) -> float:
        return _dot(self.weights, features)

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "covariance": [list(row) for row in self.covariance],
            "recent": self.recent,
            "observations": self.observations,
            "doubted": self.doubted,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TokenEstimate:
        covariance = tuple(map(tuple, state["covariance"]))
        return cls(
            weights=_within_bounds(tuple(state["weights"]), covariance),
            covariance=covariance,
            recent=tuple(map(Observation._make, state["recent"])),
            observations=state["observations"],
            doubted=tuple(map(Observation._make, state.get("doubted", ()))),
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear estimate: counts in, tokens of the provider out."""

    weights: tuple[float, ...]

    def tokens(self, counts: TokenCounts) -> float:
        _, message, latin, other, byte, image = self.weights
        return (
            message * counts.messages
            + latin * counts.latin
            + other * counts.other
            + byte * counts.text_bytes
            + image * counts.images
        )

    def ceil(self, counts: TokenCounts) -> int:
        return ceil(self.tokens(counts))

    def at_least(self, text: str) -> int:
        """No more than `ceil` of what a text counts, without counting it: no token of o200k_base holds the beginnings of
        two words."""
        _, _, latin, other, byte, _ = self.weights
        return ceil(min(latin, other) * len(_WORD_BEGINS.findall(text)) + byte * len(text))

    def times(self, factor: float) -> Scale:
        return Scale(tuple(weight * factor for weight in self.weights))

    @property
    def per_request(self) -> int:
        """Tokens that a request costs before it says anything."""
        return ceil(self.weights[0])


def _dot(one: Iterable[float], other: Iterable[float]) -> float:
    products: Iterable[float] = map(mul, one, other)
    return sum(products)


def _within_bounds(weights: Weights, covariance: Sequence[Sequence[float]]) -> Weights:
    """The likeliest weights that a tokenizer can have: where one is held back, those that go with it make up for it."""
    if all(map(le, _LEAST, weights)) and all(map(le, weights, _MOST)):
        return weights
    moved, spread = np.array(weights), np.array(covariance)
    for _ in range(2 * len(weights)):
        off = np.clip(moved, _LEAST, _MOST) - moved
        worst = int(np.argmax(np.abs(off) / np.sqrt(np.diag(spread))))
        if off[worst] == 0:
            break
        moved = moved + spread[:, worst] * (off[worst] / spread[worst, worst])
    return tuple(np.clip(moved, _LEAST, _MOST).tolist())


def _noise(tokens: float) -> float:
    """Variance of what no linear estimate explains."""
    return (_RELATIVE_NOISE * tokens + 1.0) ** 2


def image_tokens(width: int, height: int) -> int:
    """Anthropic's rule: width x height / 750, after scaling the long edge down to 1568 pixels."""
    scale = min(1.0, 1568 / max(width, height, 1))
    return ceil(width * scale * height * scale / 750)
