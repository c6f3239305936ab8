"""Settings: where a value comes from, what it may be, and how a bad one is refused."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from partyline import notation
from partyline.config import FIELDS, Settings, load
from partyline.entries import ApiKey, JwtKey, RetentionRule
from partyline.errors import ConfigError

HASH = "sha256:" + "0123456789abcdef" * 4
SECRET = "pl_ThisIsAKeyAndNobodyIsToSeeIt"


def value(name: str, given: Any) -> Any:
    """What a setting becomes when a flag gives it this value."""
    return getattr(load({name: given}, environ={}).settings, name)


def refusal(
    flags: Mapping[str, Any] | None = None, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> ConfigError:
    """The error with which settings are refused."""
    with pytest.raises(ConfigError) as caught:
        load(flags, file=None if file is None else str(file), environ=environ or {})
    return caught.value


def written(folder: Path, text: str) -> Path:
    path = folder / "partyline.toml"
    path.write_text(text, "utf-8")
    return path


# Where values come from


def test_without_anything_all_is_default() -> None:
    """With no file, no environment and no flags every setting has its default and says so."""
    loaded = load(environ={})
    assert loaded.settings == Settings()
    assert set(loaded.sources) == set(FIELDS)
    assert set(loaded.sources.values()) == {"default"}


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    """Defaults < file < environment < flags, setting by setting, and each value knows where it came from."""
    path = written(tmp_path, "port = 1001\nmax_body = 1001\nmax_headers = 1001\n")
    environ = {"PARTYLINE_PORT": "1002", "PARTYLINE_MAX_BODY": "1002"}
    loaded = load({"port": "1003"}, file=str(path), environ=environ)
    settings = loaded.settings
    assert (settings.port, settings.max_body, settings.max_headers) == (1003, 1002, 1001)
    assert settings.max_fragments == Settings().max_fragments
    assert {name: loaded.sources[name] for name in ("port", "max_body", "max_headers", "max_fragments")} == {
        "port": "--port",
        "max_body": "PARTYLINE_MAX_BODY",
        "max_headers": str(path),
        "max_fragments": "default",
    }


def test_a_flag_that_is_none_was_not_given() -> None:
    """None leaves a setting to the environment; False, 0 and an empty list are values."""
    loaded = load(
        {"port": None, "max_headers": None, "classic_errors": False, "drain_time": 0, "default_topics": []},
        environ={"PARTYLINE_PORT": "99"},
    )
    assert loaded.settings.port == 99
    assert loaded.sources["max_headers"] == "default"
    assert loaded.settings.classic_errors is False
    assert loaded.settings.drain_time == 0.0
    assert loaded.settings.default_topics == ()


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    """PARTYLINE_CONFIG names the file, unless a file is given, which is then the only one read."""
    named = written(tmp_path, "port = 1\nmax_body = 1\n")
    given = tmp_path / "given.toml"
    given.write_text("port = 2\n")
    environ = {"PARTYLINE_CONFIG": str(named)}
    assert load(environ=environ).settings.port == 1
    assert load(environ=environ).sources["port"] == str(named)
    settings = load(file=str(given), environ=environ).settings
    assert (settings.port, settings.max_body) == (2, Settings().max_body)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment given, that of the process is read."""
    for name in [name for name in os.environ if name.startswith("PARTYLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PARTYLINE_PORT", "4321")
    assert load().settings.port == 4321


def test_other_variables_are_nobodys_settings() -> None:
    """Variables that are not settings, like those of the command line, are ignored, and case matters."""
    environ = {
        "PARTYLINE_URL": "http://x",
        "PARTYLINE_KEY": "x",
        "PORT": "1",
        "partyline_port": "2",
        "Partyline_Port": "3",
    }
    assert load(environ=environ).settings == Settings()


SAMPLES: dict[str, tuple[str, Any]] = {
    "": ("some text", "some text"),
    "count": ("4096", 4096),
    "bytes": ("4KiB", 4096),
    "seconds": ("4m", 240.0),
    "rate": ("4096", 4096.0),
    "workers": ("auto", 0),
    "list": ("a, b", ("a", "b")),
    "keys": (HASH, (ApiKey(HASH, admin=True),)),
    "jwt_keys": (
        "[{algorithm = 'HS256', secret_file = 'key', leeway = '5s'}]",
        (JwtKey("HS256", secret_file="key", leeway=5.0),),
    ),
    "retention": ("[{ topic = 'logs.>', max_age = '1h' }]", (RetentionRule("logs.>", 3600.0),)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_be_set_everywhere(name: str, tmp_path: Path) -> None:
    """Each setting has one name: in the file, in capitals after PARTYLINE_ in the environment, and as a flag."""
    meta = FIELDS[name].metadata
    if meta["choices"]:
        text = expected = next(choice for choice in meta["choices"] if choice != FIELDS[name].default)
    elif str(FIELDS[name].type).startswith("bool"):
        expected = not FIELDS[name].default
        text = str(expected).lower()
    else:
        text, expected = SAMPLES[meta["kind"]]
        expected = float(expected) if str(FIELDS[name].type).startswith("float") else expected
    path = written(tmp_path, f'{name} = "{text}"\n')
    for loaded in (
        load(file=str(path), environ={}),
        load(environ={f"PARTYLINE_{name.upper()}": text}),
        load({name: text}, environ={}),
    ):
        assert loaded.value(name) == expected
        assert type(loaded.value(name)) is type(expected)
        assert [other for other, source in loaded.sources.items() if source != "default"] == [name]


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_allowed(name: str) -> None:
    """The default of each setting is a valid value, which is not changed by checking."""
    default = FIELDS[name].default
    if default is None:
        return
    assert value(name, default) == default


def test_every_setting_is_explained() -> None:
    """Each setting has a description of one line."""
    for name, field in FIELDS.items():
        about = field.metadata["about"]
        assert 5 < len(about) < 80, name
        assert about.isprintable(), name


def test_settings_do_not_change() -> None:
    """Settings are immutable."""
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


# Values


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024", 1024),
        (2048, 2048),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("64KB", 64_000),
        ("1MiB", 1 << 20),
        ("1.5MiB", 3 << 19),
        ("2mb", 2_000_000),
        ("1GiB", 1 << 30),
        ("1gb", 10**9),
        ("1.1kb", 1100),
        ("2000B", 2000),
        (" 2000 ", 2000),
        (2048.0, 2048),
    ],
)
def test_sizes(text: Any, count: int) -> None:
    """A size is a number of bytes, or one with a unit: kB and MB by thousands, KiB and MiB by 1024, in any case."""
    found = value("max_head_bytes", text)
    assert found == count
    assert type(found) is int


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("0.25", 0.25),
        ("30", 30.0),
        ("30s", 30.0),
        ("1.5 s", 1.5),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("7D", 604800.0),
        (45, 45.0),
        (0.5, 0.5),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    """A duration is a number of seconds, or one with a unit, ms to d; it is a float whatever was written."""
    found = value("resume_window", text)
    assert found == pytest.approx(seconds)
    assert type(found) is float


@pytest.mark.parametrize(
    ("text", "flag"),
    [(True, True), (False, False)]
    + [(text, True) for text in ("1", "true", "True", "YES", "on")]
    + [(text, False) for text in ("0", "false", "FALSE", "no", "Off", "")],
)
def test_flags(text: Any, flag: bool) -> None:
    """A switch is true or false, 1 or 0, yes or no, on or off, in any case; an empty variable is false."""
    assert value("insecure", text) is flag


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("cats", ("cats",)),
        ("cats,dogs", ("cats", "dogs")),
        (" cats , dogs ,", ("cats", "dogs")),
        ("", ()),
        (["cats", "dogs"], ("cats", "dogs")),
        (("cats",), ("cats",)),
        ([], ()),
    ],
)
def test_lists(given: Any, items: tuple[str, ...]) -> None:
    """A list is an array of texts, or one text with commas; white space and empty items are ignored."""
    assert value("default_topics", given) == items


