"""Reads the responses of a profile."""

import re
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.image_sizes import read_size
from gateway.domain.images import Base64Image, ImageReply, Picture, ResponseFormat, Size, TokenUsage
from gateway.providers.openai.errors import item_error, raise_error
from gateway.providers.openai.profiles import Profile
from gateway.providers.replies import UntrustedObject, UpstreamResponse, read_base64, read_link
from gateway.providers.stray_images import has_images

_ITEMS_MAX: Final = 32
"""Limit on the items that are read: more than one call can return."""
_SIZE: Final = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", re.ASCII)
_ID_MAX_CHARS: Final = 200
_CREDITS_MAX: Final = 1_000_000
_WITHHELD: Final = frozenset({ErrorCode.CONTENT_INPUT, ErrorCode.CONTENT_OUTPUT})


def read_images(
    profile: Profile, reply: UpstreamResponse, envelope: UntrustedObject, delivery: ResponseFormat
) -> ImageReply:
    """Returns the images of a success.

    Raises: GatewayError of an error, or of the first image if all have one; INVALID_RESPONSE if nothing says that no
    image was billed.
    """
    if not 200 <= reply.status < 300:
        raise_error(profile.errors, reply, envelope)
    items, usage = envelope.inners("data")[:_ITEMS_MAX], envelope.inner("usage")
    pictures = tuple(picture for item in items if (picture := _read_picture(item, delivery)))
    failures = [error for item in items if profile.has_item_errors and (error := item.inner("error")).fields]
    errors = [item_error(profile.errors, failure) for failure in failures]
    if not pictures:
        raise _without_images(profile, reply, envelope, errors)
    withheld = sum(error is not None and error.error_code in _WITHHELD for error in errors)
    return ImageReply(
        pictures,
        _read_id(profile, reply, envelope),
        withheld if profile.has_item_errors else None,
        _read_usage(usage),
        _read_cost(profile, envelope),
        _read_size(pictures, items, envelope),
    )


def _read_picture(item: UntrustedObject, delivery: ResponseFormat) -> Picture | None:
    """Reads an item in the requested form, else in the other one. An empty text is no image (section 1.3)."""
    link = read_link(item.raw("url"))
    if link is None or delivery is ResponseFormat.BASE64:
        return read_base64(item.raw("b64_json")) or link
    return link


def _without_images(
    profile: Profile, reply: UpstreamResponse, envelope: UntrustedObject, errors: list[GatewayError | None]
) -> GatewayError:
    """Returns the error of a success that has no images."""
    try:
        raise_error(profile.errors, reply, envelope)
    except GatewayError as error:
        return error
    is_free = profile.counts_images and envelope.inner("usage").integer("generated_images") == 0
    known = [error for error in errors if error]
    if errors and len(known) == len(errors):
        if is_free:
            return known[0]
        if all(error.error_code in _WITHHELD for error in known):
            return GatewayError(ErrorCode.CONTENT_MODERATED, known[0].detail)
    if is_free and not errors and not has_images(envelope):
        return GatewayError(ErrorCode.EMPTY_RESPONSE)
    return GatewayError(ErrorCode.INVALID_RESPONSE, "a success without images")


def _read_id(profile: Profile, reply: UpstreamResponse, envelope: UntrustedObject) -> str:
    own = envelope.text(profile.id_field) if profile.id_field else reply.headers.get(profile.id_header, "")
    return own[:_ID_MAX_CHARS] if own.isprintable() else ""


def _read_usage(usage: UntrustedObject) -> TokenUsage | None:
    """Reads tokens; 302.AI also sends chat's names, with zeros (section 1.3)."""
    read, written, details = usage.integer("input_tokens"), usage.integer("output_tokens"), "input_tokens_details"
    if read is None or written is None or read < 0 or written < 0:
        return None
    parts = usage.inner(details)
    return TokenUsage(read, written, *(max(0, parts.integer(f"{kind}_tokens") or 0) for kind in ("text", "image")))


def _read_cost(profile: Profile, envelope: UntrustedObject) -> int | None:
    """Reads what the provider states to have charged, in micro-dollars."""
    stated = envelope.value("credits") if profile.credit_usd_micros else None
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not 0 <= stated < _CREDITS_MAX:
        return None
    return round(stated * profile.credit_usd_micros)


def _read_size(pictures: tuple[Picture, ...], items: list[UntrustedObject], envelope: UntrustedObject) -> Size | None:
    """Returns the size of the first image, from its file; behind a link, as stated."""
    first = pictures[0]
    if isinstance(first, Base64Image) and (size := read_size(first.base64)):
        return size
    stated = (match for part in (*items, envelope) if (match := _SIZE.fullmatch(part.text("size"))))
    return next((Size(int(match[1]), int(match[2])) for match in stated), None)
