"""Every kind of price through the front door: the client's header, the record, the sums and the FOCUS export agree."""

import csv
import io
import json
import threading
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, admin, new_key, upstream, wait_until
from tests.support.loading import records, wait_until_settled
from tests.support.processes import start_gateway, used, write_configuration

FLAT = {"per": "image", "amount": "0.05"}
BY_SIZE = {
    "per": "variant",
    "variants": [{"size": "1280x720", "amount": "0.02"}, {"size": "1024x1024", "amount": "0.03"}],
}
MEGAPIXEL = {"per": "megapixel", "amount": "0.03", "largest_size": "2048x2048"}
TOKENS = {"per": "token", "text_input": "5", "output": "30", "input_tokens_max": 100, "output_tokens_max": 1000}
STATED = {"per": "answer", "amount_max": "0.2"}
CASES: list[tuple[str, dict[str, object], str, str, str | None]] = [
    ("flat", {"price": FLAT}, "0.10", "answer", "0.007"),
    ("wide", {"price": BY_SIZE}, "0.04", "answer", "0.007"),
    ("pixels", {"price": MEGAPIXEL}, "0.055296", "answer", "0.007"),
    ("tokens", {"price": TOKENS}, "0.0605", "reservation", "0.007"),
    ("stated", {"price": STATED}, "0.40", "reservation", "0.007"),
    ("published", {}, "0.007", "answer", "0.007"),
    ("own", {"cost": FLAT}, "0.10", "answer", "0.10"),
    ("unknown", {"price": FLAT, "cost": TOKENS}, "0.10", "answer", None),
]
"""Model, its table and its target's cost, the charge of two images of 1280x720, its basis, and the provider's cost."""


def models() -> list[dict[str, Any]]:
    made = []
    for name, table, *_ in CASES:
        target = {"upstream": "sim", "model": "image-01"} | {key: table[key] for key in table if key == "cost"}
        made.append({"id": name, "targets": [target]} | {key: table[key] for key in table if key != "cost"})
    return made


def test_what_the_client_is_told_is_what_every_book_has(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(models=models())
    for name, _, charge, _, _ in CASES:
        answer = gateway.generate(model=name, prompt="a cat", n=2, size="1280x720", response_format="url")
        assert (name, 200, charge) == (name, answer.status_code, answer.headers.get("x-imagegate-cost-usd"))
    records = {record["model"]: record for record in gateway.admin("GET", "/usage/records").json()["data"]}
    assert {name: tuple(found) for name, _, *found in CASES} == {
        name: (record["usd"], record["price_basis"], record["cost_usd"]) for name, record in records.items()
    }
    assert [] == gateway.admin("GET", "/usage/verify").json()["differences"]
    total = sum(Decimal(charge) for _, _, charge, _, _ in CASES)
    assert total == Decimal(gateway.admin("GET", "/usage?by=model").json()["total"]["usd"])
    assert total == focus_total(gateway)


def focus_total(gateway: Gateway) -> Decimal:
    """The sum of the export, in which every unit price times its quantity is the cost."""
    exported = gateway.admin("GET", "/usage/export?format=focus").text
    rows = list(csv.DictReader(io.StringIO(exported)))
    for row in rows:
        assert Decimal(row["BilledCost"]) == Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]), row
    return sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))


@pytest.mark.parametrize(("prefer", "expected"), [("first", "unknown"), ("cheapest", "cheap")])
def test_a_model_tries_its_targets_in_order_or_the_cheapest_first(
    make_gateway: MakeGateway, simulator: Simulator, prefer: str, expected: str
) -> None:
    names = ("unknown", "dear", "cheap")
    sites = [upstream(name, "minimax", simulator.url, f"main:{name}-1") for name in names]
    costs = {"dear": {"per": "image", "amount": "0.5"}, "cheap": {"per": "image", "amount": "0.1"}}
    targets: list[dict[str, object]] = [{"upstream": name, "model": "image-01-live"} for name in names]
    for target, name in zip(targets, names, strict=True):
        target.update({"cost": costs[name]} if name in costs else {})
    model = {"id": "any", "price_per_image_usd": "0.01", "prefer": prefer, "targets": targets}
    gateway = make_gateway(*sites, models=[model])
    assert 200 == gateway.generate(prompt="a cat", response_format="url").status_code
    [record] = gateway.admin("GET", "/usage/records").json()["data"]
    assert (expected, "0.01") == (record["upstream"], record["usd"])


@pytest.mark.slow
def test_a_gateway_killed_during_a_call_leaves_the_charge_that_it_reserved(
    redis_url: str, slow_simulator: Simulator, tmp_path: Path
) -> None:
    """And its quota: another gateway settles the request, whose tokens no process has seen."""
    more = (
        f'[[models]]\nid = "tokens"\ntargets = [{{ upstream = "sim", model = "image-01" }}]\nprice = {_toml(TOKENS)}\n'
    )
    configuration = write_configuration(tmp_path, redis_url, slow_simulator.url, lease_s=2, more=more)
    process, url = start_gateway(configuration)
    other, other_url = start_gateway(configuration)
    try:
        key = new_key(url, "acme")
        asked = threading.Thread(target=_ask, args=(url, key))
        asked.start()
        wait_until(lambda: used(other_url, "acme")["open_requests"] == 1, "the request is admitted")
        time.sleep(1)  # its call is under way for three seconds
        process.kill()
        process.wait()
        asked.join()
        wait_until_settled(other_url)
        [record] = records(other_url, "acme")
        counters, verified = used(other_url, "acme"), admin(other_url, "GET", "/usage/verify?tenant=acme").json()
    finally:
        for running in (process, other):
            running.kill()
            running.wait()
    assert ("unconfirmed", 2, "0.0605", None) == tuple(
        record[name] for name in ("outcome", "unconfirmed", "usd", "cost_usd")
    )
    assert ("0.0605", []) == (str(counters["usd_this_month"]), verified["differences"])


def _ask(url: str, key: str) -> None:
    with suppress(httpx.TransportError):
        headers = {"authorization": f"Bearer {key}"}
        httpx.post(f"{url}/v1/images/generations", json={"model": "tokens", "prompt": "a", "n": 2}, headers=headers)


def _toml(table: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items()) + " }"
