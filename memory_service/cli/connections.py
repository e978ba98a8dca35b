"""Connections on which no request comes, or only the beginning of one."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which closes a connection whose next request's head is not there in time.

    uvicorn itself waits for ever for a first request, and for the rest of any head. A body has a limit of its own, see
    `api.limits`.
    """

    class Impatient(H11Protocol):
        _head_due: float | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._await_head()
            else:
                self._head_due = None

        def _await_head(self) -> None:
            # Every byte that comes clears uvicorn's timer for idle connections; drops do not move ours.
            self._unset_keepalive_if_required()
            self._head_due = self._head_due or self.loop.time() + seconds
            self.timeout_keep_alive_task = self.loop.call_at(self._head_due, self.timeout_keep_alive_handler)

    return Impatient
