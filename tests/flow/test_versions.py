"""Two versions side by side on one Redis, as while one replaces the other: scripts go by their content."""

import hashlib
import shutil
from pathlib import Path

import pytest
import redis

import gateway
from gateway.metering.reservations import PARTS
from tests.support.harness import admin, new_key, simulating, wait_until
from tests.support.processes import ask_at_once, start_gateway, used, write_configuration

pytestmark = pytest.mark.slow

REQUESTS = 60


def other_version(folder: Path) -> Path:
    """The program with scripts of other texts, which do the same."""
    package = folder / "other" / "gateway"
    shutil.copytree(Path(gateway.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for script in package.rglob("*.lua"):
        script.write_text(f"-- Another version.\n{script.read_text()}")
    return package.parent


def settle_digest(package: Path) -> str:
    """Returns the digest of a version's settle.lua with the files that stand before it."""
    names = (name.split("/") for name in (*PARTS["settle"], "metering/settle"))
    text = "\n".join((package / room / "lua" / f"{script}.lua").read_text() for room, script in names)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def test_two_versions_share_one_redis_and_its_accounts(redis_url: str, tmp_path: Path) -> None:
    """An account with few lanes, so that each serves requests that the other's wait for; the books agree."""
    other = other_version(tmp_path)
    with simulating(latency_s=0.05) as simulator:
        configuration = write_configuration(tmp_path, redis_url, simulator.url, more="[server]\nshutdown_delay_s = 0\n")
        configuration.write_text(configuration.read_text().replace("max_concurrency = 10000", "max_concurrency = 4"))
        imported = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(other)}
        started = [start_gateway(configuration), start_gateway(configuration, secrets=imported)]
        try:
            urls = [url for _, url in started]
            key = new_key(urls[0], "acme")
            answers = ask_at_once(urls, key, [{"prompt": f"{number}", "n": 2} for number in range(REQUESTS)])
            wait_until(lambda: used(urls[1], "acme")["open_requests"] == 0, "everything is settled")
            totals = [admin(url, "GET", "/usage?tenant=acme").json()["total"]["images"] for url in urls]
            invoice = simulator.images_billed()
        finally:
            for process, _ in started:
                process.kill()
                process.wait()
    assert [200] * REQUESTS == [answer.status for answer in answers]
    assert [2 * REQUESTS] * 2 == totals
    assert 2 * REQUESTS == invoice
    settles = [settle_digest(root) for root in (Path(gateway.__file__).parent, other / "gateway")]
    assert settles[0] != settles[1]
    with redis.Redis.from_url(redis_url) as client:
        assert [True, True] == client.script_exists(*settles)
