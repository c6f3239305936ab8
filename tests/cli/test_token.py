"""`partyline token`: tokens that the server takes, and what is printed when none can be made."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from partyline import load
from partyline.relay.signers import check_keys
from partyline.trust.tokens import Signer, Tokens, public_key, secret_key
from tests.calls import call
from tests.cli.test_command_line import fails, run
from tests.process import serving
from tests.tokens import ED, SECRET, private_pem, public_pem, rsa


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings with a secret for two uses, of which the second may give admin rights, and a public key."""
    file = tmp_path / "partyline.toml"
    file.write_text(
        f'[[jwt_keys]]\nalgorithm = "EdDSA"\npublic_key = """\n{public_pem(ED)}"""\nissuer = "elsewhere"\n'
        f'[[jwt_keys]]\nalgorithm = "HS256"\nsecret = "{SECRET}"\naudience = "chat"\nissuer = "me"\n'
        f'[[jwt_keys]]\nalgorithm = "HS256"\nkid = "boss"\nsecret = "{SECRET[::-1]}"\nadmin = true\n'
    )
    return file


def parts(token: str) -> list[dict[str, Any]]:
    """Header and claims."""
    return [json.loads(base64.urlsafe_b64decode(piece + "==")) for piece in token.split(".")[:2]]


def made(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


@pytest.mark.check
def test_the_server_takes_it(config: Path) -> None:
    """A token made with the settings of a server is one that it takes, with the rights that were asked for."""
    token = made(run("token", "--config", str(config), "--sub", "alice", "--topics", "chat.*"))
    boss = made(run("token", "--config", str(config), "--sub", "bob", "--admin", "--key", "boss"))

    async def main() -> None:
        async with serving("--config", str(config)) as server:
            for by, path, body, status in (
                (token, "/v1/topics/chat.a/messages", {"data": 1}, 200),
                (token, "/v1/topics/news/messages", {"data": 1}, 403),
                (boss, "/v1/revocations", {"sub": "alice"}, 200),
                (token, "/v1/topics/chat.a/messages", {"data": 1}, 401),
            ):
                headers = {"Authorization": f"Bearer {by}"}
                assert (await call(server.url + path, "POST", body, headers=headers))[0] == status, path
            assert "token" in server.facts["access"]
            assert await server.end() == 0
            assert SECRET.encode() not in server.errors
            assert token.split(".")[1].encode() not in server.errors

    asyncio.run(main())


def test_what_it_says(config: Path) -> None:
    """A token's claims are what was asked for, with an id, an end after `--expires`, and whatever its key requires."""
    done = run(
        *("token", "--config", str(config), "--sub", "7", "--topics", "a", "--topics", "b.>"),
        *("--publish", "c", "--subscribe", "d.*", "--expires", "90m", "--json"),
    )
    found = json.loads(made(done))
    header, claims = parts(found["token"])
    assert (found["header"], found["claims"]) == (header, claims)
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert claims["topics"] == {"publish": ["a", "b.>", "c"], "subscribe": ["a", "b.>", "d.*"]}
    assert (claims["sub"], claims["aud"], claims["iss"]) == ("7", "chat", "me")
    assert claims["exp"] - claims["iat"] == 5400
    assert abs(claims["iat"] - time.time()) < 60
    assert "admin" not in claims
    other = json.loads(made(run("token", "--config", str(config), "--sub", "7", "--json")))
    assert other["claims"]["jti"] != claims["jti"]
    assert SECRET not in done.stdout


def test_a_file_signs(tmp_path: Path, config: Path) -> None:
    """`--secret-file` holds a secret or a private key: the token is verified by the secret or by the public key, and
    has the claims that the settings give for its algorithm."""
    for text, algorithm, key in (
        (SECRET + "\n", "HS256", secret_key(SECRET.encode())),
        (private_pem(rsa()), "RS256", public_key("RS256", public_pem(rsa()))),
        (private_pem(ED), "EdDSA", public_key("EdDSA", public_pem(ED))),
    ):
        file = tmp_path / "key"
        file.write_text(text)
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        token = made(run("token", "--sub", "ann", "--topics", "a", "--secret-file", str(file)))
        assert parts(token)[0]["alg"] == algorithm
        who = Tokens([Signer(algorithm, (key,))], 86400).verify(token, time.time())  # type: ignore[arg-type]
        assert (who.user, who.publish) == ("ann", ("a",))
        claims = parts(
            made(run("token", "--sub", "ann", "--secret-file", str(file), "--config", str(config), "--key", "k9"))
        )
        assert claims[0]["kid"] == "k9"
        claims = parts(made(run("token", "--sub", "ann", "--secret-file", str(file), "--config", str(config))))
        assert claims[1].get("iss") == {"HS256": "me", "RS256": None, "EdDSA": "elsewhere"}[algorithm]


def test_without_a_key_it_says_what_to_add(tmp_path: Path, config: Path) -> None:
    """If no key can sign, the line says which option or setting helps; the setting can be copied unchanged."""
    done = run("token", "--sub", "ann", cwd=tmp_path)
    fails(done, "--secret-file", "--config", "jwt_keys")
    text = done.stderr[done.stderr.index("jwt_keys = ") :]
    tomllib.loads(text)
    file = tmp_path / "new.toml"
    file.write_text(text)
    check_keys(load(file=str(file), environ={}).settings.jwt_keys)
    made(run("token", "--sub", "ann", "--config", str(file)))
    file.write_text(f'[[jwt_keys]]\nalgorithm = "EdDSA"\npublic_key = """\n{public_pem(ED)}"""\n')
    fails(run("token", "--sub", "ann", "--config", str(file)), "--secret-file", "private key")
    fails(run("token", "--sub", "ann", "--config", str(config), "--key", "none"), "'none'", "--secret-file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sub", ""), ("sub",)),
        (("--sub", "x" * 129), ("sub", "128")),
        (("--sub", "ann", "--topics", "a b"), ("'a b'", "pattern")),
        (("--sub", "ann", "--subscribe", ">.a"), ("'>.a'", "pattern")),
        (("--sub", "ann", "--expires", "2d"), ("expires", "jwt_max_life")),
        (("--sub", "ann", "--expires", "0"), ("expires",)),
        (("--sub", "ann", "--expires", "soon"), ("expires", "'soon'")),
        (("--sub", "ann", "--admin"), ("--admin", "admin = true")),
        (("--sub", "ann", "--secret-file", "missing"), ("missing", "No such file")),
        (("--sub", "ann", *(word for n in range(99) for word in ("--topics", f"{'x' * 60}{n}"))), ("topics", "8192")),
        (("--sub", "ann", "--set", "jwt_keys=secret"), ("jwt_keys", "[not shown]")),
    ],
)
def test_what_cannot_be_made(config: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """A token that no server would take is not made: one line names the option, the value and the way out."""
    done = run("token", "--config", str(config), *arguments)
    fails(done, *words)
    assert SECRET not in done.stderr


def test_config_never_shows_a_secret(config: Path) -> None:
    """`config` says where a key comes from and not what it is; an error about it does not repeat it (hostile 39)."""
    for arguments in (("--json",), ()):
        done = run("config", "--show", "--config", str(config), *arguments)
        assert done.returncode == 0, done.stderr
        assert "HS256" in done.stdout
        assert SECRET not in done.stdout
        assert SECRET[::-1] not in done.stdout
    config.write_text(f'[[jwt_keys]]\nalgorithm = "RS256"\nsecret = "{SECRET}"\n')
    done = run("serve", "--config", str(config))
    fails(done, "jwt_keys", "RS256", "public_key_file")
    assert SECRET not in done.stderr
