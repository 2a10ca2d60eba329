"""An authority, a certificate for 127.0.0.1 and keys of sites, made for a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID


def make_certificates(folder: Path, sites: int) -> Path:
    """ca.pem, server.pem, server.key, and site-N with site-N.pub for each site."""
    folder.mkdir(parents=True)
    authority, server = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federation")])
    begin = datetime.now(UTC) - timedelta(days=1)

    def certificate(key, *extensions):
        builder = x509.CertificateBuilder().issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin)
        builder = builder.not_valid_after(begin + timedelta(days=9))
        subject = name if key is authority else x509.Name([])
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.subject_name(subject).sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)

    def private(key, form):
        return key.private_bytes(Encoding.PEM, form, NoEncryption())

    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    files = {
        "ca.pem": certificate(authority, (x509.BasicConstraints(True, 0), True), (usage, True)),
        "server.pem": certificate(server, (here, True), (x509.BasicConstraints(False, None), True)),
        "server.key": private(server, PrivateFormat.PKCS8),
    }
    for number in range(sites):
        key = ec.generate_private_key(ec.SECP384R1())
        files[f"site-{number}"] = private(key, PrivateFormat.OpenSSH)
        files[f"site-{number}.pub"] = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder
