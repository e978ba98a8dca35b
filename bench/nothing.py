"""An ASGI application that does nothing, served as the service is: what HTTP alone costs, and the most that the
load generator can do."""

from __future__ import annotations

import uvicorn
from starlette.types import Receive, Scope, Send

from memory_service.cli.serve import address_of, listen


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(nothing, lifespan="off", log_config=None, access_log=False))
    print(address_of(listener), flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
