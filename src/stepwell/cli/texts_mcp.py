"""What `stepwell mcp` and `stepwell doctor` say of MCP servers, in English and Chinese, by name."""

from __future__ import annotations

from types import MappingProxyType

MCP = MappingProxyType(
    {
        "help_mcp": ("MCP servers and their tools.", "MCP 服务器及其工具。"),
        "help_mcp_list": (
            "List the servers' tools, and which of them are off because they are others than before.",
            "列出各服务器的工具，以及因内容变化而停用的工具。",
        ),
        "help_mcp_confirm": (
            "Switch tools on that are new or say something else than before, as they are now.",
            "启用新增的或内容有变的工具，以其现在的内容为准。",
        ),
        "help_mcp_login": (
            "Log in at a server that asks for it, in a browser on this machine.",
            "在本机浏览器中登录需要登录的服务器。",
        ),
        "mcp_open": (
            "Open this address in a browser on this machine, and log in:",
            "请在本机浏览器中打开此地址并登录：",
        ),
        "mcp_logged_in": ("Logged in at {server}.", "已登录 {server}。"),
        "help_mcp_server": ("Name of a server in the settings.", "设置中服务器的名称。"),
        "help_mcp_tool": ("Name of one of its tools; all of them without it.", "其中一个工具的名称；不给则为全部。"),
        "mcp_none": ("The settings name no MCP server.", "设置中没有 MCP 服务器。"),
        "mcp_no_server": ("There is no MCP server {name}; known: {known}.", "没有 MCP 服务器 {name}；已知：{known}。"),
        "mcp_no_tool": ("{server} has no tool {name} that waits.", "{server} 没有待确认的工具 {name}。"),
        "mcp_unseen": ("never seen", "从未连接"),
        "mcp_on": ("on", "启用"),
        "mcp_changed": ("changed, off", "有变，停用"),
        "mcp_new": ("new, off", "新增，停用"),
        "mcp_refused": ("left out", "不可用"),
        "mcp_prompt": ("prompt, for people", "提示词，供人参考"),
        "mcp_nothing": ("Nothing of {server} waits to be confirmed.", "{server} 没有待确认的内容。"),
        "mcp_before": ("before: {said}", "原来：{said}"),
        "mcp_now": ("now:    {said}", "现在：{said}"),
        "mcp_sure": ("Switch them on as they are now? [y/N] ", "按现在的内容启用？[y/N] "),
        "mcp_confirmed": ("On: {names}. Runs that begin now have them.", "已启用：{names}。新的运行会使用它们。"),
        "mcp_left": ("Nothing was changed.", "未作改动。"),
        "mcp_changed_again": ("{names} changed once more meanwhile; look again.", "{names} 期间又有变化；请重新查看。"),
        "column_server": ("server", "服务器"),
        "column_tool": ("tool", "工具"),
        "column_effect": ("effect", "效果"),
        "column_said": ("what it says", "内容"),
        "doctor_mcp": ("MCP server {name}", "MCP 服务器 {name}"),
        "doctor_mcp_extra": ("the server of MCP needs an extra", "MCP 服务需要额外的依赖"),
        "doctor_mcp_tools": ("{count} tools", "{count} 个工具"),
        "doctor_mcp_off": ("{count} tools; off: {names}", "{count} 个工具；停用：{names}"),
        "doctor_mcp_remedy": ("look at them and switch them on: {command}", "查看并启用：{command}"),
        "doctor_mcp_unseen": (
            "never seen; its tools are pinned when it is connected first",
            "从未连接；首次连接时会记下它的工具",
        ),
        "doctor_mcp_disabled": ("switched off in the settings", "在设置中停用"),
    }
)
