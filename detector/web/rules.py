"""Exporter-toolkit's web configuration file, as it is written.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from detector.errors import ConfigError

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
CLIENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Table):
    """`tls_server_config`."""

    cert: str = ""
    key: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca: str = ""
    client_ca_file: str = ""
    client_auth_type: Literal["", "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    curve_preferences: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True

    @field_validator("client_auth_type", mode="before")
    @classmethod
    def _can_be_verified(cls, value: object) -> object:
        if value in {"RequestClientCert", "RequireAnyClientCert"}:
            msg = "takes client certificates without verifying them, which OpenSSL's Python binding cannot;"
            raise ValueError(f"{msg} write VerifyClientCertIfGiven or RequireAndVerifyClientCert")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Tls:
        for name in ("cert", "key"):
            if bool(getattr(self, name)) == bool(getattr(self, f"{name}_file")):
                msg = f"needs exactly one of `{name}_file` and `{name}`"
                raise ValueError(msg)
        if (self.cert and self.key_file) or (self.key and self.cert_file):
            msg = "needs certificate and key in the same way, both as files or both in place"
            raise ValueError(msg)
        has_ca = bool(self.client_ca or self.client_ca_file)
        if has_ca != (CLIENTS.get(self.client_auth_type, ssl.CERT_NONE) is not ssl.CERT_NONE):
            msg = "needs `client_ca_file` and a `client_auth_type` that verifies, or neither"
            raise ValueError(msg)
        return self


_HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)


class Http(_Table):
    """`http_server_config`. HTTP/2 is not spoken, whatever `http2` says: clients then use HTTP/1.1."""

    http2: bool = True
    headers: dict[str, str] = Field(default_factory=dict)

    @field_validator("headers")
    @classmethod
    def _is_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in _HEADERS:
                msg = f"may set {', '.join(_HEADERS)}; received {name!r}"
                raise ValueError(msg)
        return value


class Rules(_Table):
    """A web configuration file."""

    tls_server_config: Tls | None = None
    http_server_config: Http = Http()
    basic_auth_users: Annotated[dict[str, str], Field(default_factory=dict)]
    auth_excluded_paths: tuple[str, ...] = ()

    @field_validator("basic_auth_users")
    @classmethod
    def _is_bcrypt(cls, value: dict[str, str]) -> dict[str, str]:
        for user, hashed in value.items():
            if not hashed.startswith(("$2a$", "$2b$", "$2y$")):
                msg = f"must hold a bcrypt hash for every user, as `htpasswd -nBC 10 NAME` prints it; {user!r} has none"
                raise ValueError(msg)
        return value


def parsed(path: Path) -> Rules:
    """A file's rules. Raises: ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"export.web_config: {path} cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(exc).split())}") from exc
    try:
        return Rules.model_validate({"basic_auth_users": {}} | (content or {}))
    except (ValidationError, TypeError) as exc:
        raise ConfigError(f"{path}: {_first(exc)}") from None


def _first(exc: ValidationError | TypeError) -> str:
    """The first error in a line, without what was received: it may be a hash."""
    if isinstance(exc, TypeError):
        return "must be a table of tls_server_config, http_server_config and basic_auth_users"
    error = exc.errors()[0]
    where = ".".join(str(part) for part in error["loc"])
    words = error["msg"].removeprefix("Value error, ")
    return f"{where}: {'unknown key' if error['type'] == 'extra_forbidden' else words}"


def openssl_name(suite: str) -> str:
    """OpenSSL's name of a cipher suite, from the name that Go and the RFCs use; "" for those of TLS 1.3.

    Those of TLS 1.3 are not chosen one by one in Go either.
    """
    key, _, cipher = suite.removeprefix("TLS_").partition("_WITH_")
    if not cipher:
        return ""
    name = cipher.replace("AES_128", "AES128").replace("AES_256", "AES256").replace("_CBC", "")
    name = name.replace("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305").replace(
        "CHACHA20_POLY1305", "CHACHA20-POLY1305"
    )
    exchange = "" if key == "RSA" else key.replace("_", "-") + "-"
    return exchange + name.replace("_", "-")
