"""What can be typed after `stepwell` about questions, open runs, waiting messages and forks."""

# Annotations are evaluated where they stand, in the language of the person, so they are no strings here.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

# pyright: reportUnusedFunction=false

Say = Callable[[str], str]
Run = Callable[..., NoReturn]


def add_people(app: typer.Typer, say: Say, run: Run) -> None:
    """Add the commands.

    Args:
        app: The command line.
        say: Says it in the person's language.
        run: Runs a command's module and ends the process.
    """
    _add_questions(app, say, run)
    _add_approvals(app, say, run)
    _add_steering(app, say, run)
    _add_queue(app, say, run)
    _add_forks(app, say, run)


def _add_questions(app: typer.Typer, say: Say, run: Run) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)

    @app.command(help=say("help_inbox"))
    def inbox(
        limit: Annotated[int, typer.Option(help=say("help_limit"), min=1, max=200)] = 50,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("inbox", config, data, limit=limit)

    @app.command(help=say("help_answer"))
    def answer(
        thread: Annotated[str, typer.Argument(help=say("help_thread"))],
        number: Annotated[int, typer.Argument(help=say("help_number"), min=0, show_default=False)] = 0,
        text: Annotated[str, typer.Argument(help=say("help_answer_text"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("answer", config, data, thread=thread, number=number, text=text)


def _add_approvals(app: typer.Typer, say: Say, run: Run) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    which = typer.Argument(help=say("help_thread"))
    number = typer.Argument(help=say("help_number"), min=1)
    why = typer.Option("--reason", help=say("help_reason"), show_default=False)

    @app.command(help=say("help_approve"))
    def approve(
        thread: Annotated[str, which],
        number: Annotated[int, number],
        arguments: Annotated[str, typer.Option(help=say("help_arguments"), show_default=False)] = "",
        always: Annotated[str, typer.Option(help=say("help_always"), show_default=False)] = "",
        deny: Annotated[bool, typer.Option("--deny", help=say("help_deny"))] = False,
        reason: Annotated[str, why] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        decided = {"deny": deny, "reason": reason, "arguments": arguments, "always": always}
        run("answer", config, data, thread=thread, number=number, approval=decided)

    @app.command(name="deny", help=say("help_deny"))
    def deny_(
        thread: Annotated[str, which],
        number: Annotated[int, number],
        reason: Annotated[str, why] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        decided = {"deny": True, "reason": reason, "arguments": "", "always": ""}
        run("answer", config, data, thread=thread, number=number, approval=decided)


def _add_steering(app: typer.Typer, say: Say, run: Run) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    which = typer.Argument(help=say("help_thread"))

    @app.command(help=say("help_steer"))
    def steer(
        thread: Annotated[str, which],
        text: Annotated[str, typer.Argument(help=say("help_said"))],
        interrupt: Annotated[bool, typer.Option("--interrupt", help=say("help_interrupt"))] = False,
        path: Annotated[str, typer.Option(help=say("help_path"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("steering", config, data, action="steer", thread=thread, text=text, interrupt=interrupt, path=path)

    @app.command(help=say("help_cancel"))
    def cancel(
        thread: Annotated[str, which],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("steering", config, data, action="cancel", thread=thread)

    @app.command(help=say("help_pause"))
    def pause(
        thread: Annotated[str, which],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("steering", config, data, action="pause", thread=thread)

    @app.command(help=say("help_resume"))
    def resume(
        thread: Annotated[str, which],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("steering", config, data, action="resume", thread=thread)


def _add_queue(app: typer.Typer, say: Say, run: Run) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)

    @app.command(help=say("help_queue"))
    def queue(
        thread: Annotated[str, typer.Argument(help=say("help_thread"))],
        action: Annotated[str, typer.Argument(help=say("help_queue_action"))] = "list",
        item: Annotated[str, typer.Argument(help=say("help_queue_item"), show_default=False)] = "",
        value: Annotated[str, typer.Argument(help=say("help_queue_value"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("queue", config, data, thread=thread, action=action, item=item, value=value)


def _add_forks(app: typer.Typer, say: Say, run: Run) -> None:
    file = typer.Option("--config", help=say("help_config"), show_default=False)
    folder = typer.Option("--data", help=say("help_data"), show_default=False)
    which = typer.Argument(help=say("help_thread"))

    @app.command(help=say("help_fork"))
    def fork(
        thread: Annotated[str, which],
        at: Annotated[int, typer.Option(help=say("help_at"), min=1)],
        edit: Annotated[str, typer.Option(help=say("help_edit"), show_default=False)] = "",
        arguments: Annotated[str, typer.Option(help=say("help_fork_arguments"), show_default=False)] = "",
        call: Annotated[str, typer.Option(help=say("help_fork_call"), show_default=False)] = "",
        result: Annotated[str, typer.Option(help=say("help_result"), show_default=False)] = "",
        model: Annotated[str, typer.Option("--model", "-m", help=say("help_model"), show_default=False)] = "",
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        changes = {"content": edit, "arguments": arguments, "call": call, "result": result}
        run("fork", config, data, action="fork", thread=thread, at=at, changes=changes, model=model)

    @app.command(help=say("help_regenerate"))
    def regenerate(
        thread: Annotated[str, which],
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("fork", config, data, action="regenerate", thread=thread)

    @app.command(help=say("help_diff"))
    def diff(
        one: Annotated[str, which],
        other: Annotated[str, which],
        json: Annotated[bool, typer.Option("--json", help=say("help_json"))] = False,
        config: Annotated[Path | None, file] = None,
        data: Annotated[Path | None, folder] = None,
    ) -> None:
        run("diff", config, data, one=one, other=other, json=json)
