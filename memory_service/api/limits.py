"""How many requests a key may make, and how many wrong keys an address may try.

Counted in this process: with several replicas behind a balancer each of them counts for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic

from memory_service.core.rate import Bucket
from memory_service.errors import RateLimited
from memory_service.store.projects import AuthenticatedKey, hash_key

_MAX_HELD = 10_000


class _Buckets:
    """By name, those used last; what falls out was long unused, and would be full again."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Bucket] = OrderedDict()

    def look(self, name: str, size: int) -> Bucket:
        now = monotonic()
        held = self._held.get(name)
        return held.at(now) if held and held.size == size else Bucket.full(size, now)

    def keep(self, name: str, bucket: Bucket) -> None:
        self._held[name] = bucket
        self._held.move_to_end(name)
        if len(self._held) > _MAX_HELD:
            self._held.popitem(last=False)


class Limits:
    """Both in requests a minute; 0 is no limit. `requests` is for keys that have none of their own."""

    def __init__(self, *, requests: int, wrong_keys: int) -> None:
        self._requests = requests
        self._wrong_keys = wrong_keys
        self._by_key = _Buckets()
        self._by_address = _Buckets()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def take(self, key: AuthenticatedKey) -> list[tuple[bytes, bytes]]:
        """Count a request. Returns headers that say what is left; raises RateLimited, with the same, when nothing is."""
        size = self._requests if key.requests_per_minute is None else key.requests_per_minute
        if not size:
            return []
        bucket = self._by_key.look(key.id, size)
        if not bucket.has_one:
            raise RateLimited(
                f"This API key may make {size} requests a minute; send it again in {bucket.seconds_to_one} s. "
                "MEMORY_REQUESTS_PER_MINUTE, or the key's own limit, allows more.",
                bucket.seconds_to_one,
                headers=_headers(bucket),
            )
        bucket = bucket.take()
        self._by_key.keep(key.id, bucket)
        return _headers(bucket)

    def check_address(self, address: str, key: str) -> None:
        """Raise RateLimited for an address that tried too many wrong keys, unless this key was right before: others may
        come from there too."""
        if not self._wrong_keys or hash_key(key) in self._good:
            return
        bucket = self._by_address.look(address, self._wrong_keys)
        if not bucket.has_one:
            raise RateLimited(
                f"Too many requests with a wrong API key; send it again in {bucket.seconds_to_one} s.",
                bucket.seconds_to_one,
            )

    def count_wrong_key(self, address: str, key: str) -> None:
        self._good.pop(hash_key(key), None)
        if self._wrong_keys:
            self._by_address.keep(address, self._by_address.look(address, self._wrong_keys).take())

    def count_good_key(self, key: str) -> None:
        self._good[hash_key(key)] = None
        if len(self._good) > _MAX_HELD:
            self._good.popitem(last=False)


def _headers(bucket: Bucket) -> list[tuple[bytes, bytes]]:
    values = (("limit", bucket.size), ("remaining", int(bucket.tokens)), ("reset", bucket.seconds_to_full))
    return [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in values]
