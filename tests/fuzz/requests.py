"""Requests as bytes: every operation of the document, nearly right or far from it, down to the framing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from hypothesis import strategies as st

from gateway.api.minimax import PATHS
from tests.fuzz.bodies import NATIVE, OPENAI, bodies
from tests.fuzz.schemas import Operation, values
from tests.fuzz.values import JsonValue, anything, mangled, render, spoiled, texts

HEAD_TIMEOUT_S: Final = 3.0
BODY_TIMEOUT_S: Final = 0.5
"""Of the server that they are sent to: some never end. A head must arrive in time on a busy machine too."""


def one_in(count: int) -> st.SearchStrategy[bool]:
    """True about so often; the simplest is False."""
    return st.sampled_from((False,) * (count - 1) + (True,))


@dataclass(frozen=True)
class Sent:
    """One request, without what identifies its sender."""

    operation: Operation
    method: bytes
    target: bytes
    fields: tuple[bytes, ...]
    body: bytes
    framing: str = "length"
    asks_as: str = "right"
    """Whose key it has: see Book.authorization."""

    @property
    def is_plain(self) -> bool:
        """A well-formed message to the operation itself, whatever it holds."""
        return self.framing in {"length", "chunks"}

    def render(self, authorization: bytes, key_id: str) -> bytes:
        target = self.target.replace(KEY_ID.encode(), key_id.encode())
        lines = [self.method + b" " + target + b" HTTP/1.1", b"host: gateway", b"connection: close", *self.fields]
        lines += [b"authorization: " + authorization] if authorization else []
        size, body = len(self.body), self.body
        match self.framing:
            case "chunks":
                lines.append(b"transfer-encoding: chunked")
                body = (b"%x\r\n%s\r\n" % (size, body) if body else b"") + b"0\r\n\r\n"
            case "long":
                lines.append(b"content-length: %d" % (size + 7))
            case "short":
                lines.append(b"content-length: %d" % (size // 2))
            case "both":
                lines += [b"content-length: %d" % size, b"transfer-encoding: chunked"]
            case "huge":
                lines.append(b"content-length: " + b"9" * 25)
            case "bad chunks":
                lines.append(b"transfer-encoding: chunked")
            case _:
                lines.append(b"content-length: %d" % size)
        return b"\r\n".join([*lines, b"", b""]) + body


KEY_ID: Final = "the-id-of-a-key"
"""Stands in a path for what is known only when it is sent."""
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("victim", "victim", "victim2", "image-01"),
    "id": (KEY_ID,),
    "upstream": ("sim",),
    "account": ("spare",),
    "delivery": ("x",),
    "key": ("spare-1",),
    "id}.{extension": (f"{'0' * 40}.jpg", f"{KEY_ID}.png"),
}
"""What there is to be changed: never the tenant that asks, or the account that serves it."""
_ODD_NAMES: Final = (
    *(
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fadmin",
        "%00",
        "%ff",
        "%",
        "%zz",
        "%25",
        "a%20b",
        "a+b",
        "victim/",
        "/victim",
        "*",
    ),
    *(
        "victim%0a",
        "{victim}",
        "%7Bvictim%7D",
        "ig3:*",
        "victim:x",
        "x" * 300,
        "%F0%9F%98%80",
        "%ED%A0%80",
        ";",
        "?",
        "#",
    ),
    *("a\\b", "victim%2F", "__proto__", "null", "-1", "%E2%80%AE", "..;", "victim?", "%2F", "a" * 65, "VICTIM"),
)
_CONTENT_TYPES: Final = (
    *(b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-16", b"APPLICATION/JSON"),
    *(
        b"text/plain",
        b"",
        b"multipart/form-data",
        b"application/x-www-form-urlencoded",
        b"application/merge-patch+json",
    ),
    *(b"application/problem+json", b"application/", b"/", b"\xff", b"x" * 2000, b"application/json, text/html"),
)
_FIELDS: Final = (
    *(b"content-encoding: gzip", b"content-encoding: identity", b"content-encoding: br, gzip", b"expect: 100-continue"),
    *(
        b"accept: image/png",
        b"accept-encoding: *;q=0",
        b"origin: https://evil.example",
        b"origin: null",
        b"range: bytes=0-1",
    ),
    *(
        b"x-request-id: ok-1",
        b"x-request-id: " + b"a" * 500,
        b"x-request-id: a b\xff",
        b"x-request-id:",
        b"te: trailers",
    ),
    *(
        b"x-imagegate-max-wait: 0",
        b"x-imagegate-max-wait: 0.5",
        b"x-imagegate-max-wait: 1e9",
        b"x-imagegate-max-wait: -1",
    ),
    *(b"x-imagegate-max-wait: " + b"9" * 400, b"x-imagegate-max-wait: \xb2", b"x-imagegate-max-wait: NaN"),
    *(b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"traceparent: zz", b"tracestate: " + b"k=v," * 400),
    *(b"x-forwarded-for: 1.2.3.4", b"x-forwarded-for: \xff", b"forwarded: for=_x", b"x-http-method-override: DELETE"),
    *(
        b"if-match: *",
        b"if-none-match: *",
        b"idempotency-key: 1",
        b"upgrade: h2c",
        b"upgrade: websocket",
        b"cookie: \xff=1",
    ),
    *(
        b"transfer-encoding: gzip",
        b"host: other",
        b"content-length: 5",
        b"x: " + b"y" * 70_000,
        b"x y: z",
        b"x : z",
        b"\xff: z",
    ),
    *(
        b": empty",
        b"no colon",
        b"x: a\rb",
        b"x: a\x00b",
        b" folded: x",
        b"authorization: Bearer x",
        b"proxy-connection: x",
    ),
    *(
        b"access-control-request-method: POST",
        b"access-control-request-headers: " + b"a," * 500,
        b"last-event-id: \xff",
    ),
)
_BREAKING: Final = (
    b"transfer-encoding",
    b"host",
    b"content-length",
    b"x: y",
    b"x y",
    b"x :",
    b"\xff",
    b":",
    b"no ",
    b"x: a",
    b" ",
)


@st.composite
def paths(draw: st.DrawFn, operation: Operation) -> bytes:
    """The operation's path with names in it, good and bad ones."""
    filled = []
    for piece in operation.path.split("/"):
        if not piece.startswith("{"):
            filled.append(piece)
            continue
        good, odd = st.sampled_from(NAMES[piece[1:-1]]), st.one_of(st.sampled_from(_ODD_NAMES), texts.map(_quoted))
        filled.append(draw(odd if draw(one_in(5)) else good))
    path = "/".join(filled)
    if draw(one_in(15)):
        path = draw(
            st.sampled_from((path + "/", "/" + path, path + "/..", path.upper(), path + "%00", path + "//", path[:-1]))
        )
    return path.encode() or b"/"


