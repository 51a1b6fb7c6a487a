"""Who may use the endpoint: TLS, client certificates and users, by exporter-toolkit's web configuration file.

The file is that of Prometheus' own exporters, unchanged:
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
It is read again when it changes; one that is wrong then is logged, and the last good one stays in force.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt

from detector.errors import ConfigError
from detector.web.rules import CLIENTS, VERSIONS, Rules, Tls, openssl_name, parsed

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0  # after a file was refused, whether it has changed or not
_REMEMBERED = 100  # passwords whose check, which is slow on purpose, is not repeated
_NOBODY = b"$2b$10$SJLdKBqsJRxGOoT0nkLB8O0AWNuSWVCdmkQnDrMFsYSSeOJKjcRUm"
"""A hash that is compared with if there is no such user: so it takes as long as for one there is."""


@dataclass
class Access:
    """The web configuration in force; without a file anybody may read, nobody may act."""

    path: Path | None = None
    _seen: object = None
    _rules: Rules = field(default_factory=lambda: Rules(basic_auth_users={}))
    _context: ssl.SSLContext | None = None
    _known: OrderedDict[bytes, bool] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    _refused: str | None = None  # what is wrong with the file as it is now
    _retry_at: float = 0.0  # of the monotonic clock

    def __post_init__(self) -> None:
        if self.path is not None:
            self._seen = ()  # nothing, so that a file that changes meanwhile is read again
            self._read(is_first=True)
            self._seen = self._stamp()

    @property
    def rules(self) -> Rules:
        """The rules in force: those of the file, as it is now, if that is right."""
        self._follow()
        return self._rules

    @property
    def is_read_only(self) -> bool:
        """Whether nobody is told apart, so that nobody may change anything."""
        return not self.rules.basic_auth_users

    @property
    def is_tls(self) -> bool:
        """Whether the endpoint speaks TLS; that does not change while it runs."""
        return self._context is not None

    def context(self) -> ssl.SSLContext:
        """What TLS connections are made with: it asks for the certificates as they are at that moment."""
        return _Current(self._in_force)

    def _in_force(self) -> ssl.SSLContext | None:
        self._follow()
        return self._context

    def admits(self, path: str, authorization: str) -> tuple[bool, str]:
        """Whether a request may be answered, and the user that it comes from: "" for one that said nothing.

        authorization: the header's value
        """
        rules = self.rules
        if not rules.basic_auth_users:
            return True, ""
        user, password = _credentials(authorization)
        if user and self._is_right(user, rules.basic_auth_users.get(user), password):
            return True, user
        return path in rules.auth_excluded_paths, ""

    def knows(self, authorization: str) -> bool:
        """Whether this is a user and a password that were right before, so that saying so takes no time."""
        user, password = _credentials(authorization)
        return _key(user, self.rules.basic_auth_users.get(user, ""), password) in self._known

    def _is_right(self, user: str, hashed: str | None, password: bytes) -> bool:
        key = _key(user, hashed or "", password)
        if key in self._known:
            return True
        if not _matches(password, hashed.encode() if hashed else _NOBODY) or hashed is None:
            return False
        with self._lock:  # only right ones are remembered, or wrong ones would push them out
            self._known[key] = True
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return True

    def _follow(self) -> None:
        """Reads the file again if it, or a file it names, is another one than before."""
        if self.path is None or not self._has_changed():
            return
        with self._lock:
            if not self._has_changed():
                return
            seen = self._stamp()  # before it is read: what changes meanwhile is read next time
            self._retry_at = time.monotonic() + _RETRY_SECONDS  # of files that it names, which may come yet
            try:
                self._read()
            except ConfigError as exc:
                if str(exc) != self._refused:
                    logger.error("event=web_config_refused reason=%r; the last good one stays in force", str(exc))
                self._refused = str(exc)
            else:
                self._refused = None
                logger.info("event=web_config_read")
            self._seen = seen

    def _has_changed(self) -> bool:
        is_due = self._refused is not None and time.monotonic() >= self._retry_at
        return is_due or self._stamp() != self._seen

    def _stamp(self) -> object:
        tls = self._rules.tls_server_config
        names = () if tls is None else (tls.cert_file, tls.key_file, tls.client_ca_file)
        return [_identity(path) for path in (self.path, *map(self._beside, filter(None, names))) if path]

    def _beside(self, name: str) -> Path:
        assert self.path is not None
        return self.path.parent / name

    def _read(self, *, is_first: bool = False) -> None:
        assert self.path is not None
        rules = parsed(self.path)
        context = None if rules.tls_server_config is None else self._made(rules.tls_server_config)
        if not is_first and (context is None) != (self._context is None):
            msg = f"{self.path}: TLS is switched on or off by a restart of the daemon only"
            raise ConfigError(msg)
        if not is_first and self._rules.basic_auth_users and not rules.basic_auth_users:
            # an editor empties a file for a moment: nobody must be let in by that
            msg = f"{self.path}: has no basic_auth_users any more; they are taken away by a restart of the daemon only"
            raise ConfigError(msg)
        self._rules, self._context = rules, context

    def _made(self, tls: Tls) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.minimum_version, context.maximum_version = VERSIONS[tls.min_version], VERSIONS[tls.max_version]
            if tls.cipher_suites:
                context.set_ciphers(":".join(filter(None, map(openssl_name, tls.cipher_suites))))
            if tls.cert_file:
                context.load_cert_chain(self._beside(tls.cert_file), self._beside(tls.key_file), password=_no_password)
            else:
                _load_in_place(context, tls)
            context.verify_mode = CLIENTS.get(tls.client_auth_type, ssl.CERT_NONE)
            if tls.client_ca_file:
                context.load_verify_locations(self._beside(tls.client_ca_file))
            elif tls.client_ca:
                context.load_verify_locations(cadata=tls.client_ca)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            where = ", ".join(filter(None, (tls.cert_file, tls.key_file, tls.client_ca_file))) or "certificate in place"
            msg = f"{self.path}: tls_server_config: {where}: {getattr(exc, 'strerror', None) or exc}"
            raise ConfigError(msg) from None
        return context

    def allows(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a client with this certificate, as `SSLObject.getpeercert` gives it, may connect."""
        tls = self._rules.tls_server_config
        if tls is None or not tls.client_allowed_sans:
            return True
        names = [value for _, value in (certificate or {}).get("subjectAltName", ())]
        return any(name in tls.client_allowed_sans for name in names)


