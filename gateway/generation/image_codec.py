"""Converts image files: the functions, and a program that runs them for a gateway.

The program is a child process of the gateway, which lends it the sockets of standard input. For each image it receives
a request in JSON with two files: the image in base64, and an empty one for the result. It answers with the number of
pixels, converts after a byte `1`, and answers with the size of the result in base64; an error is a negative number. It
ends when the gateway closes the socket or dies.

Its priority is low, and high enough that it ends in time on a busy machine: nice 10 is a tenth of the usual weight.
"""

import binascii
import mmap
import os
import signal
import socket
import sys
from collections.abc import Sequence
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401 - registers WebP; all plugins would be 40 other formats

from gateway.domain.images import Format, sniff

REQUEST_MAX_BYTES: Final = 1024
_NICENESS: Final = 10
_SCANS_MAX: Final = 100
"""Limit on the scans of a progressive JPEG, usually ten. One of a few bytes costs as much as a whole image."""
_READABLE: Final = ("JPEG", "PNG", "WEBP", "GIF")
_START_OF_SCAN: Final = b"\xff\xda"


def open_image(encoded: bytes | memoryview | mmap.mmap) -> Image.Image:
    """Reads the header of an image in base64. Raises: any exception of Pillow, for data that is not an image too."""
    data = binascii.a2b_base64(encoded)
    if sniff(data) is Format.JPEG and data.count(_START_OF_SCAN) > _SCANS_MAX:
        raise OSError("too many scans")
    return Image.open(BytesIO(data), formats=_READABLE)


def save_image(image: Image.Image, form: Format, quality: int, quarter: int | None = None) -> bytes:
    """Returns an image or a quarter of it in another format, in base64. Raises: any exception of Pillow."""
    profile = image.info.get("icc_profile") or b""
    ImageOps.exif_transpose(image, in_place=True)
    if quarter is not None:
        image = _quarter_of(image, quarter)
    image = _with_eight_bits(image, is_opaque=form is Format.JPEG)
    colours = b"GRAY" if image.mode == "L" else b"RGB "
    options: dict[str, object] = {"icc_profile": profile if profile[16:20] == colours else None}
    options |= {"compress_level": 1} if form is Format.PNG else {"quality": quality}
    file = BytesIO()
    image.save(file, form.value, **options)
    return binascii.b2a_base64(file.getbuffer(), newline=False)


def _quarter_of(image: Image.Image, index: int) -> Image.Image:
    """Returns a quarter, counted by rows; without the line in the middle of an odd side."""
    width, height = image.width // 2, image.height // 2
    left, top = index % 2 * (image.width - width), index // 2 * (image.height - height)
    return image.crop((left, top, left + width, top + height))


def _with_eight_bits(image: Image.Image, *, is_opaque: bool) -> Image.Image:
    """Returns an image in RGB, RGBA or grey, which every format has. Raises: OSError for deeper pixels."""
    if image.mode.startswith(("I", "F")):
        raise OSError(f"mode {image.mode}")
    if image.has_transparency_data:
        coloured = image if image.mode == "RGBA" else image.convert("RGBA")
        if not is_opaque:
            return coloured
        canvas = Image.new("RGB", coloured.size, "white")
        canvas.paste(coloured, mask=coloured)
        return canvas
    mode = "L" if image.mode in {"1", "L"} else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _serve(connection: socket.socket) -> None:
    while True:
        request, files, _, _ = socket.recv_fds(connection, REQUEST_MAX_BYTES, 2)
        if not request:
            return
        try:
            _convert(connection, request.decode().split(), files)
        finally:
            for file in files:
                os.close(file)


def _convert(connection: socket.socket, request: Sequence[str], files: Sequence[int]) -> None:
    form, quality, quarter = Format(request[0]), int(request[1]), int(request[2]) if request[2:] else None
    try:
        with mmap.mmap(files[0], 0, access=mmap.ACCESS_READ) as encoded:
            image = open_image(encoded)
        connection.send(b"%d" % (image.width * image.height))
        if connection.recv(1) != b"1":
            return
        result = save_image(image, form, quality, quarter)
        _write(files[1], result)
    except Exception:  # noqa: BLE001 - a broken file raises anything in Pillow
        connection.send(b"-1")
    else:
        connection.send(b"%d" % len(result))


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the gateway, which may still need conversions to stop
    os.nice(_NICENESS)
    with socket.socket(fileno=sys.stdin.fileno()) as inherited:
        _serve(inherited)
