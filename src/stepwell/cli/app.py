"""What can be typed after `stepwell`, and how a command ends. The work of a command is in the module of its name."""

# Annotations are evaluated where they stand, in the language of the person, so they are no strings here.

import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from stepwell.cli.app_people import add_people
from stepwell.cli.loading import load
from stepwell.cli.screen import Screen
from stepwell.cli.sources import OWNER, Sources
from stepwell.cli.texts import text
from stepwell.config import spoken_language
from stepwell.errors import StepwellError

NAME = "stepwell"

Say = Callable[[str], str]
Engine = Literal["chat", "react", "plan", "interaction"]
"""As `specs.EngineName`, which need not be imported to say what can be typed."""
Format = Literal["chatchat", "jsonl", "chatgpt"]
"""As `imports.base.Source`, for the same reason."""


def run() -> str | int | None:
    """Run the command line of this process and return its exit code; see `stepwell.cli.main`."""
    _make_streams_safe()
    code: str | int | None = 0
    try:
        _app(spoken_language())(prog_name=NAME)
    except SystemExit as left:
        code = left.code
    except OSError as error:  # the help could not be written
        code = _unwritten(error, code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _without_stdout()
    except OSError as error:
        code = _unwritten(error, code)
    return code


def _make_streams_safe() -> None:
    """See to it that any text can be written and any input read, also where the caller closed a stream."""
    for name, errors in (("stdin", "replace"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
        getattr(sys, name).reconfigure(errors=errors)


def _without_stdout() -> int:
    """Let what is left to write go nowhere, so that the process can end in peace; return its exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _unwritten(error: OSError, code: str | int | None) -> str | int:
    """Tell that stdout takes nothing, as on a full disk, unless the command failed before; return the exit code."""
    _without_stdout()
    if not code:
        Screen(spoken_language()).fail(str(error))
    return code or 1


def _run(command: str, config: Path | None, data: Path | None, **arguments: Any) -> NoReturn:
    """Run a command's module and end as it says."""
    watched = sys.stdout.isatty() or sys.stderr.isatty()
    screen: Screen = (load("colour").Colour if watched else Screen)(spoken_language())
    try:
        code = int(load(command).run(screen, Sources(config, data), **arguments))
    except BrokenPipeError:
        code = _without_stdout()
    except KeyboardInterrupt:
        code = 130
    except (StepwellError, OSError) as error:
        screen.fail(str(error))
        code = 1
    raise typer.Exit(code)


def _app(language: str) -> typer.Typer:
    def say(name: str) -> str:
        return text(name, language)

    app = typer.Typer(
        help=say("help"), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, name=NAME
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"{NAME} {version(NAME)}")
            raise typer.Exit

    @app.callback()
    def options(  # pyright: ignore[reportUnusedFunction]
        version: Annotated[
            bool, typer.Option("--version", help=say("help_version"), callback=show_version, is_eager=True)
        ] = False,
    ) -> None:
        pass

    _add_talking(app, say)
    _add_tasks(app, say)
    add_people(app, say, _run)
    _add_reading(app, say)
    _add_contexts(app, say)
    _add_managing(app, say)
    _add_import(app, say)
    _add_mcp(app, say)
    return app


def _add_talking(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    named = typer.Option("--model", "-m", help=say("help_model"), show_default=False)
    inside = typer.Option("--thread", "-t", help=say("help_thread"), show_default=False)

    @app.command(help=say("help_serve"))
    def serve(  # pyright: ignore[reportUnusedFunction]
        host: Annotated[str | None, typer.Option(help=say("help_host"), show_default=False)] = None,
        port: Annotated[int | None, typer.Option(help=say("help_port"), show_default=False)] = None,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("serve", config, data, host=host, port=port)

    @app.command(help=say("help_chat"))
    def chat(  # pyright: ignore[reportUnusedFunction]
        model: Annotated[str, named] = "",
        thread: Annotated[str, inside] = "",
        engine: Annotated[Engine, typer.Option(help=say("help_engine"))] = "chat",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("chat", config, data, model=model, thread=thread, engine=engine)

    @app.command(help=say("help_ask"))
    def ask(  # pyright: ignore[reportUnusedFunction]
        question: Annotated[str, typer.Argument(help=say("help_question"))],
        model: Annotated[str, named] = "",
        thread: Annotated[str, inside] = "",
        json: Annotated[bool, typer.Option("--json", help=say("help_json"))] = False,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("ask", config, data, question=question, model=model, thread=thread, json=json)


def _add_tasks(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    named = typer.Option("--model", "-m", help=say("help_model"), show_default=False)
    inside = typer.Option("--thread", "-t", help=say("help_thread"), show_default=False)

    @app.command(help=say("help_run_task"))
    def run(  # pyright: ignore[reportUnusedFunction]
        task: Annotated[str, typer.Argument(help=say("help_task"))],
        plan: Annotated[bool, typer.Option("--plan", help=say("help_plan"))] = False,
        react: Annotated[bool, typer.Option("--react", help=say("help_react"))] = False,
        interaction: Annotated[bool, typer.Option("--interaction", help=say("help_interaction"))] = False,
        follow: Annotated[bool, typer.Option("--follow/--no-follow", help=say("help_follow"))] = True,
        model: Annotated[str, named] = "",
        thread: Annotated[str, inside] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        if plan + react + interaction > 1:
            raise typer.BadParameter(say("one_engine"))
        engine = "react" if react else "interaction" if interaction else "plan"
        _run("task", config, data, goal=task, model=model, thread=thread, engine=engine, follow=follow)


def _add_reading(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    whose = typer.Option("--owner", help=say("help_owner"))
    which = typer.Argument(help=say("help_thread"))

    @app.command(help=say("help_threads"))
    def threads(  # pyright: ignore[reportUnusedFunction]
        owner: Annotated[str, whose] = OWNER,
        limit: Annotated[int, typer.Option(help=say("help_limit"), min=1, max=100_000)] = 50,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("threads", config, data, owner=owner, limit=limit)

    @app.command(help=say("help_show"))
    def show(  # pyright: ignore[reportUnusedFunction]
        thread: Annotated[str, which],
        json: Annotated[bool, typer.Option("--json", help=say("help_json"))] = False,
        owner: Annotated[str, whose] = OWNER,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("show", config, data, thread=thread, owner=owner, json=json)

    @app.command(help=say("help_replay"))
    def replay(  # pyright: ignore[reportUnusedFunction]
        thread: Annotated[str, which],
        owner: Annotated[str, whose] = OWNER,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("replay", config, data, thread=thread, owner=owner)


def _add_contexts(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    which = typer.Argument(help=say("help_thread"))

    @app.command(help=say("help_context"))
    def context(  # pyright: ignore[reportUnusedFunction]
        thread: Annotated[str, which],
        run: Annotated[int | None, typer.Option(help=say("help_run"), min=1, show_default=False)] = None,
        step: Annotated[int | None, typer.Option(help=say("help_step"), min=1, show_default=False)] = None,
        agent: Annotated[str, typer.Option(help=say("help_path"), show_default=False)] = "",
        json: Annotated[bool, typer.Option("--json", help=say("help_json"))] = False,
        owner: Annotated[str, typer.Option("--owner", help=say("help_owner"))] = OWNER,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        of = (run or 0, step or 0, agent)
        _run("context", config, data, thread=thread, owner=owner, of=of, json=json)

    @app.command(help=say("help_pin"))
    def pin(  # pyright: ignore[reportUnusedFunction]
        thread: Annotated[str, which],
        text: Annotated[str, typer.Argument(help=say("help_fact"), show_default=False)] = "",
        list_: Annotated[bool, typer.Option("--list", help=say("help_pin_list"))] = False,
        remove: Annotated[str, typer.Option(help=say("help_pin_remove"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("pin", config, data, thread=thread, text=text, listing=list_, remove=remove)


def _add_import(app: typer.Typer, say: Say) -> None:
    which, form = typer.Argument(help=say("help_import_file")), typer.Option(help=say("help_import_format"))

    @app.command(name="import", help=say("help_import"))
    def import_(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[Path, which],
        format: Annotated[Format | None, form] = None,
        owner: Annotated[str, typer.Option("--owner", help=say("help_import_owner"))] = OWNER,
        trial: Annotated[bool, typer.Option("--dry-run", help=say("help_import_trial"))] = False,
        config: Annotated[Path | None, typer.Option("--config", help=say("help_config"), show_default=False)] = None,
        data: Annotated[Path | None, typer.Option("--data", help=say("help_data"), show_default=False)] = None,
    ) -> None:
        _run("import_", config, data, file=file, source=format, owner=owner, trial=trial)


def _add_managing(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)

    @app.command(help=say("help_doctor"))
    def doctor(  # pyright: ignore[reportUnusedFunction]
        config: Annotated[Path | None, file] = None, data: Annotated[Path | None, folder] = None
    ) -> None:
        _run("doctor", config, data)

    keys = typer.Typer(help=say("help_keys"), no_args_is_help=True)
    app.add_typer(keys, name="keys")

    @keys.command(help=say("help_keys_add"))
    def add(  # pyright: ignore[reportUnusedFunction]
        owner: Annotated[str, typer.Argument(help=say("help_key_owner"))],
        limit: Annotated[list[str] | None, typer.Option(help=say("help_key_limit"), show_default=False)] = None,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("keys", config, data, action="add", name=owner, limits=limit or ())

    @keys.command(name="list", help=say("help_keys_list"))
    def list_(  # pyright: ignore[reportUnusedFunction]
        config: Annotated[Path | None, file] = None, data: Annotated[Path | None, folder] = None
    ) -> None:
        _run("keys", config, data, action="list")

    @keys.command(help=say("help_keys_revoke"))
    def revoke(  # pyright: ignore[reportUnusedFunction]
        id: Annotated[str, typer.Argument(help=say("help_key_id"))],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("keys", config, data, action="revoke", name=id)


def _add_mcp(app: typer.Typer, say: Say) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    servers = typer.Typer(help=say("help_mcp"), no_args_is_help=True)
    app.add_typer(servers, name="mcp")

    @servers.command(name="list", help=say("help_mcp_list"))
    def list_(  # pyright: ignore[reportUnusedFunction]
        config: Annotated[Path | None, file] = None, data: Annotated[Path | None, folder] = None
    ) -> None:
        _run("mcp", config, data, action="list")

    @servers.command(help=say("help_mcp_confirm"))
    def confirm(  # pyright: ignore[reportUnusedFunction]
        server: Annotated[str, typer.Argument(help=say("help_mcp_server"))],
        tool: Annotated[str, typer.Argument(help=say("help_mcp_tool"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("mcp", config, data, action="confirm", server=server, tool=tool)

    @servers.command(help=say("help_mcp_login"))
    def login(  # pyright: ignore[reportUnusedFunction]
        server: Annotated[str, typer.Argument(help=say("help_mcp_server"))],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        _run("mcp", config, data, action="login", server=server)
