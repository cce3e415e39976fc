"""Forms, byte by byte: what is read, what is refused, and that nothing of any remains."""

import asyncio
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from gateway.api.bodies import BodyLimits
from gateway.api.multipart import FormLimits, read_form
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.context import RequestContext
from gateway.generation.memory_budget import ByteAccount
from tests.support.forms import BOUNDARY, JPEG, PNG, PROMPT, form, image, large, part, temporary_files
from tests.support.memory import MB
from tests.support.reading_forms import LEFT, LIMITS, Trial


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = temporary_files()
    yield
    assert before == temporary_files()


async def refusal(trial: Trial, *pieces: object, boundary: str = BOUNDARY, limits: FormLimits = LIMITS) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await trial.read(pieces, boundary, limits)
    assert (0, 0) == (trial.memory.held_bytes, trial.disk.held_bytes)
    return refused.value


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 2, 3, 7, 61, 1000, 100_000])
async def test_a_form_is_the_same_in_pieces_of_every_size(size: int) -> None:
    trial = Trial()
    body = form(PROMPT, image(PNG, "image[]"), image(JPEG, "image[]"), part("n", b"2"), part("n", b"3"))
    await trial.read(cut(body, size))
    assert {"prompt": "a sailor", "n": "3"} == trial.texts
    assert [("image[]", len(PNG)), ("image[]", len(JPEG))] == [file[:2] for file in trial.files]
    link = msgspec.json.decode(trial.files[0][2], type=str)
    assert link.startswith("data:image/png;base64,iVBORw0KGgo")


@pytest.mark.anyio
async def test_a_small_file_is_in_memory_and_a_large_one_on_disk() -> None:
    trial = Trial()
    await trial.read([form(image(large(MB)), image(large(MB + 1)), image(large(3 * MB)))])
    assert (MB, MB + 1 + 3 * MB) == trial.seen_bytes
    assert [MB, MB + 1, 3 * MB] == [size for _, size, _ in trial.files]
    encoded = [len(link) for *_, link in trial.files]
    assert [len('"data:image/png;base64,"') + (size + 2) // 3 * 4 for _, size, _ in trial.files] == encoded


@pytest.mark.anyio
async def test_a_file_that_grows_beyond_memory_in_small_pieces_is_whole() -> None:
    trial, content = Trial(), bytes(range(256)) * 4 * 2048
    await trial.read(cut(form(image(content)), 50_000))
    [(_, _, link)] = trial.files
    assert content == b64decode(link[1:-1].partition(b",")[2])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it ends before its last boundary"),
        (form(PROMPT)[:-4], "it ends before its last boundary"),
        (form(PROMPT, image())[:-40], "it ends before its last boundary"),
        (b'{"prompt":"x"}', "it is not valid multipart/form-data"),
        (form(b"--" + BOUNDARY.encode() + b"\r\n\r\nx\r\n"), "the name of a part is missing"),
        (form(part("", b"x")), "the name of a part is missing"),
        (form(part("x" * 65, b"x")), "more than 64 characters"),
        (form(part("x", b"x", "a: " + "b" * MB)), "it is not valid multipart/form-data"),
        (form(part("x", b"x", "a" * MB + ": b")), "it is not valid multipart/form-data"),
        (form(part("x", b"x", *(f"h{at}: x" for at in range(10_000)))), "it is not valid multipart/form-data"),
        (form(*(part(f"f{at}", b"") for at in range(10_000))), "it has more than 3 text fields"),
        (form(*(part("same", b"") for _ in range(10_000))), "it has more than 3 text fields"),
        (form(*(image(b"x") for _ in range(10_000))), "it has more than 3 files"),
    ],
)
async def test_a_broken_form_is_refused_with_the_reason(body: bytes, words: str) -> None:
    for pieces in ([body], cut(body, 4096)):
        error = await refusal(Trial(), *pieces)
        assert ErrorCode.INVALID_JSON is error.error_code
        assert error.message.startswith("We could not parse the multipart form of your request: ")
        assert words in error.message
        assert len(error.message) < 200


