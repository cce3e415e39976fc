"""Forms with files, and images of each format."""

import io
import tempfile
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from PIL import Image

from tests.support.harness import Gateway, Simulator

BOUNDARY: Final = "----form-of-the-tests"
EDITS: Final = "/v1/images/edits"


def picture(kind: str, side: int = 8, colour: str = "red") -> bytes:
    """Draws an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


PNG: Final = picture("PNG")
JPEG: Final = picture("JPEG")
WEBP: Final = picture("WEBP")
GIF: Final = picture("GIF")


def large(size_bytes: int) -> bytes:
    """Returns a PNG of this size, padded behind its end."""
    return PNG.ljust(size_bytes, b"\0")


def part(name: str, content: bytes, *headers: str, file_name: str | None = None) -> bytes:
    given = "" if file_name is None else f'; filename="{file_name}"'
    lines = (f'content-disposition: form-data; name="{name}"{given}', *headers)
    return (
        f"--{BOUNDARY}\r\n".encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + content + b"\r\n"
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def image(content: bytes = PNG, name: str = "image", file_name: str = "a.png") -> bytes:
    return part(name, content, "content-type: application/octet-stream", file_name=file_name)


PROMPT: Final = part("prompt", b"a sailor")


def send(gateway: Gateway, body: bytes, boundary: str = BOUNDARY, **headers: str) -> httpx.Response:
    """Sends a form that the test wrote itself."""
    return gateway.post(EDITS, body, content_type=f"multipart/form-data; boundary={boundary}", **headers)


def edit(gateway: Gateway, files: Iterable[tuple[str, bytes]], **texts: str) -> httpx.Response:
    """Sends a form as httpx writes it. `files`: names of fields and contents."""
    sent = [(name, ("picture", content, "application/octet-stream")) for name, content in files]
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    return httpx.post(gateway.url + EDITS, files=sent, data=texts, headers=headers, timeout=30, verify=False)


def reference(simulator: Simulator) -> tuple[str, bytes]:
    """The type and the content of the only reference of the simulator's latest call."""
    [only] = simulator.requests()[-1]["body"]["subject_reference"]
    assert "character" == only["type"]
    kind, _, data = only["image_file"].partition(";base64,")
    return kind, b64decode(data)


def temporary_files() -> list[Path]:
    """Temporary files that this process has open, as the gateway does; pytest's are its output."""
    own, found = {_target(Path(f"/proc/self/fd/{output}")) for output in (1, 2)}, []
    for opened in Path("/proc/self/fd").iterdir():
        target = _target(opened)
        if target.startswith(tempfile.gettempdir()) and target.endswith("(deleted)") and target not in own:
            found.append(opened)
    return found


def spooled_bytes() -> int:
    """Size of the temporary files."""
    with suppress(OSError):  # closed meanwhile
        return sum(opened.stat().st_size for opened in temporary_files())
    return 0


def _target(opened: Path) -> str:
    with suppress(OSError):
        return str(opened.readlink())
    return ""
