"""Operations on a plan and their guards, and how a plan reads as text (XAgent's plan operations).

Pure functions over the tree: they say what may happen and why not, and record nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import msgspec

from stepwell.contexts import TaskConclusion
from stepwell.engines.task_words import told
from stepwell.events import PlanChanged
from stepwell.messages import ToolCall, clean
from stepwell.plans import Node, Plan, Task, TaskStatus, TaskSubmission, number_of
from stepwell.specs import TaskOptions
from stepwell.tools.arguments import BadArguments, read_object

LONGEST_NAME = 200
"""Characters of a task's name."""
LONGEST_SHOWN = 400
"""Characters of a goal or summary in the overview of a plan."""


class NewTask(msgspec.Struct, frozen=True):
    """A task as a model names it; `needs` are names or ids of its siblings, or places among the new tasks."""

    name: str = ""
    goal: str = ""
    milestones: tuple[str, ...] = ()
    prior_criticism: str = ""
    needs: tuple[str | int | float, ...] = ()


class Subtasks(msgspec.Struct, frozen=True):
    """Arguments of `generate_plan`."""

    subtasks: tuple[NewTask, ...]


class Operation(msgspec.Struct, frozen=True):
    """Arguments of `subtask_operations`."""

    operation: str
    target_subtask_id: str | int | float = ""
    subtasks: tuple[NewTask, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """Arguments of `answer_directly`."""

    answer: str


class Outcome(msgspec.Struct, frozen=True):
    """What becomes of an operation.

    Args:
        kind: It is done; it ends the rectification; it is refused.
        text: What the model is told; a refusal ends in words that say that nothing happens.
        event: What is recorded where it is done.
    """

    kind: Literal["done", "exit", "refused"]
    text: str
    event: PlanChanged | None = None


class Unfit(ValueError):
    """What a model named cannot be used; the message says why, for the model."""


Given = TypeVar("Given", bound=msgspec.Struct)


def read(call: ToolCall, kind: type[Given]) -> Given:
    """Return the arguments of a call.

    Raises:
        Unfit: They are no JSON object of this form.
    """
    try:
        return msgspec.convert(read_object(call.arguments or "{}"), kind, strict=False)
    except (BadArguments, msgspec.ValidationError) as error:
        raise Unfit(clean(str(error))) from None


def submission_of(call: ToolCall) -> TaskSubmission:
    """Return what a call of `subtask_submit` submits.

    Raises:
        Unfit: Its arguments cannot be used.
    """
    found = read(call, TaskSubmission)
    suggestions = tuple(text for each in found.suggestions if (text := each.strip()))
    return msgspec.structs.replace(found, suggestions=suggestions, result=found.result.strip())


def first_plan(given: Sequence[NewTask], root: Task, options: TaskOptions, language: str) -> tuple[Task, ...]:
    """Return the tasks of a new plan, with their ids.

    Raises:
        Unfit: They make no plan.
    """
    if len(given) > options.max_plan_tree_width:
        most = options.max_plan_tree_width
        raise Unfit(told("too_wide", language, count=len(given), id=root.id, most=most))
    return _made(given, Plan(root), root.id, [], language)


def operate(plan: Plan, wanted: Operation, current: str, options: TaskOptions, language: str) -> Outcome:
    """Say what becomes of an operation, by the guards of XAgent in their order.

    Args:
        plan: The tree, which is not changed here.
        wanted: The operation.
        current: Id of the current task; all that stands before it in pre-order is past.
        options: How deep and wide the tree may be.
        language: Of the texts.
    """
    operation = wanted.operation.strip().lower()
    if operation == "exit":
        return Outcome("exit", told("rectified", language))
    id = clean(str(wanted.target_subtask_id)).strip()
    target = plan.find(id)
    if target is None:
        return _refused("unknown_target", language, id=id[:80] or "?", ids=", ".join(_order(plan)))
    if _past(plan, target, current):
        return _refused("former_target", language, id=target.task.id, current=current)
    match operation:
        case "split":
            return _split(plan, target, wanted.subtasks, options, language)
        case "add":
            return _add(plan, target, wanted.subtasks, options, language)
        case "delete":
            return _delete(target, language)
        case _:
            return _refused("unknown_operation", language, name=clean(operation)[:80])


def repeated(plan: Plan, wanted: Operation) -> bool:
    """Tell whether an operation was carried out already, though its call has no result."""
    target = plan.find(clean(str(wanted.target_subtask_id)).strip())
    names = [_folded(_name(each)) for each in wanted.subtasks]
    match wanted.operation.strip().lower():
        case "split":
            beside = target.children if target is not None else []
        case "add" if target is not None and target.parent is not None:
            at = target.parent.children.index(target) + 1
            beside = target.parent.children[at : at + len(names)]
        case "delete":
            return target is None
        case _:
            return False
    return bool(names) and [_folded(node.task.name) for node in beside] == names


def _refused(name: str, language: str, /, **values: object) -> Outcome:
    return Outcome("refused", told(name, language, **values))


def _order(plan: Plan) -> dict[str, int]:
    return {node.task.id: at for at, node in enumerate(plan.root.walk())}


def _past(plan: Plan, target: Node, current: str) -> bool:
    order = _order(plan)
    return order[target.task.id] < order.get(current, 0)


def _split(plan: Plan, target: Node, given: Sequence[NewTask], options: TaskOptions, language: str) -> Outcome:
    id, most = target.task.id, options.max_plan_tree_width
    if target.depth >= options.max_plan_tree_depth:
        depth = options.max_plan_tree_depth
        return _refused("too_deep", language, id=id, depth=target.depth, most=depth)
    if target.children or target.status not in ("TODO", "FAIL"):
        return _refused("not_splittable", language, id=id, status="SPLIT" if target.children else target.status)
    if len(given) > most:
        return _refused("too_wide", language, count=len(given), id=id, most=most)
    try:
        tasks = _made(given, plan, id, target.children, language)
    except Unfit as error:
        return _refused("bad_operation", language, detail=error)
    text = told("split_done", language, id=id, ids=", ".join(task.id for task in tasks))
    return Outcome("done", text, PlanChanged("split", id, tasks))


def _add(plan: Plan, target: Node, given: Sequence[NewTask], options: TaskOptions, language: str) -> Outcome:
    id, most, parent = target.task.id, options.max_plan_tree_width, target.parent
    if parent is None:
        return _refused("root_target", language, id=id)
    count = len(parent.children) + len(given)
    if count > most:
        return _refused("too_wide", language, count=count, id=parent.task.id, most=most)
    try:
        tasks = _made(given, plan, parent.task.id, parent.children, language)
    except Unfit as error:
        return _refused("bad_operation", language, detail=error)
    text = told("add_done", language, id=id, ids=", ".join(task.id for task in tasks))
    return Outcome("done", text, PlanChanged("add", id, tasks))


def _delete(target: Node, language: str) -> Outcome:
    id = target.task.id
    if target.status != "TODO" or target.parent is None:
        return _refused("not_deletable", language, id=id, status=target.status)
    return Outcome("done", told("delete_done", language, id=id), PlanChanged("delete", id))


def _made(
    given: Sequence[NewTask], plan: Plan, parent: str, siblings: Sequence[Node], language: str
) -> tuple[Task, ...]:
    """Return new tasks below a parent, with their ids and with ids for what they need."""
    if not given:
        raise Unfit(told("no_subtasks", language))
    for number, each in enumerate(given, 1):
        if not each.name.strip():
            raise Unfit(told("nameless", language, number=number))
    ids = [plan.next_id(parent, at) for at in range(len(given))]
    names = {_folded(node.task.name): node.task.id for node in siblings}
    names |= {_folded(each.name): id for each, id in reversed([*zip(given, ids, strict=True)])}
    known = [*(node.task.id for node in siblings), *ids]
    tasks: list[Task] = []
    for number, (each, id) in enumerate(zip(given, ids, strict=True), 1):
        needs: dict[str, None] = {}
        for need in each.needs:
            found = _needed(str(need), ids, known, names)
            if found is None:
                said, all = clean(str(need))[:80], ", ".join(known)
                raise Unfit(told("unknown_need", language, number=number, need=said, names=all))
            needs[found] = None
        tasks.append(_task(each, id, tuple(needs)))
    _check_circle(tasks, language)
    return tuple(tasks)


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _needed(text: str, ids: list[str], known: list[str], names: Mapping[str, str]) -> str | None:
    """Return the id of the sibling that a text names: by its name, by its id as numbers, or by its place from 1."""
    named = names.get(_folded(text))
    if named is not None:
        return named
    try:
        number = number_of(text.strip())
    except ValueError:
        return None
    if len(number) == 1:
        return ids[number[0] - 1] if 1 <= number[0] <= len(ids) else None
    return next((id for id in known if number_of(id) == number), None)


def _name(given: NewTask) -> str:
    return clean(" ".join(given.name.split()))[:LONGEST_NAME]


def _task(given: NewTask, id: str, needs: tuple[str, ...]) -> Task:
    name = _name(given)
    return Task(
        id=id,
        name=name,
        goal=clean(given.goal).strip() or name,
        milestones=tuple(text for each in given.milestones if (text := clean(each).strip())),
        prior_criticism=clean(given.prior_criticism).strip(),
        needs=needs,
    )


def _check_circle(tasks: list[Task], language: str) -> None:
    ids = {task.id for task in tasks}
    left = {task.id: ids.intersection(task.needs) for task in tasks}
    while free := [id for id, needs in left.items() if not needs]:
        for id in free:
            del left[id]
        for needs in left.values():
            needs.difference_update(free)
    if left:
        names = ", ".join(task.name for task in tasks if task.id in left)
        raise Unfit(told("circle", language, names=names))


# how it reads


def overview(plan: Plan) -> str:
    """Return a plan as text: one task a line, below it what became of it."""
    lines: list[str] = []
    for node in plan.root.walk():
        indent = "  " * (node.depth - 1)
        task = node.task
        needs = f" (needs {', '.join(task.needs)})" if task.needs else ""
        lines.append(f"{indent}{task.id} [{_status(node)}] {task.name}: {_short(task.goal)}{needs}")
        if node.conclusion is not None:
            lines.append(f"{indent}    -> {_short(node.conclusion.summary)}")
    return "\n".join(lines)


def _status(node: Node) -> TaskStatus:
    if node.parent is None and node.children and node.status == "TODO":
        return "DOING"
    return node.status


def _short(text: str) -> str:
    line = " ".join(text[: 4 * LONGEST_SHOWN].split())
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 1] + "…"


