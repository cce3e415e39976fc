"""Plans of a hostile upstream: real and changed replies in every framing, right, lying, cut, slow and without end."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.answers import KEY, reply_bodies, statuses
from tests.fuzz.values import mangled
from tests.support.hostile import Plan, Step

CAP_BYTES: Final = 256 * 1024
"""The longest reply that the caller of these tests takes."""
BOMB: Final = gzip.compress(bytes(64 * 2**20))
ZBOMB: Final = zlib.compress(bytes(64 * 2**20))


@dataclass(frozen=True)
class Hostility:
    """A plan, and what is known of it beforehand."""

    kind: str
    plan: Plan
    status: int = 200
    body: bytes | None = None
    """What an honest reader gets with this status; None where nobody can know."""
    is_slow: bool = False
    """It ends by the caller's deadline."""


@dataclass(frozen=True)
class Content:
    """What a reply says, before it is framed."""

    status: int
    headers: bytes
    body: bytes

    @property
    def start(self) -> bytes:
        return b"HTTP/1.1 %d Whatever\r\n" % self.status + self.headers

    def framed(self, length: int, sent: bytes | None = None) -> bytes:
        return self.start + b"content-length: %d\r\n\r\n" % length + (self.body if sent is None else sent)

    def chunked(self, sent: bytes) -> bytes:
        return self.start + b"transfer-encoding: chunked\r\n\r\n" + sent


_HEADERS: Final = (
    *(
        b"retry-after: 7",
        b"retry-after: -1",
        b"retry-after: " + b"9" * 400,
        b"retry-after: \xd9\xa3",
        b"retry-after: 1e9",
    ),
    *(
        b"set-cookie: k=" + KEY.encode(),
        b"location: /stolen",
        b"content-type: text/html",
        b"x: \xff\xfe",
        b"x:",
        b"X: a",
    ),
    *(b"keep-alive: timeout=0", b"server: " + b"s" * 5000, b"link: <;;;", b"content-encoding: identity", b"age: x"),
    *(b"connection: close", b"connection: keep-alive", b"upgrade: websocket", b"trailer: x", b"date: never"),
)
header_lines = st.lists(st.sampled_from(_HEADERS), max_size=4, unique=True).map(
    lambda lines: b"".join(x + b"\r\n" for x in lines)
)
contents = st.builds(Content, statuses, header_lines, reply_bodies())
with_bodies = contents.filter(lambda one: one.status not in {204, 304})
"""The others have none, whatever comes after their head."""
_BAD_SIZES: Final = (b"zz", b"-1", b"0x5", b"f" * 16, b"f" * 40, b" 5", b"5;" + b"x" * 70_000, b"", b"+5")
_BAD_LENGTHS: Final = (b"-1", b"+5", b"5, 5", b"5, 6", b"9" * 30, b"0x5", b"", b"5 5", b"\xb2")


