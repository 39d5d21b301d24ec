"""TLS from a certificate and a key in files, and a change of them without a restart.

    start     unreadable, mismatched or encrypted files are an error that names the file; an expired certificate is a warning:
              a server that starts and says so can be mended, one that does not start cannot be asked
    reload    a new context is built from the files as they are then; only a whole one takes over, for handshakes from then on

One context listens for the life of the server, and hands each handshake to the latest one (`SSLContext.sni_callback`, which
OpenSSL also calls for clients that name no host). Loading new files into the listening context itself would leave it without
a key where certificate and key do not match.
"""

from __future__ import annotations

import ssl
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import Settings
from gateway.errors import HouseError

# Certificates of 90 days are usually renewed when 30 are left: with fewer than 14 something has failed.
EXPIRES_SOON_S = 14 * 86_400


@dataclass(frozen=True, slots=True)
class Files:
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Loaded:
    """A server's context with the certificates that it shows (PEM), and warnings about them (a sentence each, with the next
    step)."""

    context: ssl.SSLContext
    certificates: bytes
    warnings: tuple[str, ...]


class Tls:
    """The certificate in force. `context` is for listening; `warnings` are about the files that were loaded last."""

    def __init__(self, files: Files) -> None:
        """Raises HouseError for files that cannot be served from."""
        loaded = load_certificate(files)
        self.context, self.warnings = loaded.context, loaded.warnings
        self._latest, self._certificates = self.context, loaded.certificates
        self.context.sni_callback = self._hand_over

    def take(self, loaded: Loaded) -> bool:
        """For new connections; those that are open go on. Whether it is another certificate than before."""
        changed = loaded.certificates != self._certificates
        self._latest, self._certificates, self.warnings = loaded.context, loaded.certificates, loaded.warnings
        return changed

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, listening: ssl.SSLContext) -> None:
        connection.context = self._latest


def find_files(settings: Settings) -> Files | None:
    """What the configuration names, None if it names no certificate; nothing is opened."""
    server = settings.server
    if not server.tls_certificate_file:
        return None
    return Files(settings.folder / server.tls_certificate_file, settings.folder / server.tls_key_file)


def load_certificate(files: Files) -> Loaded:
    """What the files hold now. Raises HouseError that says why they cannot be served from."""
    certificate_file, key_file = files.certificate, files.key
    certificates = _read(certificate_file, "certificate")
    if b"-----BEGIN CERTIFICATE-----" not in certificates:
        raise HouseError(
            "unavailable",
            f"the TLS certificate {certificate_file} holds no PEM certificate (-----BEGIN CERTIFICATE-----): name the full chain "
            "in server.tls_certificate_file",
        )
    key = _read(key_file, "key")
    if b" PRIVATE KEY-----" not in key:
        raise HouseError(
            "unavailable",
            f"the TLS key {key_file} holds no PEM key (-----BEGIN PRIVATE KEY-----): name the certificate's own key in "
            "server.tls_key_file",
        )
    context = _new_context()
    try:
        context.load_cert_chain(certificate_file, key_file, password=lambda: _refuse_passphrase(key_file))
    except (ssl.SSLError, OSError) as error:
        raise HouseError("unavailable", _reason(error, files)) from None
    return Loaded(context, certificates, tuple(_warnings(files, certificates)))


def validity(pem: bytes) -> tuple[float, float]:
    """(not before, not after) of the first certificate of a PEM text, in seconds since 1970. Raises ValueError.

    Walks the DER to where RFC 5280 §4.1 has it: the ssl module tells a certificate's dates only to who has verified it.
    """
    _, begin, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition(b"-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert((begin + body + end).decode("ascii"))
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, after = _element(fields)
    if tag == 0xA0:  # the version, which only a v1 certificate has not
        fields = after
    for _ in ("serial number", "signature algorithm", "issuer"):
        _, _, fields = _element(fields)
    _, dates, _ = _element(fields)
    tag_before, before, dates = _element(dates)
    tag_after, after, _ = _element(dates)
    return _seconds(tag_before, before), _seconds(tag_after, after)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _new_context() -> ssl.SSLContext:
    """Python's own defaults for a server (forward-secret AEAD ciphers), TLS 1.2 and 1.3, and nothing but HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could make us repeat the handshake, the dear part, as often as it likes.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(path: Path, noun: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HouseError(
            "unavailable",
            f"the TLS {noun} {path} cannot be read: {error.strerror}; correct server.tls_{noun}_file (a relative path starts "
            "beside the config file) or let this user read it",
        ) from None
    except ValueError:  # a NUL in it
        raise HouseError("unavailable", f"server.tls_{noun}_file is not the path of a file") from None


def _refuse_passphrase(key_file: Path) -> str:
    # Without this OpenSSL would ask for it on the terminal, and wait.
    raise HouseError(
        "unavailable",
        f"the TLS key {key_file} is encrypted, and nobody is there to type its passphrase: store it without one "
        "(openssl pkey -in OLD -out NEW) and chmod 600 it",
    )


def _reason(error: OSError, files: Files) -> str:
    certificate_file, key_file = files.certificate, files.key
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return (
            f"the TLS key {key_file} does not belong to the first certificate of {certificate_file}: name the pair that was made "
            "together; the server's own certificate comes first in its file, its chain after it"
        )
    if reason == "EE_KEY_TOO_SMALL" or reason == "CA_MD_TOO_WEAK":
        return f"the TLS certificate {certificate_file} is too weak for OpenSSL ({reason}): have one made with a larger key"
    words = reason or error.strerror or type(error).__name__
    return f"TLS cannot be served from {certificate_file} and {key_file}: one of them is damaged ({words}); have them made again"


def _warnings(files: Files, certificates: bytes) -> list[str]:
    warnings = []
    certificate_file, key_file = files.certificate, files.key
    now = time.time()
    try:
        not_before, not_after = validity(certificates)
    except ValueError:
        warnings.append(f"the TLS certificate {certificate_file} does not tell its dates; look at it with openssl x509 -dates.")
    else:
        if not_after <= now:
            warnings.append(f"the TLS certificate {certificate_file} expired on {_day(not_after)}: renew it, then reload.")
        elif not_after - now < EXPIRES_SOON_S:
            warnings.append(f"the TLS certificate {certificate_file} expires on {_day(not_after)}: renew it, then reload.")
        if not_before > now:
            warnings.append(
                f"the TLS certificate {certificate_file} is not valid before {_day(not_before)}: is this machine's clock right?"
            )
    if key_file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        warnings.append(f"every user of this machine can read the TLS key {key_file}; chmod 600 it.")
    return warnings


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """(tag, contents, what follows) of the first DER element (ITU-T X.690 §8.1, definite lengths)."""
    if len(der) < 2:
        raise ValueError("DER is cut off")
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if len(der) < start + size:
        raise ValueError("DER is cut off")
    return der[0], der[start : start + size], der[start + size :]


def _seconds(tag: int, text: bytes) -> float:
    """UTCTime has two digits of a year, and 50 means 1950 (RFC 5280 §4.1.2.5.1); Python's %y turns at 69."""
    digits = text.decode("ascii")
    if tag == 0x17:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
