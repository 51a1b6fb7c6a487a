"""Exporter-toolkit's web configuration: users, what is wrong with a file, and files that change."""

from __future__ import annotations

import base64
import logging
import os
import re
from pathlib import Path

import bcrypt
import pytest

from detector.errors import ConfigError
from detector.web.access import Access
from detector.web.rules import openssl_name


def _hash(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _written(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def test_without_a_file_anybody_is_admitted_and_nobody_named() -> None:
    assert Access().admits("/metrics", "") == (True, "")
    assert Access().admits("/metrics", _basic("ana", "x")) == (True, "")


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (_basic("ana", "right"), (True, "ana")),
        (_basic("ana", "wrong"), (False, "")),
        (_basic("bo", "right"), (False, "")),
        (_basic("ana", "r" * 200), (False, "")),
        (_basic("", "right"), (False, "")),
        ("", (False, "")),
        ("Bearer ana:right", (False, "")),
        ("Basic not base64!", (False, "")),
        ("Basic " + base64.b64encode(b"\xff\xfe:right").decode(), (False, "")),
    ],
)
def test_only_a_user_with_the_right_password_is_admitted(
    tmp_path: Path, authorization: str, expected: tuple[bool, str]
) -> None:
    access = Access(_written(tmp_path, f"basic_auth_users: {{ana: '{_hash('right')}'}}"))

    assert access.admits("/", authorization) == expected
    assert access.admits("/", authorization) == expected  # from memory


def test_excluded_paths_need_no_password(tmp_path: Path) -> None:
    text = f"basic_auth_users: {{ana: '{_hash('right')}'}}\nauth_excluded_paths: [/healthz]"
    access = Access(_written(tmp_path, text))

    assert access.admits("/healthz", "") == (True, "")
    assert access.admits("/healthz2", "") == (False, "")


def test_a_password_that_changes_is_the_only_one_from_then_on(tmp_path: Path) -> None:
    path = _written(tmp_path, f"basic_auth_users: {{ana: '{_hash('old')}'}}")
    access = Access(path)
    assert access.admits("/", _basic("ana", "old")) == (True, "ana")

    path.write_text(f"basic_auth_users: {{ana: '{_hash('new')}'}}  # another length")

    assert access.admits("/", _basic("ana", "old")) == (False, "")
    assert access.admits("/", _basic("ana", "new")) == (True, "ana")


def test_a_file_that_becomes_wrong_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _written(tmp_path, f"basic_auth_users: {{ana: '{_hash('right')}'}}")
    access = Access(path)

    path.write_text("basic_auth_users: [")
    with caplog.at_level(logging.ERROR):
        answers = {access.admits("/", _basic("ana", "right")) for _ in range(3)}
        os.unlink(path)
        answers |= {access.admits("/", ""), access.admits("/", "")}

    assert answers == {(True, "ana"), (False, "")}  # never open to anybody
    assert [record.getMessage().split()[0] for record in caplog.records] == ["event=web_config_refused"] * 2


def test_a_file_that_is_emptied_for_a_moment_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _written(tmp_path, f"basic_auth_users: {{ana: '{_hash('right')}'}}")
    access = Access(path)

    with caplog.at_level(logging.ERROR):
        path.write_text("")
        while_empty = access.admits("/", ""), access.is_read_only
        path.write_text(f"basic_auth_users: {{bo: '{_hash('right')}'}}")

    assert while_empty == ((False, ""), False)
    assert [access.admits("/", _basic(user, "right"))[0] for user in ("ana", "bo")] == [False, True]
    assert "are taken away by a restart of the daemon only" in caplog.text


def test_a_file_that_was_refused_is_read_again_when_it_is_right(tmp_path: Path) -> None:
    path = _written(tmp_path, f"basic_auth_users: {{ana: '{_hash('right')}'}}")
    access, users = Access(path), f"basic_auth_users: {{bo: '{_hash('right')}'}}"
    path.write_text(f"{users}\nno_such_table: {{}}")
    assert access.admits("/", _basic("bo", "right"))[0] is False
    path.write_text(users)

    assert access.admits("/", _basic("bo", "right")) == (True, "bo")


def test_a_right_password_is_known_and_wrong_ones_do_not_push_it_out(tmp_path: Path) -> None:
    access = Access(_written(tmp_path, f"basic_auth_users: {{ana: '{_hash('right')}'}}"))
    assert not access.knows(_basic("ana", "right"))
    access.admits("/", _basic("ana", "right"))

    for number in range(200):
        access.admits("/", _basic("ana", f"wrong {number}"))

    assert access.knows(_basic("ana", "right"))
    assert not access.knows(_basic("ana", "wrong 199"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "must be a table"),
        ("basic_auth_user: {}", "basic_auth_user: unknown key"),
        ("basic_auth_users: {ana: secret}", "must hold a bcrypt hash for every user, as `htpasswd -nBC 10 NAME`"),
        ("tls_server_config: {cert_file: a.pem}", "needs exactly one of `key_file` and `key`"),
        ("tls_server_config: {cert_file: no.pem, key_file: no.key}", "No such file"),
        ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}", "without verifying"),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}",
            "needs `client_ca_file` and a `client_auth_type` that verifies",
        ),
        ("http_server_config: {headers: {X-Powered-By: me}}", "may set Content-Security-Policy"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_without_secrets(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        Access(_written(tmp_path, text))

    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "name"),
    [  # names of RFC 5246, 5289 and 7905, and those of OpenSSL's manual
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("TLS_RSA_WITH_AES_128_CBC_SHA", "AES128-SHA"),
        ("TLS_AES_128_GCM_SHA256", ""),
    ],
)
def test_cipher_suites_have_openssls_names(suite: str, name: str) -> None:
    assert openssl_name(suite) == name