def _chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@st.composite
def honest(draw: st.DrawFn) -> Hostility:
    """Right in its framing, whatever it says."""
    content = draw(with_bodies)
    wires: dict[str, Callable[[], tuple[Step, ...]]] = {
        "length": lambda: (content.framed(len(content.body)),),
        "pieces": lambda: (content.framed(len(content.body), b""), 0.01, content.body[:5], 0.01, content.body[5:]),
        "chunks": lambda: (content.chunked(_chunks(content.body, draw(st.integers(1, 5000))) + b"0\r\n\r\n"),),
        "end": lambda: (content.start + b"connection: close\r\n\r\n" + content.body,),
        "early answers": lambda: (b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" * 5, content.framed(len(content.body))),
    }
    kind = draw(st.sampled_from(sorted(wires)))
    return Hostility(f"honest, {kind}", Plan((*wires[kind](), "close")), content.status, content.body)


@st.composite
def packed(draw: st.DrawFn) -> Hostility:
    """Compressed, although it was asked not to be; or said to be."""
    content = draw(contents)
    pack = draw(st.sampled_from((gzip.compress, zlib.compress, lambda body: body)))
    name = draw(st.sampled_from((b"gzip", b"deflate", b"GZIP", b"x-gzip", b"br", b"zstd", b"gzip, gzip", b"\xff", b"")))
    body = draw(st.one_of(st.just(pack(content.body)), mangled(pack(content.body)), st.just(BOMB)))
    framed = Content(content.status, content.headers + b"content-encoding: " + name + b"\r\n", body)
    return Hostility("packed", Plan((framed.framed(len(body)), "close")), content.status)


@st.composite
def lying(draw: st.DrawFn) -> Hostility:
    """Lengths that are not those of what comes: nobody can know what was made."""
    content = draw(contents)
    size, end = len(content.body), draw(st.sampled_from(("close", "reset")))
    more = draw(st.integers(1, 10**12))
    wires: dict[str, Callable[[], bytes]] = {
        "long": lambda: content.framed(size + more),
        "chunks cut": lambda: content.chunked(_chunks(content.body, 7)),
        "a chunk cut": lambda: content.chunked(b"%x\r\n" % (size + more) + content.body),
        "bad chunk": lambda: content.chunked(draw(st.sampled_from(_BAD_SIZES)) + b"\r\n" + content.body),
        "bad length": lambda: content.start + b"content-length: " + draw(st.sampled_from(_BAD_LENGTHS)) + b"\r\n\r\n",
        "both": lambda: content.start + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n" + content.body,
        "two lengths": lambda: content.start + b"content-length: 3\r\n" + content.framed(size)[len(content.start) :],
        "a head cut": lambda: content.framed(size)[: draw(st.integers(0, len(content.start)))],
    }
    kind = draw(st.sampled_from(sorted(wires)))
    return Hostility(f"lying, {kind}", Plan((wires[kind](), end)), content.status)


@st.composite
def misplaced(draw: st.DrawFn) -> Hostility:
    """Answers where none belongs, and what is no answer."""
    content = draw(contents)
    whole = content.framed(len(content.body))
    plans = {
        "before the request": Plan((whole, "close"), reads="nothing"),
        "after its head": Plan((whole, "close"), reads="head"),
        "twice": Plan((whole + whole,)),
        "and more": Plan((whole + draw(st.binary(max_size=30)),)),
        "nothing": Plan(("close",), reads=draw(st.sampled_from(("nothing", "head", "all")))),
        "a reset": Plan(("reset",), reads=draw(st.sampled_from(("nothing", "head", "all")))),
        "bytes": Plan((draw(st.binary(max_size=300)), "close")),
        "a mangled answer": Plan((draw(mangled(whole)), "close")),
        "another protocol": Plan((b"HTTP/1.1 101 Yes\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + whole, "close")),
        "an old protocol": Plan((whole.replace(b"HTTP/1.1", b"HTTP/0.9", 1), "close")),
        "a header flood": Plan((content.start + b"x: y\r\n" * 20_000 + b"\r\n", "close")),
        "a long header": Plan((content.start + b"x: " + b"y" * 2**20 + b"\r\n\r\n", "close")),
        "a long reason": Plan((b"HTTP/1.1 200 " + b"y" * 2**20 + b"\r\n\r\n", "close")),
    }
    kind = draw(st.sampled_from(sorted(plans)))
    return Hostility(kind, plans[kind], content.status)


def endless_plans(content: Content, reads: str) -> dict[str, Plan]:
    """Too slow, or too much: only the deadline or the cap ends it."""
    head = content.chunked(b"")
    return {
        "hang": Plan(("hang",), reads=reads),
        "hang inside": Plan((content.framed(len(content.body) + 1), "hang")),
        "drip of a head": Plan((content.start + b"x: ", "drip"), drop=b"y"),
        "drip of a body": Plan((content.framed(10**6), "drip"), drop=b"y"),
        "drip of chunks": Plan((head, "drip"), drop=b"1\r\n \r\n"),
        "drip of early answers": Plan(("drip",), drop=b"HTTP/1.1 102 Wait\r\n\r\n"),
        "flood": Plan((content.framed(10**12), "flood"), drop=b" " * 65536),
        "flood of chunks": Plan((head, "flood"), drop=_chunks(b" " * 65536, 4096)),
        "flood of tiny chunks": Plan((head, "flood"), drop=b"1\r\n \r\n" * 5000),
        "flood of headers": Plan((content.start, "flood"), drop=b"x: y\r\n" * 5000),
        "flood in a header": Plan((content.start + b"x: ", "flood"), drop=b"y" * 65536),
        "flood of early answers": Plan(("flood",), drop=b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" * 50),
        "flood of an extension": Plan((head + b"5;", "flood"), drop=b"y" * 65536),
        "flood of trailers": Plan((head + b"0\r\n", "flood"), drop=b"x: y\r\n" * 5000),
    }


@st.composite
def endless(draw: st.DrawFn) -> Hostility:
    content = draw(with_bodies)
    plans = endless_plans(content, draw(st.sampled_from(("nothing", "all"))))
    kind = draw(st.sampled_from(sorted(plans)))
    return Hostility(kind, plans[kind], content.status, is_slow=True)


_PLAIN: Final = Content(200, b"", b"{}")
LARGE: Final = {
    **endless_plans(_PLAIN, "all"),
    "a gzip bomb": Plan((Content(200, b"content-encoding: gzip\r\n", BOMB).framed(len(BOMB)), "close")),
    "a zlib bomb": Plan((Content(200, b"content-encoding: deflate\r\n", ZBOMB).framed(len(ZBOMB)), "close")),
    "a long header": Plan((_PLAIN.start + b"x: " + b"y" * 2**20 + b"\r\n\r\n", "close")),
}
"""What would cost most."""
quick = st.one_of(honest(), honest(), packed(), lying(), misplaced())
