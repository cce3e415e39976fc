"""Forms as providers read them."""

from email.message import Message
from email.parser import BytesParser

import msgspec

from gateway.domain.accounts import make_secret
from gateway.providers.error_texts import own_strings
from gateway.providers.forms import build_form, form_texts

SECRET = make_secret("sk-secret")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100


def parts(content_type: str, pieces: tuple[bytes, ...]) -> list[tuple[str, bytes]]:
    """Reads a form with the parser of the standard library."""
    message = BytesParser().parsebytes(b"content-type: %b\r\n\r\n" % content_type.encode() + b"".join(pieces))
    found = [part for part in message.walk() if not part.is_multipart()]
    return [(str(part.get_param("name", header="content-disposition")), _content(part)) for part in found]


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def test_a_form_holds_its_fields_and_its_files_which_are_not_copied() -> None:
    kind, pieces = build_form({"prompt": "ein Büro\r\n🏠", "n": "1"}, [("image", "image/png", PICTURE)], SECRET)
    assert [("prompt", "ein Büro\r\n🏠".encode()), ("n", b"1"), ("image", PICTURE)] == parts(kind, pieces)
    assert any(piece is PICTURE for piece in pieces)


def test_a_prompt_cannot_add_a_field() -> None:
    kind, _ = build_form({"prompt": "a"}, [], SECRET)
    guessed = kind.partition("boundary=")[2]
    attack = f'a\r\n--{guessed}\r\nContent-Disposition: form-data; name="n"\r\n\r\n9'
    attacked = build_form({"prompt": attack}, [], SECRET)
    assert [("prompt", attack.encode())] == parts(*attacked)
    assert build_form({"prompt": "a"}, [], make_secret("sk-other"))[0] != kind


def test_its_texts_are_read_back_for_the_comparison_with_an_error() -> None:
    _, pieces = build_form({"prompt": "an elephant", "n": "1"}, [("image", "image/png", PICTURE)], SECRET)
    sent = b"".join(pieces)
    assert ["an elephant", "1"] == list(form_texts(sent))
    assert ["an elephant"] == list(own_strings(sent))
    assert [] == list(form_texts(msgspec.json.encode({"prompt": "an elephant"})))
