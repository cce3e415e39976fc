"""Requests and replies that hold a known number of bytes."""

from typing import Final

import httpx

from tests.support.harness import Gateway

MB: Final = 1024 * 1024


NATIVE: Final = "/v1/image_generation"


HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"


def held(gateway: Gateway) -> float:
    lines = httpx.get(f"{gateway.url}/metrics", verify=False).text.splitlines()
    return float(next(line for line in lines if line.startswith("imagegate_held_bytes ")).split()[1])


def begin(gateway: Gateway, length: int, path: str = NATIVE, body: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
    return f"{head}content-length: {length}\r\n\r\n".encode() + body


def picture_reply(size_bytes: int) -> bytes:
    data = b"/9j/" + b"A" * (size_bytes // 4 * 4)
    body = b'{"data":{"image_base64":["' + data + b'"]},"base_resp":{"status_code":0}}'
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
