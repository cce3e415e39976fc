"""Black Forest Labs: what an answer to a question says of its task."""

import json

import pytest

from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageReply, ResponseFormat
from gateway.domain.tasks import Task
from gateway.providers.bfl import BlackForestLabs
from gateway.providers.replies import UpstreamResponse


def asked(http: int, **answer: object) -> ImageReply | GatewayError | None:
    reply = UpstreamResponse(http, bytearray(json.dumps(answer).encode()))
    return BlackForestLabs().read_poll(reply, Task("one"), ResponseFormat.URL)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_ends_no_task(status: int) -> None:
    with pytest.raises(GatewayError):
        asked(status, status="Error")


@pytest.mark.parametrize(("cost", "usd_micros"), [(3.5, 35_000), (-1, None), (1e300, None), ("3", None)])
def test_a_cost_that_is_no_amount_is_unknown(cost: object, usd_micros: int | None) -> None:
    made = asked(200, status="Ready", result={"sample": "https://delivery.bfl.ai/a.jpg"}, cost=cost)
    assert isinstance(made, ImageReply)
    assert usd_micros == made.stated_usd_micros
