"""What an upstream repeats goes no further."""

from base64 import b64encode, urlsafe_b64encode
from random import Random
from string import ascii_letters
from time import process_time
from urllib.parse import quote

import pytest

from gateway.domain.accounts import make_secret
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageReply, ImageUrl
from gateway.generation.redaction import redact, redact_error, redact_reply

KEY = "sk-canary-of-an-upstream-0123456789"
SECRET = make_secret(KEY)
PROMPT = "a lighthouse that nobody may hear of"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("login failed", "login failed"),
        ("", ""),
        (f"bad key {KEY}.", f"bad key {SECRET!r}."),
        (f"{KEY}{KEY}", f"{SECRET!r}"),
        (f"cut in the middle: {KEY[:20]}", f"cut in the middle: {SECRET!r}"),
        (f"{KEY[-12:]} is its end", f"{SECRET!r} is its end"),
        (f"seven characters give nothing away: {KEY[:7]}", f"seven characters give nothing away: {KEY[:7]}"),
    ],
)
def test_a_key_and_pieces_of_it_are_left_out(text: str, kept: str) -> None:
    assert kept == redact(text, SECRET)


def test_a_short_key_is_left_out_where_it_is_whole() -> None:
    assert "no fp and ke" == redact("no key-1 and ke", make_secret("key-1")).replace(repr(make_secret("key-1")), "fp")


def test_a_prompt_is_left_out_of_what_is_logged() -> None:
    error = redact_error(GatewayError(ErrorCode.INTERNAL, f"'{PROMPT}' is not allowed, {KEY}"), SECRET, [PROMPT])
    assert f"'<request>' is not allowed, {SECRET!r}" == error.detail


def test_a_prompt_of_a_word_does_not_tear_sentences_apart() -> None:
    assert "status 2049" == redact_error(GatewayError(ErrorCode.INTERNAL, "status 2049"), SECRET, ["status"]).detail


def test_a_link_that_holds_the_key_is_not_delivered() -> None:
    good, picture = ImageUrl("https://cdn.example/1.jpg"), Base64Image(memoryview(b"/9j/"))
    reply = ImageReply((ImageUrl(f"https://cdn.example/2.jpg?k={KEY}"), good, picture), f"trace-{KEY}")
    assert ImageReply((good, picture), f"trace-{SECRET!r}") == redact_reply(reply, SECRET)


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


HIDDEN_FORMS = {
    "swapped case": KEY.swapcase(),
    "percent-encoded": percent(KEY),
    "percent-encoded twice": quote(percent(KEY), safe=""),
    "percent-encoded in part": KEY[:10] + percent(KEY[10:12]) + KEY[12:],
    "in two pieces": f"{KEY[:18]}/x/{KEY[18:]}",
    "spaced out": " ".join(KEY),
    "one piece": KEY[9:17],
    "in pieces of seven": "x".join(KEY[at : at + 7] for at in range(0, len(KEY), 7)),
    "in fields": "&".join(f"a{at}={KEY[at : at + 7]}" for at in range(0, len(KEY), 7)),
    "in pieces of five": "z9".join(KEY[at : at + 5] for at in range(0, len(KEY), 5)),
    "base64": b64encode(KEY.encode()).decode(),
    "base64 behind others": urlsafe_b64encode(b"Bearer " + KEY.encode()).decode(),
    "hexadecimal": KEY.encode().hex().upper(),
    "escaped": "".join(f"\\u{ord(one):04x}" for one in KEY),
}


@pytest.mark.parametrize("form", HIDDEN_FORMS.values(), ids=HIDDEN_FORMS)
def test_a_key_is_recognised_in_every_usual_form(form: str) -> None:
    link = ImageUrl(f"https://cdn.example/{form}/1.jpg")
    assert () == redact_reply(ImageReply((link,)), SECRET).pictures
    left = redact(f"refused: {form}.", SECRET)
    assert repr(SECRET) in left
    for at in range(len(form) - 11):
        assert form[at : at + 12] not in left