class _Current(ssl.SSLContext):
    """A context whose connections are made by the one in force at that moment."""

    _of: Callable[[], ssl.SSLContext | None]

    def __new__(cls, of: Callable[[], ssl.SSLContext | None]) -> _Current:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._of = of
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """A connection; asyncio calls this for every one."""
        current = self._of()
        assert current is not None
        return current.wrap_bio(*args, **kwargs)


def _key(user: str, hashed: str, password: bytes) -> bytes:
    parts = (user.encode(), hashed.encode(), password)
    return hashlib.sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).digest()


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _credentials(authorization: str) -> tuple[str, bytes]:
    """User and password of an Authorization header, "" if there are none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return user.decode(), password
    except (binascii.Error, ValueError):
        return "", b""


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:  # more than 72 bytes, or a damaged hash
        return False


def _no_password() -> str:
    """Nobody is there to be asked for the password of a key."""
    msg = "the key is encrypted; give one without a password"
    raise ValueError(msg)


def _load_in_place(context: ssl.SSLContext, tls: Tls) -> None:
    """A certificate and a key that the file itself holds: OpenSSL reads them only from a file."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # readable by this user only
        file.write(f"{tls.cert}\n{tls.key}\n")
        file.flush()
        context.load_cert_chain(file.name, password=_no_password)
