"""What engines say to people and models, in English and Chinese, by name. Prompts are in `prompts/`."""

from __future__ import annotations

from types import MappingProxyType

WORDS = MappingProxyType(
    {
        "cancelled_call": (
            "No result: the run was stopped before this call ended.",
            "没有结果：此调用结束之前，运行已停止。",
        ),
        "interrupted_call": (
            "No result: somebody interrupted the work before this call ended. It may have taken effect in part.",
            "没有结果：此调用结束之前，工作被人打断。它可能已经部分生效。",
        ),
        "interrupted_early": (
            "Not run: somebody interrupted the work before this call began.",
            "未执行：此调用开始之前，工作被人打断。",
        ),
        "may_still_finish": (
            "It runs in a thread that nobody can stop, so it may still finish.",
            "它在无法停止的线程中运行，可能仍会执行完毕。",
        ),
        "unknown_outcome": (
            "The outcome is unknown: the process stopped while this tool ran. It was not run again. "
            "Check whether it took effect before you repeat it.",
            "结果未知：工具运行时进程中断，系统没有再次执行它。重试之前请先确认它是否已经生效。",
        ),
        "truncated_call": (
            "Not run: the reply was cut at its token limit, so the call may be incomplete. Make a shorter call.",
            "未执行：回复达到长度上限而被截断，调用可能不完整。请缩短后重试。",
        ),
        "orphaned": (
            "The program that carried this run out stopped, and nobody else can go on with it.",
            "执行此运行的程序已停止，其他程序无法继续。",
        ),
        "steps": ("The run reached its limit of {limit} model calls.", "运行已达到 {limit} 次模型调用的上限。"),
        "tool_calls": ("The run reached its limit of {limit} tool calls.", "运行已达到 {limit} 次工具调用的上限。"),
        "tokens": ("The run reached its limit of {limit} tokens.", "运行已达到 {limit} 个 token 的上限。"),
        "seconds": ("The run reached its limit of {limit:g} seconds.", "运行已达到 {limit:g} 秒的上限。"),
        "money": ("The run reached its limit of {limit:g} for money.", "运行已达到 {limit:g} 的费用上限。"),
        "repetition": (
            "The run was stopped: the same calls brought the same results {limit} times in a row.",
            "运行已停止：相同的调用连续 {limit} 次得到了相同的结果。",
        ),
        "thread_steps": (
            "The thread reached its limit of {limit} model calls.",
            "会话已达到 {limit} 次模型调用的上限。",
        ),
        "thread_tool_calls": (
            "The thread reached its limit of {limit} tool calls.",
            "会话已达到 {limit} 次工具调用的上限。",
        ),
        "thread_tokens": ("The thread reached its limit of {limit} tokens.", "会话已达到 {limit} 个 token 的上限。"),
        "thread_seconds": ("The thread reached its limit of {limit:g} seconds.", "会话已达到 {limit:g} 秒的上限。"),
        "thread_money": ("The thread reached its limit of {limit:g} for money.", "会话已达到 {limit:g} 的费用上限。"),
        "approval_question": ("May {detail} run with these arguments?", "是否允许以这些参数执行 {detail}？"),
        "rule_asks": ("The rules ask for an approval: {detail}", "规则要求先获得批准：{detail}"),
        "rule_denies": (
            "Not run: the rules do not allow this call ({detail}). Do without it.",
            "未执行：规则不允许此调用（{detail}）。请换一种做法。",
        ),
        "nobody_approves": (
            "Not run: this call needs a person's approval, and nobody can give one here ({detail}). Do without it, "
            "or say in the answer what would have to be allowed.",
            "未执行：此调用需要人工批准，而这里无人可以批准（{detail}）。请换一种做法，或在回答中说明需要允许什么。",
        ),
        "denied": ("Not run: a person refused this call.", "未执行：有人拒绝了此调用。"),
        "denied_because": (
            "Not run: a person refused this call and said: {detail}",
            "未执行：有人拒绝了此调用，并说明：{detail}",
        ),
        "approval_expired": (
            "Not run: this call needed a person's approval, and nobody decided in time.",
            "未执行：此调用需要人工批准，但在限定时间内无人作出决定。",
        ),
        "edited_arguments": (
            "[A person changed the arguments of this call; it ran with: {detail}]",
            "[有人修改了此调用的参数，实际执行的是：{detail}]",
        ),
        "outcome_question": (
            "{detail} was cut off while it ran, and nobody knows whether it took effect. Run it again, take it as "
            "done, or skip it?",
            "{detail} 在执行过程中被中断，无法得知是否已经生效。要重新执行、视为已完成，还是跳过？",
        ),
        "done_by_people": ("A person says that this call is done.", "有人确认此调用已经完成。"),
        "skipped_outcome": (
            "The outcome is unknown: this call was cut off while it ran. A person decided not to run it again.",
            "结果未知：此调用在执行过程中被中断。有人决定不再重新执行。",
        ),
        "repetition_question": (
            "The same calls brought the same results {limit} times in a row. May the run go on?",
            "相同的调用连续 {limit} 次得到了相同的结果。是否允许继续运行？",
        ),
        "no_answer": (
            "Nobody answered in time. Go on as well as you can without the answer.",
            "在限定时间内无人回答。请在没有答案的情况下尽力继续。",
        ),
        "answered_later": (
            "The question was put to a person. The answer comes later, in a further turn.",
            "问题已转交给人，答案将在之后的对话中给出。",
        ),
        "not_carried_out": (
            "The client did not carry out this call and gave no reason.",
            "客户端没有执行此调用，也没有说明原因。",
        ),
        "question_kept": (
            "I cannot go on without an answer from a person. Answer with the command below each question.\n\n{detail}",
            "我需要有人回答以下问题才能继续。请使用每个问题下方的命令作答。\n\n{detail}",
        ),
        # delegated tasks
        "delegated_success": ("The agent {detail} did the task.", "智能体 {detail} 完成了任务。"),
        "delegated_failure": ("The agent {detail} did not reach the goal.", "智能体 {detail} 没有达成目标。"),
        "delegated_cancelled": (
            "The task was stopped before the agent {detail} ended it.",
            "智能体 {detail} 完成任务之前，任务已被停止。",
        ),
        "no_such_agent": ("There is no agent {detail} any more.", "智能体 {detail} 已不存在。"),
        # talking beside a plan
        "task_begun": ("The work has begun.", "工作已经开始。"),
        "user_told": ("The user was told.", "已告知用户。"),
        "passed_on": ("It was passed on to the planner.", "已转达给规划者。"),
        "no_such_choice": (
            "Nothing happens: call exactly one of {detail}, with its text.",
            "没有任何变化：请只调用以下函数之一，并给出内容：{detail}。",
        ),
        "chat_failed": ("I cannot answer this about the work now.", "目前无法回答这个关于工作的问题。"),
        "nobody_answered": (
            "Nobody answered. Go on as well as you can without the answer.",
            "无人回答。请在没有答案的情况下尽力继续。",
        ),
        "answered_by_message": (
            "The user did not answer here, but wrote the message that follows.",
            "用户没有直接回答，而是写了接下来的消息。",
        ),
        "really_exit": (
            "Is the work really to stop for good? {detail}",
            "确定要彻底停止这项工作吗？{detail}",
        ),
        "work_stops": ("The work stops.", "工作停止。"),
        "work_goes_on": ("The work goes on.", "工作继续进行。"),
        "work_over": ("The work is over by now.", "工作此时已经结束。"),
        "not_judged": (
            "I could not deal with this message: {detail} The work goes on.",
            "无法处理这条消息：{detail} 工作继续进行。",
        ),
        "your_answer": ("your answer", "你的回答"),
        "empty_reply": ("The model returned an empty reply.", "模型返回了空回复。"),
        "content_filter": ("The endpoint withheld the reply (content filter).", "端点的内容过滤器拦截了回复。"),
        "length": ("The reply was cut at its token limit.", "回复达到长度上限，已被截断。"),
        "malformed_tool_call": (
            "The model wrote {limit} tool calls in a row that could not be read.",
            "模型连续 {limit} 次写出无法解析的工具调用。",
        ),
        "cancelled": ("The run was cancelled.", "运行已取消。"),
        "model_failed": ("The model failed: {detail}", "模型调用失败：{detail}"),
        "window": (
            "The conversation cannot be brought under the model's window: {detail}",
            "对话无法压缩到模型的上下文窗口之内：{detail}",
        ),
        "invalid_output": (
            "The model's answer does not fit the form that was asked for: {detail}",
            "模型的回答不符合所要求的格式：{detail}",
        ),
        "internal": (
            "Stepwell itself failed: {detail}. The run was ended; its log is whole.",
            "Stepwell 内部出错：{detail}。运行已结束，日志完整。",
        ),
    }
)


def words(name: str, language: str, **values: object) -> str:
    """Return a text by name in `zh` or else English, with its values filled in."""
    english, chinese = WORDS[name]
    return (chinese if language == "zh" else english).format(**values)