def test_keys() -> None:
    """A bare hash is a key with all rights; a table names its rights, and without them may publish and subscribe
    everywhere but not administer."""
    other = HASH[:-1] + "0"
    assert value("api_keys", f"{HASH}, {other}") == (ApiKey(HASH, admin=True), ApiKey(other, admin=True))
    assert value("api_keys", [{"hash": HASH}]) == (ApiKey(HASH, (">",), (">",), admin=False),)
    given = {"hash": HASH, "publish": ["orders.*"], "subscribe": [], "admin": True}
    assert value("api_keys", [given]) == (ApiKey(HASH, ("orders.*",), (), admin=True),)


def test_retention_rules_are_tables(tmp_path: Path) -> None:
    """In the file a rule is a table `[[retention]]`, whose bounds take units; their order is kept."""
    path = written(
        tmp_path,
        '[[retention]]\ntopic = "logs.audit"\nmax_age = "365d"\n'
        '[[retention]]\ntopic = "logs.>"\nmax_age = "1h"\nmax_messages = 1000\nmax_bytes = "10MB"\n',
    )
    assert load(file=str(path), environ={}).settings.retention == (
        RetentionRule("logs.audit", 365 * 86400.0),
        RetentionRule("logs.>", 3600.0, 1000, 10_000_000),
    )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("logs", ("is not a list such as",)),
        (["logs"], ("without a topic pattern",)),
        ([{"max_age": 1}], ("without a topic pattern",)),
        ([{"topic": "logs.>"}], ("'logs.>'", "bounds nothing", "max_bytes")),
        ([{"topic": "logs.>", "max_size": 1}], ("'logs.>'", "max_size", "max_bytes")),
        ([{"topic": "logs.>", "max_age": "soon"}], ("'logs.>'", "max_age", "unit")),
        ([{"topic": "logs.>", "max_bytes": 0}], ("'logs.>'", "max_bytes", "above 0")),
        ([{"topic": "logs.>", "max_messages": 1.5}], ("'logs.>'", "max_messages", "whole number")),
    ],
)
def test_a_bad_rule_is_named(bad: Any, words: tuple[str, ...]) -> None:
    """A rule that cannot be used is refused by its topic, its bound and what it may be."""
    error = refusal({"retention": bad})
    assert error.field == "retention"
    for word in words:
        assert word in error.message


