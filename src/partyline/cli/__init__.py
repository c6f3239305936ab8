"""The command line. Each command has a file beside this one, imported when it is called."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from partyline.errors import InvalidValue, PartylineError
from partyline.starting import begin

app = typer.Typer(
    name="partyline",
    help="A real-time messaging server: connect by WebSocket, publish over HTTP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; may be repeated.")
]
_Config = Annotated[str | None, typer.Option(metavar="PATH", help="Settings as a TOML file.", show_default=False)]


def main() -> None:
    """The console script. A PartylineError becomes one line on standard error and exit code 2, never a stack trace."""
    _open_standard_streams()
    try:
        _check_arguments(sys.argv)
        app()
    except PartylineError as error:
        from partyline.cli.shown import plain

        sys.stderr.write(f"partyline: {plain(error.message)}\n")
        sys.exit(2)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer exits with 1 where nobody reads its help any more
            sys.exit(0)
        raise
    except OSError:
        from partyline.cli.output import write

        write("")  # help is printed by Typer: if standard output is the reason, this exits with one line
        raise


def _open_standard_streams() -> None:
    """Open a standard stream that was closed when the process began. Otherwise the next file, such as a client's
    socket, would get its number, and whatever is written to it. `sys.stdout` stays None, for `write`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the whole process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _check_arguments(arguments: list[str]) -> None:
    """Raises InvalidValue if an argument is not UTF-8: it could not be sent or printed."""
    for before, argument in pairwise(arguments):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidValue(f"the argument after {before} is not UTF-8") from None


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options before a command."""


@app.command()
def serve(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:NAME]",
            help="What to serve beside the relay: an ASGI application, a partyline.Application, or an EngineIO.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default 127.0.0.1)")] = None,
    port: Annotated[str | None, typer.Option(help="Port; 0 takes a free one. (default 8000)")] = None,
    db: Annotated[str | None, typer.Option(help="Database file, or :memory:. (default ./partyline.db)")] = None,
    log: Annotated[str | None, typer.Option(help="Log that several servers share, as a URL. (default: in db)")] = None,
    bus: Annotated[
        str | None, typer.Option(help="Bus between servers, as a URL. (default: the engine of --log)")
    ] = None,
    workers: Annotated[str | None, typer.Option(help="Processes that serve, or auto: one for each core.")] = None,
    config: _Config = None,
    certfile: Annotated[str | None, typer.Option(help="TLS certificate chain (PEM): https and wss.")] = None,
    keyfile: Annotated[str | None, typer.Option(help="Its private key (PEM).")] = None,
    public_url: Annotated[str | None, typer.Option(help="The address that clients use, behind a proxy.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name this server answers to; repeatable.")] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="An origin whose pages may use it; repeatable.")] = None,
    trusted_proxy: Annotated[list[str] | None, typer.Option(help="A proxy whose headers count; repeatable.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="A key, or its sha256: hash (`partyline key`), with all rights; repeatable."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json. (default text)")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. (default info)")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Open to everybody beyond loopback, no key.")] = False,
    handover: Annotated[
        bool, typer.Option("--handover", help="Wait for the server that has the database to stop.")
    ] = False,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Make all positions handed out invalid: the database was rolled back.")
    ] = False,
    settings: _Set = None,
) -> None:
    """Run the server until Ctrl-C or SIGTERM."""
    from partyline.cli.serve import run

    begin()
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": db,
        "log": log,
        "bus": bus,
        "workers": workers,
        "certfile": certfile,
        "keyfile": keyfile,
        "public_url": public_url,
        "allowed_hosts": allowed_host or None,
        "cors_origins": cors_origin or None,
        "trusted_proxies": trusted_proxy or None,
        "api_keys": api_key or None,
        "log_format": log_format,
        "log_level": log_level,
        "insecure": insecure or None,
    }
    run(flags, config, target, assigned=_assignments(settings), new_epoch=new_epoch, handover=handover)


_Db = Annotated[str | None, typer.Option(help="Database file. (default: as serve)")]
_Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes: a new file.")],
    db: _Db = None,
    config: _Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: _Json = False,
) -> None:
    """Copy the database to FILE, beside a running server or without one."""
    from partyline.cli.copies import back_up_database

    begin()
    back_up_database(str(file), {"db": db}, config, replace=force, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    db: _Db = None,
    config: _Config = None,
    force: Annotated[bool, typer.Option("--force", help="Keep an existing database under another name.")] = False,
    as_json: _Json = False,
) -> None:
    """Put a backup in the database's place, with a new epoch. The server must be stopped."""
    from partyline.cli.copies import restore_database

    begin()
    restore_database(str(file), {"db": db}, config, replace=force, as_json=as_json)


