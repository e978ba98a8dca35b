"""Whether requests are taken, and how many are being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

_LOOK_AGAIN_SECONDS = 0.05


class Intake:
    """Set `draining`, and what comes is refused while what is in flight is finished.

    It is set by a signal, between any two steps of the event loop, and so is looked at instead of waited for.
    """

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While a request is being answered."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def until_idle(self, seconds: float, give_up: Callable[[], bool]) -> None:
        """Wait until all are answered, for `seconds` at most."""
        deadline = monotonic() + seconds
        while self.in_flight and monotonic() < deadline and not give_up():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
