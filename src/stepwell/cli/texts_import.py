"""What `stepwell import` says, in English and Chinese, by name."""

from __future__ import annotations

from types import MappingProxyType

IMPORT = MappingProxyType(
    {
        "help_import": (
            "Make threads of conversations that another program stored; what is here already is not made twice.",
            "把其他程序保存的对话导入为会话；已导入的不会重复。",
        ),
        "help_import_file": (
            "Langchain-Chatchat's info.db, a JSONL file with `messages`, or ChatGPT's zip or conversations.json.",
            "Langchain-Chatchat 的 info.db、含 `messages` 的 JSONL 文件，或 ChatGPT 的 zip 或 conversations.json。",
        ),
        "help_import_format": (
            "The file's format; without it, its first bytes tell.",
            "文件格式；不给则由文件开头判断。",
        ),
        "help_import_trial": ("Say what would be imported, and store nothing.", "只说明将导入什么，不保存。"),
        "help_import_owner": ("Whose threads they become.", "导入后会话的所有者。"),
        "import_owner_wrong": (
            "The owner's name needs 1 to {limit} characters that can be seen.",
            "所有者名称需为 1 到 {limit} 个可见字符。",
        ),
        "column_became": ("became", "结果"),
        "column_messages": ("messages", "消息"),
        "import_imported": ("imported", "已导入"),
        "import_grown": ("added to", "已补充"),
        "import_known": ("here already", "已存在"),
        "import_would_imported": ("would be new", "将导入"),
        "import_would_grown": ("would grow", "将补充"),
        "import_changed": (
            "{place}: it is thread {thread} already, which was gone on with or says something else; nothing was added",
            "{place}：已是会话 {thread}，该会话已被继续或内容不同；未添加任何内容",
        ),
        "import_skipped": ("{place} is left out: {cause}", "未导入 {place}：{cause}"),
        "import_at_jsonl": ("line {place}", "第 {place} 行"),
        "import_at_chatchat": ("conversation {place}", "对话 {place}"),
        "import_at_chatgpt": ("conversation {place}", "对话 {place}"),
        "import_cause_syntax": ("it is broken JSON ({detail})", "JSON 有误（{detail}）"),
        "import_cause_form": ("it does not have the form of a conversation ({detail})", "不符合对话的格式（{detail}）"),
        "import_cause_long": ("it is too long ({detail})", "过长（{detail}）"),
        "import_cause_empty": ("nobody says anything in it", "其中没有任何发言"),
        "import_cause_circle": ("its messages go round in a circle", "其消息构成循环"),
        "import_cause_database": ("the database has a fault there ({detail})", "数据库在此处有错误（{detail}）"),
        "import_summary": (
            "{imported} imported, {grown} added to, {known} here already, {changed} changed, {skipped} left out; "
            "{messages} messages",
            "导入 {imported}，补充 {grown}，已存在 {known}，有变化 {changed}，未导入 {skipped}；共 {messages} 条消息",
        ),
        "import_trial": ("Nothing was stored: this was a trial.", "仅为试运行，未保存任何内容。"),
        "import_nothing": ("There is no conversation in {file}.", "{file} 中没有对话。"),
        "import_left": ("left out of them: {left}", "其中未导入：{left}"),
        "import_left_system": ("system and developer messages", "system 与 developer 消息"),
        "import_left_role": ("messages of unknown roles", "角色未知的消息"),
        "import_left_result": ("results without their call", "没有对应调用的结果"),
        "import_left_empty": ("messages without text", "没有文字的消息"),
        "import_left_hidden": ("hidden messages", "隐藏的消息"),
        "import_left_thinking": ("thoughts", "思考过程"),
        "import_left_branch": ("messages of other branches", "其他分支的消息"),
        "import_left_double": ("questions that were stored twice", "重复保存的问题"),
        "import_left_feedback": ("ratings of questions without an answer", "对没有回答的问题的评分"),
    }
)
