"""Rates, by token bucket: a bucket is full at first, each request takes one token, and they come back evenly."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Self


@dataclass(frozen=True, slots=True)
class Bucket:
    """Of a size that is also what comes back in a minute. `tokens` are those at `seconds`."""

    size: int
    tokens: float
    seconds: float

    @classmethod
    def full(cls, size: int, seconds: float) -> Self:
        return cls(size, size, seconds)

    def at(self, seconds: float) -> Bucket:
        back = max(0.0, seconds - self.seconds) * self.size / 60
        return Bucket(self.size, min(self.size, self.tokens + back), max(seconds, self.seconds))

    def take(self) -> Bucket:
        return Bucket(self.size, max(0.0, self.tokens - 1), self.seconds)

    @property
    def has_one(self) -> bool:
        return self.tokens >= 1

    @property
    def seconds_to_one(self) -> int:
        """Until a token is there, rounded up."""
        return ceil(max(0.0, 1 - self.tokens) * 60 / self.size)

    @property
    def seconds_to_full(self) -> int:
        return ceil((self.size - self.tokens) * 60 / self.size)
