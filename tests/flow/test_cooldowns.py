"""Which cooldown a provider's own code causes, through the whole program."""

from tests.support.harness import MakeGateway, Simulator, upstream


def test_minimaxs_2056_takes_its_account_out_for_five_hours(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "window:window-1"))

    answer = gateway.post("/v1/images/generations", {"model": "image-01", "prompt": "a cat"}, x_imagegate_max_wait="0")

    assert 503 == answer.status_code
    [pool] = gateway.admin("GET", "/pool").json()["data"]
    [account] = pool["accounts"]
    assert ("cooling", "quota_exhausted_plan") == (account["state"], account["error_code"])
    assert 17_998 <= account["until"] - account["since"] <= 18_002