def test_links_with_random_signatures_and_other_tokens_are_delivered() -> None:
    jwt = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJtaW5pbWF4In0.c2lnbmF0dXJlLW9mLXRoZS1rZXk"
    links = (
        ImageUrl(
            "https://b.oss-us-east-1.aliyuncs.com/a%2Fb_aigc.jpeg?Expires=1&OSSAccessKeyId=LTAI5t&Signature=x%2By%3D"
        ),
        ImageUrl(
            "https://cdn.example/1.jpg?token=eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJtaW5pbWF4In0.b3RoZXI"
        ),
    )
    assert links == redact_reply(ImageReply(links), make_secret(jwt)).pictures
    stolen = ImageUrl(f"https://cdn.example/{jwt[-20:].upper()}")
    assert () == redact_reply(ImageReply((stolen,)), make_secret(jwt)).pictures


def test_links_of_random_letters_are_delivered() -> None:
    random = Random(14)
    links = tuple(ImageUrl("https://cdn.example/" + "".join(random.choices(ascii_letters, k=2000))) for _ in range(9))
    for _ in range(20):
        assert (
            links == redact_reply(ImageReply(links), make_secret("".join(random.choices(ascii_letters, k=32)))).pictures
        )


REFERENCE = "https://faces.example/private/face-of-alice.jpg?Signature=hunter2hunter2&x=1"
PICTURE = "data:image/png;base64," + b64encode(bytes(range(256)) * 400).decode()


@pytest.mark.parametrize(
    "repeated",
    [
        REFERENCE,
        REFERENCE.upper(),
        quote(REFERENCE, safe=""),
        REFERENCE.replace("https://", ""),
        "faces.example",
        "face-of-alice.jpg",
        "hunter2hunter2",
        PICTURE[22:90],
        PICTURE[90_000:90_200],
        quote(PROMPT),
        PROMPT.title(),
        PROMPT.replace(" ", "+"),
    ],
)
def test_nothing_of_a_request_is_left_in_what_is_logged(repeated: str) -> None:
    detail = f"2013 invalid params, failed to download {repeated}; HTTP 404"
    error = redact_error(GatewayError(ErrorCode.INTERNAL, detail), SECRET, [PROMPT, REFERENCE, PICTURE])
    assert "2013 invalid params, failed to download <request>; HTTP 404" == error.detail


def test_a_short_address_is_left_out_whole() -> None:
    error = redact_error(GatewayError(ErrorCode.INTERNAL, "no host a.io in http://a.io/x"), SECRET, ["http://a.io/x"])
    assert "a.io" not in error.detail
    assert error.detail.startswith("no host <request> in ")


LONG_TEXT = "x y z " * 170


def seconds_of(words: list[str]) -> float:
    """CPU time of taking the words out of a long text: the least of three."""
    taken: list[float] = []
    for _ in range(3):
        started = process_time()
        redact_error(GatewayError(ErrorCode.INTERNAL, LONG_TEXT), SECRET, words)
        taken.append(process_time() - started)
    return min(taken)


@pytest.mark.parametrize(
    "addresses",
    [
        ["https://a.example/" + "/".join(f"p{part:07}" for part in range(3000))],
        [f"https://a.example/{at:09}" for at in range(900)],
    ],
    ids=["many parts", "many addresses"],
)
def test_however_a_request_s_words_are_cut_they_take_about_as_long(addresses: list[str]) -> None:
    assert seconds_of(addresses) < 12 * seconds_of(["https://a.example/" + "".join(f"q{at:07}" for at in range(3000))])


@pytest.mark.parametrize("words", [["a" * 16_000_000], [f"http://a.example/{at:09}" for at in range(5000)]])
def test_of_a_request_that_is_too_long_to_be_compared_no_text_is_left(words: list[str]) -> None:
    detail = redact_error(GatewayError(ErrorCode.INTERNAL, "a" * 1000), SECRET, [PROMPT, *words]).detail
    assert "text omitted: the request is too long to compare" == detail


def test_of_a_picture_of_megabytes_the_text_about_it_is_left() -> None:
    picture = "data:image/png;base64," + "iVBO" * 1_000_000
    error = redact_error(GatewayError(ErrorCode.INTERNAL, f"too large: {picture[-50:]}"), SECRET, [PROMPT, picture])
    assert "too large: <request>" == error.detail
    disguised = redact_error(GatewayError(ErrorCode.INTERNAL, "too large"), SECRET, [f"{picture} Alice Miller"])
    assert disguised.detail.startswith("text omitted")


def test_a_text_is_cut_before_it_is_compared() -> None:
    assert 2048 == len(redact_error(GatewayError(ErrorCode.INTERNAL, "xyz " * 1_000_000), SECRET, [PROMPT]).detail)
