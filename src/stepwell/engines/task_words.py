"""What the engines of tasks and plans say to people and models, in English and Chinese, by name."""

from __future__ import annotations

from types import MappingProxyType

TASK_WORDS = MappingProxyType(
    {
        # the end of a task
        "submitted": ("The task is submitted as {type}.", "任务已提交，类型为 {type}。"),
        "after_submission": (
            "Not run: the task was submitted by an earlier call of this reply.",
            "未执行：本次回复中更早的调用已经提交了任务。",
        ),
        "submitted_before": (
            "Nothing happens: the task was submitted by an earlier call, and the first submission counts.",
            "没有任何变化：更早的调用已经提交了任务，以第一次提交为准。",
        ),
        "bad_arguments": (
            "Not run: the arguments cannot be used: {detail}. Correct them and call again.",
            "未执行：参数无法使用：{detail}。请改正后重新调用。",
        ),
        "no_call": (
            "Your reply called no tool. Go on with a tool, or end the task with `subtask_submit`, "
            "with what you found as its `result`.",
            "你的回复没有调用任何工具。请继续使用工具，或调用 `subtask_submit` 结束任务，并把结果写入 `result`。",
        ),
        "nothing_said": ("The model ended the task without a word.", "模型没有给出任何内容就结束了任务。"),
        "chain_over": (
            "The task took all of its {limit} steps and was not submitted.",
            "任务用完了全部 {limit} 个步骤，但没有提交。",
        ),
        "given_up": ("The task was given up.", "任务已放弃。"),
        "unconcluded": (
            "The model gave no conclusion that could be used; this is what the task was submitted with.",
            "模型没有给出可用的结论；以下是任务提交时的内容。",
        ),
        # plans
        "plan_made": ("The plan has {count} tasks: {ids}.", "计划包含 {count} 项任务：{ids}。"),
        "answered": ("The answer is given.", "已给出回答。"),
        "first_counts": (
            "Nothing happens: an earlier call of this reply decided.",
            "没有任何变化：以本次回复中更早的调用为准。",
        ),
        "no_such_call": (
            "There is no tool `{name}` here. You can call: {names}.",
            "这里没有工具 `{name}`。可以调用：{names}。",
        ),
        "empty_answer": ("`answer` is empty", "`answer` 为空"),
        "plan_called_nothing": (
            "Your reply called none of the tools that were offered. Call one of them: {names}.",
            "你的回复没有调用所提供的工具。请调用其中之一：{names}。",
        ),
        "nobody_asked": (
            "No change of the plan is asked for now; nothing happens.",
            "现在无需修改计划；没有任何变化。",
        ),
        "rectified": ("The plan stays as it is now.", "计划保持现状。"),
        "edits_used": (
            "This rectification is over: no further edits are allowed; nothing happens.",
            "本次修改已结束，不能再编辑；没有任何变化。",
        ),
        "new_information": (
            "The user said something new while the plan was carried out. Change the plan accordingly: {text}",
            "用户在计划执行期间提出了新的信息，请据此修改计划：{text}",
        ),
        "asked_by": (
            "Task {id} ({name}) asks for a change of the plan: {text}",
            "任务 {id}（{name}）要求修改计划：{text}",
        ),
        "no_reason": ("no suggestion was given", "没有给出建议"),
        # operations
        "split_done": ("Task {id} is split into {ids}: success.", "任务 {id} 已拆分为 {ids}：成功。"),
        "add_done": ("Tasks {ids} stand right after {id}: success.", "已在 {id} 之后加入 {ids}：成功。"),
        "delete_done": ("Task {id} is deleted: success.", "任务 {id} 已删除：成功。"),
        "operated": ("The plan is changed: success.", "计划已修改：成功。"),
        "unknown_target": (
            "There is no task {id}. The tasks are {ids}; nothing happens.",
            "没有任务 {id}。现有任务：{ids}；没有任何变化。",
        ),
        "former_target": (
            "Task {id} stands before the current task {current}, and what is past cannot be edited; nothing happens.",
            "任务 {id} 位于当前任务 {current} 之前，已过去的部分不能编辑；没有任何变化。",
        ),
        "unknown_operation": (
            "There is no operation `{name}`. Use split, add, delete or exit; nothing happens.",
            "没有操作 `{name}`。请使用 split、add、delete 或 exit；没有任何变化。",
        ),
        "too_deep": (
            "Task {id} stands at depth {depth}, and the tree may be {most} deep; it cannot be split; nothing happens.",
            "任务 {id} 位于第 {depth} 层，而计划树最多 {most} 层，不能再拆分；没有任何变化。",
        ),
        "not_splittable": (
            "Task {id} is {status}; only a task to be done or one that failed can be split; nothing happens.",
            "任务 {id} 的状态是 {status}；只有待办或失败的任务可以拆分；没有任何变化。",
        ),
        "root_target": (
            "Task {id} is the whole; nothing can stand beside it; nothing happens.",
            "任务 {id} 是整体任务，不能在它旁边加入任务；没有任何变化。",
        ),
        "too_wide": (
            "{count} tasks would stand below {id}, and at most {most} may; nothing happens.",
            "任务 {id} 之下将有 {count} 项任务，最多只能有 {most} 项；没有任何变化。",
        ),
        "not_deletable": (
            "Task {id} is {status}; only a task to be done can be deleted; nothing happens.",
            "任务 {id} 的状态是 {status}；只有待办的任务可以删除；没有任何变化。",
        ),
        "bad_operation": ("{detail}; nothing happens.", "{detail}；没有任何变化。"),
        "no_subtasks": ("`subtasks` is empty; name at least one task", "`subtasks` 为空，请至少写一项任务"),
        "nameless": ("subtask {number} has no `name`", "第 {number} 项任务没有 `name`"),
        "unknown_need": (
            "subtask {number} needs {need!r}, which names none of its siblings: {names}",
            "第 {number} 项任务的 needs 中的 {need!r} 不是它的同级任务：{names}",
        ),
        "circle": ("the subtasks need each other in a circle: {names}", "任务之间的 needs 形成了循环：{names}"),
        # ends
        "done_list": ("Done:", "已完成："),
        "failed_list": ("Not reached:", "未达成："),
        "open_list": ("Not begun or not finished:", "尚未开始或尚未完成："),
        "last_said": ("What was said last: {text}", "最后的内容：{text}"),
        "no_conclusion": (
            "The model gave no overall conclusion that could be used.",
            "模型没有给出可用的总体结论。",
        ),
    }
)


def told(name: str, language: str, /, **values: object) -> str:
    """Return a text by name in `zh` or else English, with its values filled in."""
    english, chinese = TASK_WORDS[name]
    return (chinese if language == "zh" else english).format(**values)
