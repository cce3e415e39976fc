"""Malformed and hostile HTTP requests."""

import gzip

from gateway.server.config import ConnectionLimits
from tests.support.strangers import HEALTH, head

LIMITS = ConnectionLimits()


BODY = b'{"prompt": "a cat", "response_format": "url"}'


IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


POST = b"POST /v1/images/generations"


HEADS_TOO_LARGE = {
    "one value": head(b"GET /healthz", b"x: " + b"y" * LIMITS.max_header_bytes),
    "a path": head(b"GET /" + b"y" * LIMITS.max_header_bytes),
    "a query": head(b"GET /healthz?" + b"y" * LIMITS.max_header_bytes),
    "many fields": head(b"GET /healthz", *[b"x: y"] * LIMITS.fields_max),
    "a name": head(b"GET /healthz", b"y" * LIMITS.max_header_bytes + b": x"),
}


AMBIGUOUS: dict[str, tuple[list[bytes], bytes]] = {
    "length and chunks": ([b"content-length: 5", b"transfer-encoding: chunked"], IN_CHUNKS),
    "chunks and length": ([b"transfer-encoding: chunked", b"content-length: 5"], IN_CHUNKS),
    "two lengths": ([b"content-length: 5", b"content-length: 45"], BODY),
    "one length twice": ([b"content-length: 45", b"content-length: 45"], BODY),
    "a list of lengths": ([b"content-length: 45, 45"], BODY),
    "a signed length": ([b"content-length: +45"], BODY),
    "a negative length": ([b"content-length: -1"], BODY),
    "a hexadecimal length": ([b"content-length: 0x2d"], BODY),
    "a length of 30 digits": ([b"content-length: " + b"9" * 30], BODY),
    "an unknown coding": ([b"transfer-encoding: xchunked"], IN_CHUNKS),
    "a coding behind chunks": ([b"transfer-encoding: chunked, identity"], IN_CHUNKS),
    "codings in two lines": ([b"transfer-encoding: identity", b"transfer-encoding: chunked"], IN_CHUNKS),
    "a coding before chunks": ([b"transfer-encoding: gzip, chunked"], IN_CHUNKS),
    "a vertical tab": ([b"transfer-encoding:\x0bchunked"], IN_CHUNKS),
    "a space before the colon": ([b"content-length : 45"], BODY),
    "a folded line": ([b"x: a\r\n b", b"content-length: 45"], BODY),
    "a folded coding": ([b"transfer-encoding:\r\n chunked"], IN_CHUNKS),
    "a bare line feed": ([b"x: a\ncontent-length: 45"], BODY),
    "a bare carriage return": ([b"x: a\rcontent-length: 45"], BODY),
    "a NUL": ([b"x: a\0b", b"content-length: 45"], BODY),
    "a line without a name": ([b": x", b"content-length: 45"], BODY),
    "two hosts": ([b"host: y", b"content-length: 45"], BODY),
    "two waits": ([b"x-imagegate-max-wait: 1", b"X-Imagegate-Max-Wait: 1", b"content-length: 45"], BODY),
    "two of a header to come": ([b"x-imagegate-tags: a", b"x-imagegate-tags: b", b"content-length: 45"], BODY),
    "two kinds of body": (
        [b"content-type: application/json", b"content-type: text/plain", b"content-length: 45"],
        BODY,
    ),
    "two encodings": ([b"content-encoding: identity", b"content-encoding: gzip", b"content-length: 45"], BODY),
    "two keys": ([b"authorization: Bearer another", b"content-length: 45"], BODY),
    "two keys of Azure's": ([b"api-key: one", b"Api-Key: another", b"content-length: 45"], BODY),
    "a negative chunk": ([b"transfer-encoding: chunked"], b"-5\r\nabc"),
    "a chunk of 17 digits": ([b"transfer-encoding: chunked"], b"f" * 17 + b"\r\nabc"),
    "chunks that end in line feeds": ([b"transfer-encoding: chunked"], IN_CHUNKS.replace(b"\r\n", b"\n")),
    "a chunk that is longer than it says": ([b"transfer-encoding: chunked"], b"3\r\nabcdef\r\n0\r\n\r\n"),
}


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"


HEADS_WITHOUT_A_HOST = {
    "HTTP/1.1": b"GET /healthz HTTP/1.1\r\n\r\n",
    "an absolute target": b"GET http://x/healthz HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/0.9, spelt": b"GET /healthz HTTP/0.9\r\nhost: x\r\n\r\n",
    "HTTP/2.0": b"GET /healthz HTTP/2.0\r\nhost: x\r\n\r\n",
}