def test_keys_in_a_file_are_tables(tmp_path: Path) -> None:
    """In the file a key is a table `[[api_keys]]`, as `partyline key` prints it."""
    path = written(tmp_path, f'[[api_keys]]\nhash = "{HASH}"\npublish = [">"]\nsubscribe = ["cats"]\nadmin = false\n')
    assert load(file=str(path), environ={}).settings.api_keys == (ApiKey(HASH, (">",), ("cats",)),)


# What is refused

BAD: list[tuple[str, Any]] = [
    ("port", "http"),
    ("port", "80 80"),
    ("port", "80s"),
    ("port", "0x50"),
    ("port", "\uff18\uff10"),
    ("port", "1e3"),
    ("port", "-1"),
    ("port", -1),
    ("port", ""),
    ("port", 80.5),
    ("port", "80.5"),
    ("port", True),
    ("port", [80]),
    ("port", "65536"),
    ("port", 65536),
    ("port", "9" * 30),
    ("port", "9" * 400 + ".0"),
    ("port", "9" * 5000),
    ("max_body", "0"),
    ("max_body", "1 TiB"),
    ("max_body", "1KiB2"),
    ("max_body", "KiB"),
    ("max_body", "1.5"),
    ("max_body", "1..5KiB"),
    ("max_body", ".5KiB"),
    ("max_body", "1,000"),
    ("max_body", "1_000"),
    ("max_body", "10s"),
    ("max_head_bytes", "1023"),
    ("compress_from", "125"),
    ("ping_interval", "0"),
    ("ping_interval", "0ms"),
    ("ping_interval", "5 minutes"),
    ("ping_interval", "1h30m"),
    ("ping_interval", "-1s"),
    ("ping_interval", "nan"),
    ("ping_interval", "inf"),
    ("ping_interval", "1KiB"),
    ("ping_interval", float("nan")),
    ("ping_interval", float("inf")),
    ("ping_interval", float("-inf")),
    ("ping_interval", "9" * 400 + "s"),
    ("ping_interval", "9" * 307 + "d"),
    ("ping_interval", "9" * 307 + ".5d"),
    ("ping_interval", 10**400),
    ("events_per_second", "10s"),
    ("events_burst", "0.5"),
    ("insecure", "maybe"),
    ("insecure", "2"),
    ("insecure", 1),
    ("insecure", [True]),
    ("log_format", "xml"),
    ("log_format", "JSON"),
    ("log_level", "trace"),
    ("log_level", ""),
    ("host", 127),
    ("host", True),
    ("db", ["x"]),
    ("public_url", {"a": 1}),
    ("default_topics", 5),
    ("default_topics", [1]),
    ("default_topics", ["cats", None]),
    ("default_topics", {"cats": 1}),
    ("cors_origins", True),
    ("cors_origins", ["https://a.example\r\nx: y"]),
    ("allowed_hosts", ["a.example\n"]),
    ("public_url", "https://a.example/\r\nx: y"),
    ("host", "127.0.0.1\0"),
    ("db", "party\nline.db"),
]