@st.composite
def queries(draw: st.DrawFn, operation: Operation) -> bytes:
    pairs: list[tuple[str, str]] = []
    for name, schema in operation.query:
        if draw(st.booleans()):
            good, odd = values(schema).map(str), st.one_of(texts, st.integers().map(str))
            pairs += [(name, draw(st.one_of(good, odd))) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))]
    if draw(one_in(5)):
        pairs.append((draw(texts), draw(texts)))
    told = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)
    more = draw(
        st.sampled_from(("",) * 12 + ("&", "=", "&&=%", "%ff=%fe", "a;b", "format=csv", "format=\x7f", "x" * 5000))
    )
    return (f"?{told}&{more}" if told or more else "").encode()


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def payloads(draw: st.DrawFn, operation: Operation) -> bytes:
    """What the operation's schema allows, changed or not; or anything."""
    if operation.body is None:
        return render(draw(anything)) if draw(one_in(5)) else b""
    if operation.path in SEEDS and draw(st.booleans()):
        return draw(bodies(SEEDS[operation.path]))
    body: JsonValue = draw(values(operation.body))
    assert isinstance(body, Mapping)
    kind = draw(st.sampled_from(("right",) * 4 + ("spoiled",) * 4 + ("mangled", "anything", "none")))
    if kind == "none":
        return b""
    if kind in {"spoiled", "anything"}:
        body = draw(spoiled(body, operation.names) if kind == "spoiled" else anything)
    return draw(mangled(render(body))) if kind == "mangled" else render(body)


SEEDS: Final = {"/v1/images/generations": OPENAI, **dict.fromkeys(PATHS, NATIVE)}
_FAULT_WORDS: Final = (
    "[code=1026]",
    "[code=1000]",
    "[http=502]",
    "[garbage]",
    "[empty]",
    "[cut]",
    "[fail=1]",
    "[code=2013]",
)


@st.composite
def requests(draw: st.DrawFn, operation: Operation) -> Sent:
    method = operation.method.encode()
    if draw(one_in(20)):
        method = draw(
            st.sampled_from(
                (b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"post", b"PROPFIND", b"X" * 99)
            )
        )
    fields = [b"content-type: " + draw(st.sampled_from(_CONTENT_TYPES))] if draw(one_in(6)) else []
    fields += draw(st.lists(st.sampled_from(_FIELDS), max_size=3)) if draw(one_in(4)) else []
    body = draw(payloads(operation))
    if draw(one_in(4)):
        body = body.replace(b'"prompt":"', b'"prompt":"' + draw(st.sampled_from(_FAULT_WORDS)).encode(), 1)
    framing = draw(
        st.sampled_from(
            ("length",) * 80 + ("chunks",) * 12 + ("long", "short", "short", "both", "both", "huge", "bad chunks")
        )
    )
    if any(field.startswith(_BREAKING) for field in fields):
        framing = f"{framing}, with broken fields"
    return Sent(
        operation,
        method,
        draw(paths(operation)) + draw(queries(operation)),
        tuple(fields),
        body,
        framing,
        draw(st.sampled_from(("right",) * 12 + ("none", "other", "wrong", "odd", "doubled"))),
    )