NO_PATHS_OF_OURS = {
    b"/v1/%2fmodels": 404,
    b"//v1%2fmodels": 404,
    b"/v1/./models": 404,
    b"/V1/models": 404,
    b"/v1/models%00": 404,
    b"/v1/models;a=b": 404,
    b"/v1/models%0d%0ax-injected:%201": 404,
    b"/v1/models/%ff%fe": 404,
    b"/v1/models/..%2f..%2fadmin%2fv1%2ftenants": 404,
    b"/v1/%2e%2e/admin/v1/tenants": 404,
    b"/v1/../admin/v1/tenants": 404,
    b"/healthz/../metrics": 404,
    b"/%": 404,
    b"*": 404,
    b"http://evil.example/admin": 404,
    b"http://evil.example": 400,
    b"http://[/v1/models": 400,
    b"evil.example:443": 400,
    b"\\v1\\models": 400,
    b"/v1/models?\xff": 400,
    b"/v1/models\xc3\xa9": 400,
}


METHODS = {
    b"TRACE /v1/models": 405,
    b"PATCH /v1/models": 405,
    b"DELETE /v1/images/generations": 405,
    b"GET /v1/images/generations": 405,
    b"PROPFIND /v1/models": 405,
    b"CONNECT x:443": 400,
    b"get /v1/models": 400,
    b"BREW /v1/models": 400,
}


CHUNKED = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


FLOODS = {
    "requests without end": (b"", HEALTH * 2000),
    "expensive requests without end": (b"", b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 2000),
    "trailers without end": (CHUNKED + b"0\r\n", b"x-flood: yyyyyyyyyyyy\r\n" * 3000),
    "one trailer without end": (CHUNKED + b"0\r\nx-flood: ", b"y" * 65536),
    "one trailer without end behind a body": (
        CHUNKED + b"400000\r\n" + b"x" * 0x400000 + b"\r\n0\r\nx-flood: ",
        b"y" * 65536,
    ),
    "an extension without end": (CHUNKED + b"1;", b"y" * 65536),
    "a chunk's size without end": (CHUNKED, b"0" * 65536),
    "a header without end": (b"GET / HTTP/1.1\r\nhost: x\r\nx-flood: ", b"y" * 65536),
    "empty lines without end": (b"", b"\r\n" * 30_000),
}


PARTS = {
    "keys": b'{"model": "image-01", ' + b",".join(b'"k%d":1' % number for number in range(1_000_000)) + b"}",
    "lists": b'{"model": "image-01", "subject_reference": [' + b"[]," * 5_000_000 + b"[]]}",
    "numbers": b'{"model": "image-01", "subject_reference": [' + b"1e5," * 3_900_000 + b"1]}",
}


BROKEN: dict[str, bytes] = {
    "brackets that never close": b'{"prompt":' + b"[" * 500_000,
    "deep objects": b'{"prompt":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    "deep where depth is allowed": b'{"prompt":"x","subject_reference":' + b"[" * 9000 + b"]" * 9000 + b"}",
    "thousands of keys": b"{" + b",".join(b'"k%d":1' % number for number in range(60_000)) + b"}",
    "a number of 400000 digits": b'{"prompt":"x","n":' + b"9" * 400_000 + b"}",
    "a number beyond all": b'{"prompt":"x","n":1e999999999}',
    "not a number": b'{"prompt":"x","n":NaN}',
    "infinity": b'{"prompt":"x","n":Infinity}',
    "bytes that are no UTF-8": b'{"prompt":"\xff\xfe"}',
    "an overlong slash": b'{"prompt":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"prompt":"\xed\xa0\x80"}',
    "a lone surrogate": b'{"prompt":"\\ud800"}',
    "surrogates in the wrong order": b'{"prompt":"\\udc00\\ud800"}',
    "a lone surrogate in a key": b'{"prompt":"x","\\ud800":1}',
    "a NUL": b'{"prompt":"a\0b"}',
    "a line break": b'{"prompt":"a\nb"}',
    "UTF-16": '{"prompt":"x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"prompt":"x"}',
    "two documents": b'{"prompt":"x"}{"prompt":"y"}',
    "a comment": b'/**/{"prompt":"x"}',
    "gzip without its name": gzip.compress(b'{"prompt":"x"}'),
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
}
