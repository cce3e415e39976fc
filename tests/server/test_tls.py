"""The certificate of new connections, when its files change."""

import ssl
from contextlib import suppress
from pathlib import Path

from gateway.config import Tls
from gateway.server.tls import Certificate
from tests.support.certificates import certify


def is_shown(context: ssl.SSLContext | None, client: ssl.SSLContext) -> bool:
    """Whether a client accepts the certificate of this context."""
    assert context is not None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for side in sides * 3:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_handshake_that_has_begun_ends_with_the_certificate_with_which_it_began(tmp_path: Path) -> None:
    first = certify(tmp_path)
    certificate, trusts_first = Certificate(Tls(certificate=str(first.certificate), key=str(first.key))), first.trusted
    certificate.load()
    begun = certificate.context
    trusts_second = certify(tmp_path).trusted
    for _ in range(5):
        certificate.poll()
    assert is_shown(certificate.context, trusts_second)
    assert not is_shown(certificate.context, trusts_first)
    assert is_shown(begun, trusts_first)