@pytest.mark.parametrize(("name", "bad"), BAD, ids=[f"{name}-{ascii(bad)[:20]}" for name, bad in BAD])
def test_a_bad_value_is_refused_by_name(name: str, bad: Any) -> None:
    """An invalid value is a ConfigError that names the setting, the value and where it came from."""
    error = refusal({name: bad})
    assert error.field == name
    assert error.message.startswith(f"{name}: ")
    flag = name.removesuffix("s") if FIELDS[name].metadata["kind"] == "list" else name  # of a list: one of it
    assert f"(from --{flag.replace('_', '-')})" in error.message
    with pytest.raises(ConfigError) as caught:
        Settings(**{name: bad})
    assert caught.value.field == name
    assert caught.value.message == re.sub(r" \(from [^)]*\)", "", error.message), "a program hears the same"
    if isinstance(bad, str | int | float):
        assert repr(bad)[:40] in error.message or str(bad)[:40] in error.message
    assert error.message.isprintable()
    assert len(error.message) < 400


def test_a_program_writes_settings_as_the_file_does() -> None:
    """Arguments of Settings may be written as in the file and mean the same, also in a changed copy."""
    settings = Settings(max_body="1MiB", ping_interval=5, cors_origins=["https://a.example"], insecure="yes")  # type: ignore[arg-type]
    assert (settings.max_body, settings.ping_interval, settings.insecure) == (1024 * 1024, 5.0, True)
    assert settings.cors_origins == ("https://a.example",)
    assert isinstance(settings.ping_interval, float)
    with pytest.raises(ConfigError, match=r"^max_message: 100 is below the least value, 125$"):
        dataclasses.replace(settings, max_message=100)


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("api_keys", (ApiKey("plain"),), "not a key's hash"),
        ("api_keys", (ApiKey(HASH, publish="cats"),), "publish is not a list"),  # type: ignore[arg-type]
        ("jwt_keys", (JwtKey("HS256", secret="s", leeway=-1.0),), "leeway is below 0"),
        ("jwt_keys", (JwtKey("HS256", secret=1),), "secret is not a text"),  # type: ignore[arg-type]
        ("retention", (RetentionRule("logs.>", max_age=-1.0),), "max_age is not above 0"),
        ("retention", (RetentionRule("logs.>"),), "bounds nothing"),
    ],
)
def test_what_a_program_makes_itself_is_checked(name: str, bad: Any, words: str) -> None:
    """Keys and rules made by a program are checked like those of a file."""
    with pytest.raises(ConfigError, match=f"^{name}: .*{words}"):
        Settings(**{name: bad})


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["least"] is not None])
def test_every_least_value_holds(name: str) -> None:
    """The least value of each number is allowed, and what is below it is refused with the least one (or the range)."""
    least = FIELDS[name].metadata["least"]
    assert value(name, least) == least
    assert getattr(Settings(**{name: least}), name) == least
    error = refusal({name: least - 1})
    assert error.field == name
    assert "below the least value" in error.message or name == "port"
    assert f"{least:g}" in error.message


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (86400.0, "seconds", "24h"),
        (7 * 86400.0, "seconds", "7d"),
        (90.0, "seconds", "90s"),
        (0.5, "seconds", "500ms"),
        (0.0005, "seconds", "0.0005"),
        (0.0, "seconds", "0"),
        (65536, "bytes", "64KiB"),
        (1_000_000, "bytes", "1MB"),
        (1_000_001, "bytes", "1000001"),
        (0, "bytes", "0"),
        (1024, "count", "1024"),
        (2.5, "rate", "2.5"),
    ],
)
def test_a_number_is_written_as_it_is_read(number: float, kind: str, text: str) -> None:
    """What `written` writes is read as the same number."""
    assert notation.written(number, kind) == text
    name = {"seconds": "drain_time", "bytes": "outbox_bytes", "count": "max_headers", "rate": "events_per_second"}[kind]
    if number >= FIELDS[name].metadata["least"]:
        assert value(name, text) == number


