"""Forms that lie, stop, break or are too large, and that nothing of any remains."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.support.forms import (
    BOUNDARY,
    EDITS,
    PNG,
    PROMPT,
    edit,
    form,
    image,
    large,
    part,
    send,
    spooled_bytes,
    temporary_files,
)
from tests.support.harness import Gateway, MakeGateway, Simulator, new_key, wait_until
from tests.support.memory import MB, held
from tests.support.strangers import connected, replies

pytestmark = pytest.mark.slow


def begin(gateway: Gateway, length: int, body: bytes = b"") -> bytes:
    head = f"POST {EDITS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
    kind = f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}{kind}content-length: {length}\r\n\r\n".encode() + body


def test_a_client_that_disconnects_in_any_part_leaves_no_file(gateway: Gateway, simulator: Simulator) -> None:
    body = form(PROMPT, image(large(3 * MB)), image(name="mask"), part("n", b"1"))
    for at in (0, 10, 200, MB, 2 * MB, 3 * MB + 400, len(body) - 90, len(body) - 20, len(body) - 1):
        with connected(gateway.url) as client:
            client.sendall(begin(gateway, len(body), body[:at]))
            if MB + 1000 < at:
                wait_until(lambda: len(temporary_files()) == 1, "the file is on disk")
    wait_until(lambda: not temporary_files(), "no file is left")
    wait_until(lambda: held(gateway) == 0, "no byte is left")
    assert 0 == simulator.images_billed()


def test_a_client_that_disconnects_while_its_edit_waits_leaves_nothing(gateway: Gateway, simulator: Simulator) -> None:
    body = form(part("prompt", b"[delay=1] x"), image(large(2 * MB)))
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, len(body), body))
        wait_until(lambda: len(simulator.requests()) == 1, "it is sent")
        assert not temporary_files()
    wait_until(lambda: held(gateway) == 0, "no byte is left")


def test_a_length_that_lies_is_refused(gateway: Gateway) -> None:
    body = form(PROMPT, image())
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, len(body) - 20, body[:-20]))
        (reply,) = replies(client.recv(65536))
    assert (400, None) == (reply.status, reply.code)
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, 2**40, body))
        (reply,) = replies(client.recv(65536))
    assert (413, "request_too_large") == (reply.status, reply.code)


def test_a_client_that_stops_sending_is_refused_in_time(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"body_timeout_s": 0.5})
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, 5 * MB, form(PROMPT, image(large(4 * MB)))[: 2 * MB]))
        (reply,) = replies(client.recv(65536))
    assert (408, "request_timeout") == (reply.status, reply.code)
    wait_until(lambda: not temporary_files() and held(gateway) == 0, "nothing is left")


BOMB: Final = PNG[:16] + b"\x00\x01\x00\x00\x00\x01\x00\x00" + PNG[24:]
ATTACKS: Final[dict[str, tuple[bytes, str, set[int]]]] = {
    "10,000 parts": (form(*(part(f"f{at}", b"x") for at in range(10_000))), BOUNDARY, {400}),
    "10,000 files": (form(PROMPT, *(image(b"x") for _ in range(10_000))), BOUNDARY, {400}),
    "a boundary of 1000": (form(PROMPT, image()), "b" * 1000, {400}),
    "a boundary of 70 KB": (form(PROMPT, image()), "b" * 70_000, {431}),
    "no end": (form(PROMPT, image(large(2 * MB)))[:-4], BOUNDARY, {400}),
    "a header of 1 MB": (form(PROMPT, part("image", PNG, "x: " + "y" * MB, file_name="a")), BOUNDARY, {400}),
    "10,000 headers": (form(part("image", PNG, *(f"x{at}: y" for at in range(10_000)))), BOUNDARY, {400}),
    "a NUL in a name": (form(PROMPT, image(), part("a\0b", b"x")), BOUNDARY, {400}),
    "a name of a part that breaks out": (form(PROMPT, image(), part('x"; name="prompt', b"y")), BOUNDARY, {200, 400}),
    "image as a text": (form(PROMPT, part("image", b"hello")), BOUNDARY, {400}),
    "image as a text of bytes": (form(PROMPT, part("image", PNG)), BOUNDARY, {400}),
    "51 MB": (form(PROMPT, image(large(51 * MB))), BOUNDARY, {413}),
    "a text of 2 MB": (form(part("prompt", b"x" * 2 * MB), image()), BOUNDARY, {413}),
    "a bomb of 65536 x 65536": (form(PROMPT, image(BOMB)), BOUNDARY, {200}),
    "false boundaries": (form(PROMPT, image(PNG + f"\r\n--{BOUNDARY}x".encode() * 20_000)), BOUNDARY, {200}),
}


@pytest.mark.parametrize("kind", list(ATTACKS))
def test_an_attack_is_answered_and_leaves_nothing(gateway: Gateway, kind: str) -> None:
    body, boundary, statuses = ATTACKS[kind]
    answer = send(gateway, body, boundary)
    assert answer.status_code in statuses, answer.text
    if answer.status_code != 200:
        assert {"message", "type", "param", "code"} == set(answer.json()["error"])
    wait_until(lambda: not temporary_files() and held(gateway) == 0, "nothing is left")
    assert 200 == edit(gateway, [("image", PNG)], prompt="x").status_code


def test_uploads_beyond_the_room_on_disk_are_refused_and_another_tenant_is_served(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"max_spooled_bytes": 16 * MB})
    other = Gateway(gateway.url, new_key(gateway.url, "other"))
    whole = form(PROMPT, image(large(9 * MB)))
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, len(whole), whole[: 6 * MB]))
        wait_until(lambda: spooled_bytes() > 5 * MB, "the first is on disk")
        assert 429 == edit(gateway, [("image", large(7 * MB))], prompt="x").status_code
        assert 200 == edit(other, [("image", large(3 * MB))], prompt="x").status_code
    wait_until(lambda: not temporary_files(), "no file is left")
    assert 200 == edit(gateway, [("image", large(7 * MB))], prompt="x").status_code


def test_two_edits_at_the_edge_of_the_memory_are_served_or_refused_whole(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(server={"max_memory_bytes": 24 * MB})
    with ThreadPoolExecutor(2) as threads:
        sent = [("image", large(7 * MB))]
        answers = list(threads.map(lambda _: edit(gateway, sent, prompt="[delay=0.3] x"), range(2)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert simulator.images_billed() == sum(answer.status_code == 200 for answer in answers) >= 1
    wait_until(lambda: not temporary_files() and held(gateway) == 0, "nothing is left")
