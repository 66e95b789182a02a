"""What engines say to people and models, in English and Chinese, by name. Prompts are in `prompts/`."""

from __future__ import annotations

from types import MappingProxyType

WORDS = MappingProxyType(
    {
        "cancelled_call": (
            "No result: the run was stopped before this call ended.",
            "没有结果：此调用结束之前，运行已停止。",
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
        "steps": ("The run reached its limit of {limit} model calls.", "运行已达到 {limit} 次模型调用的上限。"),
        "tool_calls": ("The run reached its limit of {limit} tool calls.", "运行已达到 {limit} 次工具调用的上限。"),
        "tokens": ("The run reached its limit of {limit} tokens.", "运行已达到 {limit} 个 token 的上限。"),
        "seconds": ("The run reached its limit of {limit:g} seconds.", "运行已达到 {limit:g} 秒的上限。"),
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
