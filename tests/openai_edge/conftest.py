"""OpenAI's own SDK, pointed at a service whose providers are scripted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider
from tests.runs.conftest import provider, scripted_provider, settings_of

__all__ = ["provider", "scripted_provider"]

#: What the SDK says of all that it does with assistants and threads.
DEPRECATED_API = [
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The Assistants API:DeprecationWarning"),
]


@pytest.fixture(scope="session")
def service(database_url: str, scripted_provider: ScriptedProvider) -> Iterator[Service]:
    served = Service.start(env={**settings_of(database_url, scripted_provider), "MEMORY_MAX_BODY_BYTES": "1000000"})
    yield served
    served.stop()


def sdk(service: Service, key: str) -> OpenAI:
    """Without retries: what is refused is to be seen."""
    return OpenAI(base_url=f"{service.url}/openai/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
def client(service: Service, api_key: str, provider: ScriptedProvider) -> Iterator[OpenAI]:
    assert provider
    with sdk(service, api_key) as made:
        yield made


@pytest.fixture
def other_client(service: Service, other_api: httpx2.Client) -> Iterator[OpenAI]:
    with sdk(service, other_api.headers["authorization"].removeprefix("Bearer ")) as made:
        yield made


@pytest.fixture
def edge(service: Service, api_key: str) -> Iterator[httpx2.Client]:
    """The same without an SDK in between."""
    headers = {"authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=f"{service.url}/openai/v1", headers=headers, timeout=30) as made:
        yield made


def refused(call: Any) -> openai.APIStatusError:
    """How a call is refused, in OpenAI's form."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    error = caught.value
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert error.request_id
    assert error.request_id.startswith("req_")
    return error