@app.command()
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Verify every message and the whole structure.")] = False,
    db: _Db = None,
    config: _Config = None,
    settings: _Set = None,
    as_json: _Json = False,
) -> None:
    """Look for anything that would keep a server from running well. Changes nothing; the server may be running."""
    from partyline.cli.doctor import diagnose

    begin()
    diagnose({"db": db}, _assignments(settings), config, deep=deep, as_json=as_json)


@app.command("config")
def show_config(
    show: Annotated[bool, typer.Option("--show", help="Every setting, its value, and where it came from.")] = True,
    config: _Config = None,
    settings: _Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show the settings as `serve` would see them."""
    from partyline.cli.config import show_settings

    begin()
    show_settings(_assignments(settings), config, as_json=as_json)


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="One exact topic.")],
    message: Annotated[str, typer.Argument(help="The text, or - to read it from standard input.")] = "-",
    user: Annotated[str | None, typer.Option(help="Only to this user's connections.")] = None,
    url: Annotated[str, typer.Option(envvar="PARTYLINE_URL", help="Where the server is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="PARTYLINE_KEY", help="The key or token to publish with.")
    ] = None,
    data: Annotated[bool, typer.Option("--data", help="MESSAGE is JSON, not a text.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a message.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Publish a message through a running server."""
    from partyline.cli.publish import publish_lines, publish_one, standard_input

    begin()
    if lines:
        if message != "-":
            raise typer.BadParameter("--lines reads standard input: leave the message out", param_hint="MESSAGE")
        publish_lines(url, topic, sys.stdin.fileno(), user=user, key=api_key, is_json=data, as_json=as_json)
    else:
        text = standard_input() if message == "-" else message
        publish_one(url, topic, text, user=user, key=api_key, is_json=data, as_json=as_json)


@app.command()
def chat(
    url: Annotated[str, typer.Argument(envvar="PARTYLINE_URL", help="Where the server is.")] = "http://127.0.0.1:8000",
    room: Annotated[str | None, typer.Option(help="The room to enter. (default lobby)")] = None,
    stranger: Annotated[bool, typer.Option("--stranger", help="Talk to a stranger instead.")] = False,
    name: Annotated[str | None, typer.Option(help="The name to go by; default: your login name.")] = None,
) -> None:
    """Chat in the terminal: in a room, or with a stranger. Each line is said."""
    from partyline.cli.chat import talk

    begin()
    if stranger and (room is not None or name is not None):
        raise typer.BadParameter(
            "strangers have no rooms and no names: leave --room and --name out", param_hint="--stranger"
        )
    talk(
        url,
        room=None if stranger else "lobby" if room is None else room,
        name=name or os.environ.get("USER") or "somebody",
    )


@app.command()
def tail(
    topics: Annotated[list[str], typer.Argument(help="Topics and patterns: chat.lobby, 'chat.*', 'sensors.>'.")],
    after: Annotated[str, typer.Option("--from", help="earliest, latest or a position.")] = "latest",
    url: Annotated[str, typer.Option(envvar="PARTYLINE_URL", help="Where the server is.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="PARTYLINE_KEY", help="The key or token to read with.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many messages.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print messages as they come; reconnects by itself."""
    from partyline.cli.tail import follow

    begin()
    follow(url, topics, after=after, key=api_key, count=count, as_json=as_json)


@app.command()
def key(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Make a random API key, and its hash for the settings."""
    from partyline.cli.key import make_key

    begin()
    make_key(as_json=as_json)


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="Whose token it is: a user id.")],
    topics: Annotated[
        list[str] | None, typer.Option(help="A pattern it may publish and subscribe to; repeatable.")
    ] = None,
    publish: Annotated[list[str] | None, typer.Option(help="Pattern it may publish to; repeatable.")] = None,
    subscribe: Annotated[list[str] | None, typer.Option(help="Pattern it may subscribe to; repeatable.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Admin rights, if the key may give them.")] = False,
    expires: Annotated[str, typer.Option(help="How long it is valid.")] = "1h",
    key: Annotated[str | None, typer.Option(help="The kid of the key to sign with, if there are several.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Sign with the secret, or the private key (PEM), in this file.")
    ] = None,
    config: _Config = None,
    settings: _Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="The token and its claims, as JSON.")] = False,
) -> None:
    """Make a token (JWT) for trying things out, with a key from the settings."""
    from partyline.cli.token import Wish, make_token

    begin()
    wish = Wish(sub, (*(topics or ()), *(publish or ())), (*(topics or ()), *(subscribe or ())), admin, expires)
    make_token(wish, _assignments(settings), config, kid=key, secret_file=secret_file, as_json=as_json)


@app.command()
def version() -> None:
    """Print the version."""
    from partyline import __version__
    from partyline.cli.machine import distribution
    from partyline.cli.output import write

    begin()
    write(f"partyline {__version__}\n")
    found = distribution()
    if found.advice:
        typer.echo(f"partyline: {found.text}: {found.advice}", err=True)


def _assignments(pairs: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--set")
        found[name.strip().replace("-", "_")] = value
    return found