def task_text(task: Task) -> str:
    """Return a task as text: name, goal, milestones and what to watch for."""
    lines = [task.name] if task.goal.startswith(task.name) else [task.name, task.goal]
    if lines == [task.name]:
        lines = [task.goal]
    lines += [f"- {each}" for each in task.milestones]
    if task.prior_criticism:
        lines.append(f"! {task.prior_criticism}")
    return "\n".join(lines)


def standing(plan: Plan, why: str, language: str) -> TaskConclusion:
    """Return a conclusion of a plan that its agent did not make: what was done, and what was not.

    Args:
        plan: The plan.
        why: Why nobody concluded it.
        language: Of the headings.
    """
    lists: dict[str, list[str]] = {"done_list": [], "failed_list": [], "open_list": []}
    for node in plan.leaves():
        kind = {"SUCCESS": "done_list", "FAIL": "failed_list"}.get(node.status, "open_list")
        came = f": {_short(node.conclusion.summary)}" if node.conclusion is not None else ""
        lists[kind].append(f"- {node.task.id} {node.task.name}{came}")
    parts = [why]
    for kind, lines in lists.items():
        if lines:
            parts.append("\n".join([told(kind, language), *lines]))
    text = "\n\n".join(filter(None, parts))
    well = not lists["failed_list"] and not lists["open_list"]
    reached = tuple(node.task.goal for node in plan.leaves() if node.status == "SUCCESS")
    return TaskConclusion(summary=text, status="success" if well else "failure", reached_goals=reached, reply=text)
