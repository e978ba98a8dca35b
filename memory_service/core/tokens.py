"""What a text costs in a provider's tokens, learnt from the usage it reports.

No public tokenizer exists for Claude, and o200k_base is 15-50 % off for it. But the number of tokens is close to linear
in a few things that we count once, at write time. So each model has a small Bayesian linear regression (a Kalman filter
without dynamics) from those counts to the input tokens that the provider reported, starting from a plausible prior,
and a safety margin: the largest share by which the newest observations exceeded today's estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

# A byte-level tokenizer reports about 4.5 tokens per o200k token, Claude up to 1.5: the prior must be able to go there.
_PRIOR_STD = (8.0, 4.0, 0.6, 0.8, 0.6, 0.5)
_RELATIVE_NOISE = 0.01
_DRIFT = 1.005  # old observations fade, so that a provider's new tokenizer is learnt again
_MARGIN_WINDOW = 32
_MARGIN_FLOOR = 0.005
_UNSEEN_MARGIN = 0.10
CALIBRATED_AFTER = 20  # observations


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

    def features(self, requests: int) -> tuple[float, ...]:
        return (float(requests), self.messages, self.latin, self.other, self.text_bytes, self.images)


@dataclass(frozen=True, slots=True)
class Observation:
    counts: TokenCounts
    reported_tokens: int


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Weights (tokens per request, message, latin token, other token, byte, image token) and their covariance."""

    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    recent: tuple[Observation, ...] = ()
    observations: int = 0

    @classmethod
    def prior(cls, tokens_per_o200k_token: float) -> TokenEstimate:
        """The estimate for a model that has reported nothing yet."""
        size = len(_PRIOR_STD)
        return cls(
            weights=(4.0, 4.0, tokens_per_o200k_token, tokens_per_o200k_token, 0.0, 1.0),
            covariance=tuple(tuple(_PRIOR_STD[i] ** 2 if i == j else 0.0 for j in range(size)) for i in range(size)),
        )

    @property
    def calibrated(self) -> bool:
        return self.observations >= CALIBRATED_AFTER

    @property
    def margin(self) -> float:
        """Share added to the plain estimate so that it is not exceeded."""
        if len(self.recent) < 3:
            return _UNSEEN_MARGIN
        excess = max(seen.reported_tokens / max(self._plain(seen.counts, 1), 1.0) - 1.0 for seen in self.recent)
        return max(excess, 0.0) + _MARGIN_FLOOR

    def scaled(self) -> Scale:
        """The estimate as one linear function, margin included: what budgets are computed with."""
        factor = 1.0 + self.margin
        return Scale(tuple(weight * factor for weight in self.weights))

    def observe(self, counts: TokenCounts, reported_tokens: int) -> TokenEstimate:
        """The estimate after a request with these counts was reported to have that many input tokens."""
        x = counts.features(1)
        size = range(len(x))
        # Forget a little, but never know less than the prior did.
        fade = [min(_DRIFT, _PRIOR_STD[i] ** 2 / self.covariance[i][i]) ** 0.5 for i in size]
        spread = [[self.covariance[i][j] * fade[i] * fade[j] for j in size] for i in size]
        px = [sum(spread[i][j] * x[j] for j in size) for i in size]
        noise = (_RELATIVE_NOISE * reported_tokens + 1.0) ** 2
        gain_scale = 1.0 / (sum(x[i] * px[i] for i in size) + noise)
        error = reported_tokens - self._plain(counts, 1)
        return replace(
            self,
            weights=tuple(self.weights[i] + px[i] * gain_scale * error for i in size),
            covariance=tuple(tuple(spread[i][j] - px[i] * px[j] * gain_scale for j in size) for i in size),
            recent=(*self.recent, Observation(counts, reported_tokens))[-_MARGIN_WINDOW:],
            observations=self.observations + 1,
        )

    def _plain(self, counts: TokenCounts, requests: int) -> float:
        return sum(w * f for w, f in zip(self.weights, counts.features(requests), strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "covariance": [list(row) for row in self.covariance],
            "recent": [[*seen.counts.features(0)[1:], seen.reported_tokens] for seen in self.recent],
            "observations": self.observations,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TokenEstimate:
        def observation(row: Sequence[float]) -> Observation:
            *counts, reported = (int(cell) for cell in row)
            return Observation(TokenCounts(*counts), reported)

        return cls(
            weights=tuple(state["weights"]),
            covariance=tuple(tuple(row) for row in state["covariance"]),
            recent=tuple(observation(row) for row in state["recent"]),
            observations=state["observations"],
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear estimate: counts in, tokens of the provider out, never less than nothing."""

    weights: tuple[float, ...]

    def tokens(self, counts: TokenCounts) -> float:
        _, message, latin, other, byte, image = self.weights
        return max(
            0.0,
            message * counts.messages
            + latin * counts.latin
            + other * counts.other
            + byte * counts.text_bytes
            + image * counts.images,
        )

    def ceil(self, counts: TokenCounts) -> int:
        return ceil(self.tokens(counts))

    @property
    def per_request(self) -> int:
        """Tokens that a request costs before it says anything."""
        return ceil(max(0.0, self.weights[0]))


def image_tokens(width: int, height: int) -> int:
    """Anthropic's rule: width x height / 750, after scaling the long edge down to 1568 pixels."""
    scale = min(1.0, 1568 / max(width, height, 1))
    return ceil(width * scale * height * scale / 750)