def test_a_refusal_names_its_source(tmp_path: Path) -> None:
    """The message says whether the file, the environment or a flag holds the bad value, with the name used there."""
    path = written(tmp_path, 'max_body = "x"\n')
    assert f"(from {path})" in refusal(file=path).message
    assert "(from PARTYLINE_MAX_BODY)" in refusal(environ={"PARTYLINE_MAX_BODY": "x"}).message
    assert "(from --max-body)" in refusal({"max_body": "x"}).message
    with pytest.raises(ConfigError, match=r"\(from --set max_body\)"):
        load({"port": 1}, environ={}, assigned={"max_body": "x"})


def test_a_bad_value_is_refused_though_it_is_overridden(tmp_path: Path) -> None:
    """A bad value in the file is refused even if a flag overrides it, because the file is wrong all the same."""
    path = written(tmp_path, 'port = "x"\n')
    assert str(path) in refusal({"port": "1"}, file=path).message


def test_numbers_of_the_file_are_checked_too(tmp_path: Path) -> None:
    """What TOML can hold in place of a number is refused as a ConfigError: texts, dates, infinity, endless digits."""
    for text in ("inf", "nan", "1979-05-27", '"x"', "true", "[1]", "{ a = 1 }", "1" + "0" * 400, "-0.5"):
        path = written(tmp_path, f"ping_interval = {text}\n")
        assert refusal(file=path).field == "ping_interval"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_bdy", "max_body"), ("max_conections", "max_connections"), ("Port", "port"), ("cors_origin", "cors_origins")],
)
def test_an_unknown_name_suggests_the_one_meant(tmp_path: Path, name: str, meant: str) -> None:
    """An unknown name is refused with the nearest setting, in the file and on the command line."""
    path = written(tmp_path, f"{name} = 1\n")
    for error in (refusal(file=path), refusal({name: "1"})):
        assert error.field == name
        assert repr(name) in error.message
        assert f"did you mean {meant}?" in error.message
    assert str(path) in refusal(file=path).message


def test_an_unknown_name_like_none_points_to_the_list() -> None:
    """A name that resembles no setting is refused with the command that lists them all."""
    message = refusal({"zzzzzz": "1"}).message
    assert "'zzzzzz'" in message
    assert "partyline config --show" in message
    assert "did you mean" not in message


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing settings file is refused by its path, also if the environment names it."""
    path = tmp_path / "nowhere.toml"
    for error in (refusal(file=path), refusal(environ={"PARTYLINE_CONFIG": str(path)})):
        assert f"{path} does not exist" in error.message
        assert error.field == "config"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in place of the settings file is refused with the system's reason."""
    assert f"{tmp_path} cannot be read" in refusal(file=tmp_path).message


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    """Of what is too large for settings, such as a device or another file by mistake, no more is read than that."""
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for path in (Path("/dev/zero"), large):
        error = refusal(file=path)
        assert f"{path} is larger than" in error.message
        assert error.field == "config"


def test_settings_may_come_through_a_pipe(tmp_path: Path) -> None:
    """A named pipe, as of `--config <(...)`, is read to its end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"port = 81\n" + b"#" * 100_000,))
    writer.start()
    assert load(file=str(path), environ={}).settings.port == 81
    writer.join()


@pytest.mark.parametrize("content", [b"port = ", b"port 80", b"\xff\xfe", b"port = 1\nport = 2\n", b"[port"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is not TOML, or not UTF-8, is refused by its path."""
    path = tmp_path / "partyline.toml"
    path.write_bytes(content)
    error = refusal(file=path)
    assert f"{path} is not TOML" in error.message
    assert error.field == "config"


# Keys


