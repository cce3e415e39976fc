"""Certificates for tests, for this machine's loopback."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSPHRASE = b"a passphrase"


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path

    @property
    def trusted(self) -> ssl.SSLContext:
        """Returns a client context that trusts only the present certificate."""
        return ssl.create_default_context(cadata=self.certificate.read_text())

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number


def certify(folder: Path, *hosts: str, days: float = 90, passphrase: bytes | None = None) -> Files:
    """Writes a new certificate and key for loopback and `hosts` into a folder, replacing earlier ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, " ".join(("imagegate test", *hosts)))])
    now, own = dt.datetime.now(dt.UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([own, *map(x509.DNSName, hosts)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    files = Files(folder / "tls.crt", folder / "tls.key")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return files
