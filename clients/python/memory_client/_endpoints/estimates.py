from __future__ import annotations

from memory_client._request import Request, api_path, delete, get
from memory_client.objects import Estimate, list_of


def list_() -> Request[list[Estimate]]:
    """What usage reports taught about the tokenizer of each model."""
    return get(api_path("estimates"), list_of(Estimate))


def delete_(*, provider: str, model: str) -> Request[None]:
    """Forget what was learnt of a model; its next prompts are estimated as if it had never reported."""
    return delete(api_path("estimates"), {"provider": provider, "model": model})