@pytest.mark.parametrize(
    "bad",
    [
        SECRET,
        f"{HASH},{SECRET}",
        [SECRET],
        [HASH, SECRET],
        [{"hash": SECRET}],
        [{"hash": HASH, SECRET: 1}],
        [{"hash": HASH, "publish": SECRET}],
        [{"hash": HASH, "subscribe": [1, SECRET]}],
        [{"hash": HASH, "admin": SECRET}],
        {"hash": SECRET},
        HASH.upper(),
        HASH[:-1],
        HASH + "0",
        HASH.removeprefix("sha256:"),
        [{}],
        [{"publish": [">"]}],
        [1],
        1,
    ],
    ids=lambda bad: ascii(bad)[:30],
)
def test_a_bad_key_is_refused_and_not_repeated(bad: Any) -> None:
    """What is no key's hash is refused with the command that makes one or with what is wrong in it, and is not written
    down: somebody may have put the key itself there (hostile 39)."""
    for error in (
        refusal({"api_keys": bad}),
        *([refusal(environ={"PARTYLINE_API_KEYS": bad})] if isinstance(bad, str) else []),
    ):
        assert error.field == "api_keys"
        assert error.message.startswith("api_keys: ")
        assert SECRET not in error.message
        assert HASH.removeprefix("sha256:")[:20] not in error.message.lower()


@pytest.mark.parametrize(
    "bad",
    [
        SECRET,
        [SECRET],
        {"algorithm": "HS256", "secret": SECRET},
        [{"secret": SECRET}],
        [{"algorithm": 1, "secret": SECRET}],
        [{"algorithm": "HS256", "secret": [SECRET]}],
        [{"algorithm": "HS256", "secret": SECRET, "sceret": "x"}],
        [{"algorithm": "HS256", "secret": SECRET, SECRET: "x"}],
        [{"algorithm": "HS256", "secret": SECRET, "leeway": "soon"}],
        [{"algorithm": "HS256", "secret": SECRET, "leeway": [SECRET]}],
        [{"algorithm": "HS256", "secret": SECRET, "admin": "perhaps"}],
        f"[{{algorithm = 'HS256', secret = '{SECRET}'",
        1,
    ],
    ids=lambda bad: ascii(bad)[:40],
)
def test_a_bad_token_key_is_refused_and_not_repeated(bad: Any) -> None:
    """An invalid table of a token key is refused with what is wrong in it, without the secret (hostile 39)."""
    for error in (
        refusal({"jwt_keys": bad}),
        *([refusal(environ={"PARTYLINE_JWT_KEYS": bad})] if isinstance(bad, str) else []),
    ):
        assert error.field == "jwt_keys"
        assert error.message.startswith("jwt_keys: ")
        assert SECRET not in error.message


def test_a_secret_is_in_no_repr() -> None:
    """Settings that are printed by accident do not show the secret that signs tokens (hostile 39)."""
    assert SECRET not in repr(Settings(jwt_keys=(JwtKey("HS256", secret=SECRET),)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"host": "0.0.0.0"}, ("host: 0.0.0.0", "api_keys", "--insecure")),
        ({"cors_origins": ("*",)}, ("cors_origins: *", "name the origins")),
        ({"api_keys": (HASH,), "cors_origins": ("null",), "cors_credentials": True}, ("cors_origins: null", "name")),
        ({"cors_origins": ("app.example.org",)}, ("cors_origins: 'app.example.org'", "https://")),
        ({"keyfile": "key.pem"}, ("keyfile", "certfile")),
        ({"public_url": "chat.example.org"}, ("public_url: 'chat.example.org'", "https://")),
        ({"allowed_hosts": ("*.example.org",)}, ("allowed_hosts: '*.example.org'", "name each")),
        ({"trusted_proxies": ("proxy",)}, ("trusted_proxies: 'proxy'", "10.0.0.0/8")),
        ({"default_topics": ("a b",)}, ("default_topics 'a b'", "1-200 printable")),
        ({"conflate_topics": ("a..b",)}, ("conflate_topics 'a..b'", "1-200 printable")),
        ({"retention": (RetentionRule("a b", 1.0),)}, ("retention 'a b'", "1-200 printable")),
        ({"api_keys": (ApiKey(HASH, publish=("a b",)),)}, ("api_keys 'a b'", "1-200 printable")),
        ({"jwt_keys": (JwtKey("HS256"),)}, ("jwt_keys", "exactly one of secret, secret_file")),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], words: tuple[str, ...]) -> None:
    """What settings must be beside each other is checked when they are made: the error names field, value, way out."""
    with pytest.raises(ConfigError) as caught:
        Settings(**given)
    assert caught.value.field == words[0].partition(":")[0].partition(" ")[0]
    assert all(word in caught.value.message for word in words), caught.value.message