@pytest.mark.anyio
@pytest.mark.parametrize("boundary", ["", "x" * 257, "x" * 60_000])
async def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    error = await refusal(Trial(), form(PROMPT), boundary=boundary)
    assert ErrorCode.INVALID_JSON is error.error_code
    assert "boundary" in error.message


@pytest.mark.anyio
async def test_a_name_with_a_nul_is_a_name() -> None:
    trial = Trial()
    await trial.read([form(part("a\0b", b"x"))])
    assert {"a\0b": "x"} == trial.texts


@pytest.mark.anyio
async def test_a_part_of_a_files_type_is_a_file_without_a_file_name() -> None:
    trial = Trial()
    await trial.read([form(part("image", PNG, "Content-Type: image/png"))])
    assert [("image", len(PNG))] == [file[:2] for file in trial.files]


@pytest.mark.anyio
async def test_a_file_sent_as_text_is_refused_by_name() -> None:
    error = await refusal(Trial(), form(part("image", PNG)))
    assert (ErrorCode.INVALID_VALUE, "image") == (error.error_code, error.param)
    assert "Send a file with a file name." in error.message


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(image(large(4 * MB + 1))), "image"),
        (form(part("prompt", b"x" * 10_000)), None),
        (form(image(large(4 * MB)), image(large(4 * MB), "mask")), None),
    ],
)
async def test_what_is_too_large_is_refused_as_such(body: bytes, param: str | None) -> None:
    for pieces in ([body], cut(body, 65_536)):
        error = await refusal(Trial(), *pieces)
        assert (ErrorCode.BODY_TOO_LARGE, param) == (error.error_code, error.param)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("trial", "sizes"),
    [
        (Trial(memory_bytes=MB), [MB]),
        (Trial(disk_bytes=2 * MB), [2 * MB]),
        (Trial(memory_bytes=4 * MB), [2 * MB]),  # on disk there is room, and none for its base64
    ],
    ids=["memory", "disk", "base64"],
)
async def test_beyond_a_budget_a_form_is_refused(trial: Trial, sizes: list[int]) -> None:
    error = await refusal(trial, *cut(form(*(image(large(size)) for size in sizes)), 65_536))
    assert error.error_code in {ErrorCode.TENANT_MEMORY_FULL, ErrorCode.MEMORY_FULL}


@pytest.mark.anyio
async def test_a_client_that_disconnects_at_any_byte_leaves_nothing() -> None:
    body = form(PROMPT, image(large(MB + 100)), image(name="mask"), part("n", b"1"))
    starts = [at for at in range(len(body)) if at < 700 or at > len(body) - 700 or at % 100_000 == 0]
    for at in starts:
        trial = Trial()
        with pytest.raises(ClientDisconnect):
            await trial.read([body[:at], LEFT])
        assert (0, 0) == (trial.memory.held_bytes, trial.disk.held_bytes)


@pytest.mark.anyio
async def test_a_full_disk_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    error = await refusal(Trial(), form(image(large(2 * MB))))
    assert ErrorCode.MEMORY_FULL is error.error_code


@pytest.mark.anyio
async def test_a_slow_form_is_refused_when_its_time_is_over() -> None:
    trial = Trial()
    limits = replace(LIMITS, body=BodyLimits(8 * MB, 0.05))
    first = [form(image(large(2 * MB)))[: MB + 100]]

    async def receive() -> Message:
        if first:
            return {"type": "http.request", "body": first.pop(), "more_body": True}
        await asyncio.sleep(60)
        raise AssertionError

    account = ByteAccount(trial.memory, "acme")
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())],
        "state": {"context": RequestContext("r", 0.0, account)},
    }
    with pytest.raises(GatewayError) as refused:
        async with read_form(Request(scope, receive), limits, trial.disk):
            pass
    assert ErrorCode.BODY_TIMEOUT is refused.value.error_code
    assert (0, 0) == (trial.memory.held_bytes, trial.disk.held_bytes)
