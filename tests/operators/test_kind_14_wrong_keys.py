"""A wrong API key is told how the keys of this gateway begin, whatever is wrong with it, and is not repeated."""

import pytest

from tests.support.harness import Gateway
from tests.support.operators import Shows

BEGIN = "Keys of this gateway begin with 'sk-ig-'."
SECRET = "QcanaryQcanaryQcanaryQcanaryQcanary"

INPUTS = {
    "an OpenAI project key": f"Bearer sk-proj-{SECRET}",
    "a MiniMax key": f"Bearer eyJhbGciOi.{SECRET}",
    "an admin key": f"Bearer admin-{SECRET}",
    "a key cut short": "Bearer sk-ig-abcdefghij",
    "a key with a typing error": f"Bearer sk-ig-{SECRET}0000000!",
    "an unknown key": "Bearer sk-ig-" + "z" * 42,
    "a key in quotes": f'Bearer "sk-ig-{SECRET}0000000"',
    "Bearer twice": f"Bearer Bearer sk-ig-{SECRET}0000000",
    "a variable that the shell did not replace": "Bearer $IMAGEGATE_API_KEY",
    "the example of a document": "Bearer your-api-key-here",
}


@pytest.mark.shares_gateway
@pytest.mark.parametrize("given", INPUTS)
def test_a_wrong_key_is_told_how_keys_begin(gateway: Gateway, shows: Shows, given: str) -> None:
    answer = gateway.get("/v1/models", authorization=INPUTS[given])
    message = answer.json()["error"]["message"]
    shows(14, f"authorization: {given}", message)
    assert (401, True) == (answer.status_code, message.startswith("Incorrect API key provided: "))
    assert message.endswith(BEGIN)
    assert SECRET not in answer.text


@pytest.mark.shares_gateway
@pytest.mark.parametrize("given", ["", "Bearer", "Basic dXNlcjpwYXNz", "sk-ig-abc"])
def test_a_header_without_a_key_is_told_how_to_send_one(gateway: Gateway, shows: Shows, given: str) -> None:
    answer = gateway.get("/v1/models", authorization=given)
    message = answer.json()["error"]["message"]
    shows(14, f"authorization: {given}", message)
    assert (401, True) == (answer.status_code, message.endswith("'Authorization: Bearer sk-ig-...'."))
