"""What decides how a run goes: stored with its start, so that a new process can go on with it.

Records only; where they come from is the business of settings and wiring.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from stepwell.messages import ToolSpec

SummaryKind = Literal["tool_calls", "working_context", "rolling"]


EngineName = Literal["chat", "react", "plan", "interaction"]

NANO = 1_000_000_000
"""Parts of a unit of money in which amounts are counted."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one run, thread or key may use at most; None means no limit.

    Args:
        steps: Model calls.
        tool_calls: Tool calls.
        tokens: Tokens of all requests and replies together.
        seconds: Wall-clock seconds: of a run since it started, else of all runs together.
        money: In the unit in which the prices of the models are given.
    """

    steps: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    money: float | None = None


class Prices(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model costs.

    Args:
        input: Money for a million tokens of requests.
        output: Money for a million tokens of replies.
    """

    input: float
    output: float

    def cost(self, input: int, output: int) -> int:
        """Return what so many tokens cost, in billionths (`NANO`) of the unit, rounded up."""
        return math.ceil(round((input * self.input + output * self.output) * (NANO // 1_000_000), 6))


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One row of the table that says which calls run at once; the first that fits decides.

    Args:
        decision: `allow` runs the call, `deny` refuses it, `ask` asks a person.
        tool: Name of the tool, with `*` and `?` as in names of files.
        effect: The tool's effect; empty for any.
        place: `workspace` for tools that reach no further than the workspace, `outside` for all others; empty for any.
        untrusted: Whether untrusted text stands in the context; None for either.
        arguments: What arguments must look like: a pattern as for `tool`, by the name of a top-level argument.
    """

    decision: Literal["allow", "ask", "deny"]
    tool: str = "*"
    effect: Literal["", "pure", "idempotent", "write"] = ""
    place: Literal["", "workspace", "outside"] = ""
    untrusted: bool | None = None
    arguments: dict[str, str] = {}


class TaskOptions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How tasks and plans are carried out (XAgent's names and figures).

    Args:
        max_chain_length: Steps of a task; in the last one its submission is forced.
        initial_plan: Whether a plan is made before work begins; without it the whole is one task.
        max_plan_tree_depth: How deep the tree may grow; the root has depth 1.
        max_plan_tree_width: Tasks that one task may have below it.
        max_plan_refine_chain_length: Successful edits, and also refused ones, of one rectification.
        max_parallel_tasks: Siblings that are done side by side where none needs the other.
        fast_path: Whether a question that needs no plan is answered without one.
    """

    max_chain_length: int = 7
    initial_plan: bool = True
    max_plan_tree_depth: int = 3
    max_plan_tree_width: int = 5
    max_plan_refine_chain_length: int = 3
    max_parallel_tasks: int = 1
    fast_path: bool = True


class ContextSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Facts and settings that decide what a request holds, fixed for a run so that it can be replayed.

    Args:
        window: The model's window in tokens.
        reserve: Tokens of it that are kept for the reply.
        tokenizer: As in `models.base.ModelProfile`.
        image_tokens: As in `models.base.ModelProfile`.
        images: Whether the model is shown images.
        thinking_back: As in `models.base.ModelProfile`.
        call_tokens: Tokens that one past call may take in a digest (`summary.single_step_max_tokens`).
        return_tokens: Tokens that the results of past calls may take in a digest (`summary.max_return_tokens`).
        max_tokens: Tokens of a request at most, where that is less than the window (`max_message_tokens`); 0 for no
            other limit than the window.
        summarize: Kinds of summaries that are made in the background; None switches history to its raw form.
        image_model: Name of the model in the settings that is asked where a request holds images.
        image_window: Its window in tokens; 0 where there is none.
    """

    window: int = 8192
    reserve: int = 1024
    tokenizer: str = ""
    image_tokens: str = ""
    images: bool = False
    thinking_back: bool = False
    call_tokens: int = 2048
    return_tokens: int = 12384
    max_tokens: int = 0
    summarize: tuple[SummaryKind, ...] | None = ()
    image_model: str = ""
    image_window: int = 0


class RunSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Everything that decides how a run goes, so that a new process can go on with it.

    Args:
        agent: Name of the agent in the settings.
        model: Name of the model in the settings.
        model_name: The name sent to the endpoint, where it is not the model's own.
        dialect: Name of the dialect; empty for native tool calls.
        prompt: Name of the dialect's template.
        language: `en` or `zh`.
        system: The system message.
        tools: Names of the tools offered, in order.
        client_tools: Tools that the client carries out; a call of one waits for the result that the client sends.
        tool_choice: What the first reply must call: `required` for any tool, or the name of one; empty for what it
            likes.
        sampling: Further fields of each request to the model, sent as they are.
        temperature: As in `models.base.Settings`.
        max_tokens: As in `models.base.Settings`.
        limits: What the run may use.
        context: How requests are kept inside the window; None for a run of a version that did not.
        output: Name, description and JSON schema of the final answer; None for plain text.
        face: The protocol through which it was asked for.
        people: Whether somebody can answer questions; where nobody can, to ask is to deny.
        engine: The policy that decides its steps.
        tasks: How tasks and plans are carried out; None for engines without.
        approvals: The table of calls that run at once; without a fitting row a call runs.
        question_seconds: Seconds until an approval expires unanswered; None for never.
        repetitions: The same call with the same result so often in a row stops and asks; 0 for never.
        prices: What its model costs; None where that is unknown.
        max_output: Longest reply of its model in tokens; 0 where that is unknown.
        thread_limits: What all runs of the thread may use together; None for no limit.
        metadata: What the client attached to it, for its own use; nothing here reads it.
        key: Whose account its spending is on: the id of an API key; empty for none.
        versions: Short hashes of the prompts and constants in force, by name; replay compares them.
        outside: The framework whose agent decides its steps in another program, such as `langchain`; empty where an
            engine decides them. Nobody else can go on with such a run.
    """

    agent: str = "default"
    model: str = ""
    model_name: str = ""
    dialect: str = ""
    prompt: str = "default"
    language: str = "en"
    system: str = ""
    tools: tuple[str, ...] = ()
    client_tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = ""
    sampling: dict[str, Any] = {}
    temperature: float | None = None
    max_tokens: int | None = None
    limits: Limits = Limits()
    context: ContextSpec | None = None
    output: dict[str, Any] | None = None
    face: str = "native"
    people: bool = True
    engine: EngineName = "chat"
    tasks: TaskOptions | None = None
    approvals: tuple[Rule, ...] = ()
    question_seconds: float | None = None
    repetitions: int = 0
    prices: Prices | None = None
    max_output: int = 0
    thread_limits: Limits | None = None
    metadata: dict[str, str] = {}
    key: str = ""
    versions: dict[str, str] = {}
    outside: str = ""
