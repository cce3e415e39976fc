"""OpenAI's SDK as the tests use it."""

from typing import Any

import httpx2
import openai


def sdk(base_url: str, key: str, **options: Any) -> openai.OpenAI:
    """Returns a client that need not be closed: no connection outlives its response."""
    return openai.OpenAI(base_url=base_url, api_key=key, http_client=closing(), **{"max_retries": 0} | options)


def closing() -> openai.DefaultHttpxClient:
    return openai.DefaultHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
