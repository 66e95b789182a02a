"""Titles and labels of what a model reads about its own past and context, in English and Chinese, by name."""

from __future__ import annotations

from types import MappingProxyType

HEADINGS = MappingProxyType(
    {
        "available_tools": ("Available Tools", "可用工具"),
        "skills_description": ("Skills", "技能"),
        "resource": ("Resources", "资源"),
        "experience": ("Experience", "经验"),
        "rolled": ("Earlier Messages and Tasks, Summarised", "更早的消息与任务（摘要）"),
        "user_message": ("User Messages", "用户消息"),
        "past_tasks": ("Past Tasks", "已完成的任务"),
        "ideas": ("Ideas", "想法"),
        "pinned": ("Pinned Facts", "固定的事实"),
        "current_goal": ("Current Goal", "当前目标"),
        "basic_info": ("Basic Info", "基本信息"),
        "observation": ("Observation", "观察"),
        "summary": ("Summary", "摘要"),
        "self_examination": ("Self-Examination", "自我检查"),
        "thoughts": ("Thoughts", "思考"),
        "tool_calls": ("Tool Calls", "工具调用"),
        "success": ("success", "成功"),
        "failure": ("failure", "失败"),
        "reached_goals": ("Reached", "已达成"),
        "failed_goals": ("Not reached", "未达成"),
        "reason": ("reason", "原因"),
        "reflection": ("lesson", "教训"),
        "reflections": ("Lessons", "教训"),
        "tool_reflection": ("About tools", "关于工具"),
        "reply": ("Reply", "答复"),
        "history": ("Your past thoughts & actions:", "你过去的思考与行动："),
        "user": ("User", "用户"),
        "assistant": ("Thought", "思考"),
        "tool_call": ("Tool Call", "工具调用"),
        "status": ("Status", "状态"),
        "output": ("Output", "输出"),
    }
)


def heading(name: str, language: str) -> str:
    """Return a title or label by name in `zh` or else English."""
    english, chinese = HEADINGS[name]
    return chinese if language == "zh" else english
