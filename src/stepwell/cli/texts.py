"""What the command line says to people, in English and Chinese, by name. What models and tools say is not here.

The lines of events are in `texts_events.py`; what is said of questions, plans and forks is in `texts_people.py`,
of imports in `texts_import.py`, of MCP servers in `texts_mcp.py`.
"""

from __future__ import annotations

from types import MappingProxyType

from stepwell.cli.texts_events import EVENTS
from stepwell.cli.texts_import import IMPORT
from stepwell.cli.texts_mcp import MCP
from stepwell.cli.texts_people import PEOPLE

TEXTS = MappingProxyType(
    {
        **EVENTS,
        **PEOPLE,
        **IMPORT,
        **MCP,
        # help
        "help": ("Agents whose every step is an event in a durable log.", "每一步都记入持久日志的智能体。"),
        "help_serve": ("Serve the data folder over HTTP.", "通过 HTTP 提供服务。"),
        "help_chat": (
            "Talk to an agent. Ctrl-C stops an answer, Ctrl-D leaves.",
            "与智能体对话。Ctrl-C 停止回答，Ctrl-D 退出。",
        ),
        "help_ask": ("Ask one question and print the answer.", "提一个问题并打印答案。"),
        "help_threads": ("List the threads, newest first.", "列出会话，最新的在前。"),
        "help_show": ("Show the events of a thread.", "显示一个会话的事件。"),
        "help_replay": (
            "Run a thread again from its log, without a model, and print the first difference.",
            "不用模型，按日志重演一个会话，并打印第一处差异。",
        ),
        "help_context": (
            "Show what the request of a step held, in tokens, and what it left out.",
            "显示某一步的请求包含什么、各占多少 token、省略了什么。",
        ),
        "help_pin": (
            "Keep a fact before the model in a thread, whatever else leaves its window.",
            "让一个事实在会话中始终对模型可见，无论窗口里的其他内容是否移出。",
        ),
        "help_doctor": (
            "Say what is configured, what works, what is missing and what mends it.",
            "说明配置了什么、什么可用、缺什么以及如何修复。",
        ),
        "help_keys": ("API keys of the server.", "服务器的 API 密钥。"),
        "help_keys_add": ("Make a key and show it, this once.", "生成一个密钥，只显示这一次。"),
        "help_keys_list": ("List the keys.", "列出密钥。"),
        "help_keys_revoke": ("Make a key invalid.", "吊销一个密钥。"),
        "help_version": ("Print the version.", "打印版本号。"),
        "help_data": ("The data folder; else STEPWELL_DATA or the settings file.", "数据目录；默认取 STEPWELL_DATA。"),
        "help_config": (
            "The settings file; else STEPWELL_CONFIG or ./stepwell.toml.",
            "设置文件；默认 ./stepwell.toml。",
        ),
        "help_host": ("Address to listen on.", "监听地址。"),
        "help_port": ("Port to listen on; 0 takes a free one.", "监听端口；0 表示任选空闲端口。"),
        "help_model": ("Name of a model in the settings.", "设置中模型的名称。"),
        "help_thread": ("Id of a thread, or the beginning of one.", "会话的 id，或其开头几位。"),
        "help_question": ("What to ask.", "要问的问题。"),
        "help_json": ("Print JSON.", "输出 JSON。"),
        "help_run": ("Number of a run; the newest without it.", "运行的编号；默认最新。"),
        "help_step": ("Number of a step of the run; the newest without it.", "运行中步骤的编号；默认最新。"),
        "help_fact": ("What to keep.", "要保留的内容。"),
        "help_pin_list": ("List what is kept.", "列出保留的内容。"),
        "help_pin_remove": ("Id of a fact to let go of, as --list shows it.", "要移除的内容的 id，见 --list。"),
        "help_owner": ("Whose threads.", "谁的会话。"),
        "help_limit": ("How many at most.", "最多多少个。"),
        "help_key_owner": ("Whom the key speaks for.", "密钥代表谁。"),
        "help_key_limit": (
            "What all runs with the key may use together: money=5, tokens=100000, steps, tool_calls or seconds. "
            "Can be given several times.",
            "该密钥的所有运行合计可以使用的上限：money=5、tokens=100000、steps、tool_calls、seconds。可以多次给出。",
        ),
        "help_key_id": ("The key's id, as `stepwell keys list` shows it.", "密钥的 id，见 `stepwell keys list`。"),
        # everywhere
        "error": ("error: {cause}", "错误：{cause}"),
        "no_data": ("There is nothing in {folder} yet.", "{folder} 中还没有数据。"),
        "no_thread": (
            "There is no thread {id}; `stepwell threads` lists them.",
            "没有会话 {id}；用 `stepwell threads` 查看。",
        ),
        "many_threads": (
            "{count} threads begin with {id}; write more of the id.",
            "有 {count} 个会话以 {id} 开头；请多写几位。",
        ),
        "in_use": (
            "Another process works on {folder}, but no server answers there. Close it (perhaps a `stepwell chat` in "
            "another terminal), or start `stepwell serve` and let both use it.",
            "另一个进程正在使用 {folder}，但没有服务器应答。请关闭它（也许是另一个终端里的 `stepwell chat`），"
            "或者运行 `stepwell serve` 供两者共用。",
        ),
        "other_settings": (
            "The server at {url} holds the data folder and answers with its own settings; those of {file} are not used "
            "for this run.",
            "位于 {url} 的服务器正在使用此数据目录，并按它自己的设置回答；本次运行不使用 {file} 中的设置。",
        ),
        "server_gone": (
            "The server at {url} does not answer any more ({cause}). The run goes on when it is back; see it with "
            "`stepwell show {id}`.",
            "位于 {url} 的服务器不再应答（{cause}）。服务器恢复后运行会继续；用 `stepwell show {id}` 查看。",
        ),
        "server_silent": ("The server at {url} does not answer: {cause}", "位于 {url} 的服务器没有应答：{cause}"),
        "server_odd": (
            "The server at {url} answered {status}: {cause}",
            "位于 {url} 的服务器返回 {status}：{cause}",
        ),
        "unfinished": (
            "The thread has an unfinished run; it goes on first.",
            "此会话有一个未完成的运行；先继续它。",
        ),
        "ended_other": ("The run ended without an answer.", "运行结束，没有得到答案。"),
        "retrying": (
            "The model failed, again in {seconds:.1f} s: {cause}",
            "模型出错，{seconds:.1f} 秒后重试：{cause}",
        ),
        "failed_attempt": ("The model failed: {cause}", "模型出错：{cause}"),
        "void": ("(the text above is void)", "（以上文字作废）"),
        # chat
        "welcome": (
            "Stepwell {version}, model {model}. Ctrl-C stops an answer, Ctrl-D leaves.",
            "Stepwell {version}，模型 {model}。Ctrl-C 停止回答，Ctrl-D 退出。",
        ),
        "hint": ("Ctrl-D leaves.", "按 Ctrl-D 退出。"),
        "stopping": ("Stopping; Ctrl-C again leaves at once.", "正在停止；再按一次 Ctrl-C 立即退出。"),
        "go_on": ("Go on with: {command}", "继续此会话：{command}"),
        # serve
        "serving": ("Stepwell serves {url}", "Stepwell 正在 {url} 提供服务"),
        "serving_key": (
            "API key: {key}\nIt is shown this once; `stepwell keys add` makes more.",
            "API 密钥：{key}\n密钥只显示这一次；用 `stepwell keys add` 可以再生成。",
        ),
        "serving_next": ("Try, in another terminal: {command}", "在另一个终端里试试：{command}"),
        "serving_stop": (
            "Ctrl-C stops it; unfinished runs go on at the next start.",
            "按 Ctrl-C 停止；未完成的运行会在下次启动时继续。",
        ),
        "serving_without": (
            "The model {name} cannot be used: {cause}. The others can; `stepwell doctor` says more.",
            "模型 {name} 无法使用：{cause}。其他模型可以使用；详情见 `stepwell doctor`。",
        ),
        # threads, keys
        "no_threads": ("There are no threads of {owner} yet.", "{owner} 还没有会话。"),
        "column_thread": ("thread", "会话"),
        "column_created": ("created", "创建时间"),
        "column_events": ("events", "事件"),
        "column_state": ("state", "状态"),
        "column_title": ("title", "标题"),
        "column_key": ("key", "密钥"),
        "column_limits": ("limits", "上限"),
        "column_owner": ("owner", "所有者"),
        "open": ("open", "未完成"),
        "good": ("good", "有效"),
        "revoked": ("revoked", "已吊销"),
        "key_made": (
            "The key of {owner}; it is shown this once:",
            "{owner} 的密钥，只显示这一次：",
        ),
        "key_owner_wrong": (
            "An owner is 1 to 100 printable characters.",
            "所有者须为 1 到 100 个可打印字符。",
        ),
        "limit_wrong": (
            "The limit {given!r} is not one of {known}, each as NAME=NUMBER with a number from 0 to 10^15.",
            "上限 {given!r} 无效；请写成 名称=数值，数值从 0 到 10^15，名称为 {known} 之一。",
        ),
        "no_keys": (
            "There are no keys yet; `stepwell keys add OWNER` makes one.",
            "还没有密钥；用 `stepwell keys add OWNER` 生成。",
        ),
        "no_key": (
            "There is no good key {id}; `stepwell keys list` shows them.",
            "没有有效的密钥 {id}；用 `stepwell keys list` 查看。",
        ),
        "key_revoked": ("Key {id} is revoked.", "密钥 {id} 已吊销。"),
        # contexts
        "context_step": (
            "step {step} of run {run} (event {seq}), model {model}, window {window:,} tokens",
            "运行 {run} 的第 {step} 步（事件 {seq}），模型 {model}，窗口 {window:,} token",
        ),
        "context_step_of": (
            "step {step} of agent {agent} in run {run} (event {seq}), model {model}, window {window:,} tokens",
            "运行 {run} 中智能体 {agent} 的第 {step} 步（事件 {seq}），模型 {model}，窗口 {window:,} token",
        ),
        "context_no_run": (
            "There is no such run in this thread; leave out --run for the newest.",
            "此会话中没有这个运行；省略 --run 则为最新的运行。",
        ),
        "context_no_agent": (
            "Run {run} has no agent {agent} that asked a model; give --agent one of: {agents}",
            "运行 {run} 中没有请求过模型的智能体 {agent}；--agent 可取：{agents}",
        ),
        "context_no_agents": (
            "Run {run} has no agent {agent} inside it; leave out --agent for the run's own.",
            "运行 {run} 中没有智能体 {agent}；省略 --agent 则为运行自身的智能体。",
        ),
        "context_no_step": (
            "There is no step {step} of this agent in run {run}; its newest is {newest}.",
            "运行 {run} 中该智能体没有第 {step} 步；最新的是第 {newest} 步。",
        ),
        "context_nothing": ("Run {run} has asked no model yet.", "运行 {run} 尚未请求过模型。"),
        "context_not_asked": (
            "The agent of run {run} itself has asked no model; give --agent one of: {agents}",
            "运行 {run} 自身的智能体没有请求过模型；--agent 可取：{agents}",
        ),
        "column_part": ("part", "部分"),
        "column_tokens": ("tokens", "token"),
        "column_share": ("of the window", "占窗口"),
        "part_system": ("system message", "系统消息"),
        "part_long_term": ("long-term context", "长期上下文"),
        "part_pins": ("pinned facts", "保留的事实"),
        "part_tools": ("tools", "工具"),
        "part_form": ("form of the reply", "回复的格式"),
        "part_digest": ("digest of what left", "已移出内容的摘录"),
        "part_user": ("user messages", "用户消息"),
        "part_replies": ("replies", "回复"),
        "part_calls": ("calls", "调用"),
        "part_results": ("results", "结果"),
        "part_images": ("images", "图片"),
        "part_tail": ("this request alone", "仅此请求"),
        "part_dialect": ("template with tools", "模板与工具"),
        "part_allowances": ("allowances for the chat template", "聊天模板的余量"),
        "part_free": ("free", "空闲"),
        "part_reserve": ("kept for the reply", "留给回复"),
        "context_exact": (
            "At most {tokens:,} of {room:,} tokens (texts counted as the model does); {reserve:,} kept for the reply.",
            "至多 {tokens:,} / {room:,} token（按模型的分词精确计数）；另留 {reserve:,} 给回复。",
        ),
        "context_bound": (
            "At most {tokens:,} of {room:,} tokens (an upper bound: bytes); {reserve:,} kept for the reply.",
            "至多 {tokens:,} / {room:,} token（上界：按字节计）；另留 {reserve:,} 给回复。",
        ),
        "context_counted": (
            "The provider counted {tokens:,} tokens, {cached:.0%} of them from its cache.",
            "提供方计数为 {tokens:,} token，其中 {cached:.0%} 来自缓存。",
        ),
        "context_proved": (
            "The request rebuilt here has the hash of the one that was sent.",
            "此处重建的请求与实际发送的请求哈希一致。",
        ),
        "context_unproved": (
            "The request rebuilt here is not quite the one that was sent: settings or tools have changed.",
            "此处重建的请求与实际发送的不完全一致：设置或工具已有变化。",
        ),
        "context_unknown_tools": ("Not counted, for they are not known any more: {names}", "已不存在而未计入：{names}"),
        "context_compaction": (
            "Compacted {times} times; the last (event {seq}, rung {rung}) made {after:,} tokens of {before:,}.",
            "已压缩 {times} 次；最近一次（事件 {seq}，第 {rung} 级）从 {before:,} 压到 {after:,} token。",
        ),
        "context_whole": ("Nothing was left out.", "没有省略任何内容。"),
        "context_summary": (
            "summary of {kind} ({first} to {last}): {tokens:,} tokens; it cost {input:,} in, {output:,} out",
            "{kind} 的摘要（{first} 至 {last}）：{tokens:,} token；花费输入 {input:,}、输出 {output:,}",
        ),
        "context_summarizing": ("a summary of {kind} was being made", "正在生成 {kind} 的摘要"),
        "context_learned": (
            "the endpoint of {model} taught a window of {window:,} tokens",
            "{model} 的端点表明窗口为 {window:,} token",
        ),
        "context_repaired": ("imported history: {fault}", "导入的历史：{fault}"),
        "left_messages": (
            "{gone} messages up to event {upto}, from {handle} on: over the window",
            "截至事件 {upto} 的 {gone} 条消息，自 {handle} 起：超出窗口",
        ),
        "left_text": (
            "the middle of {handle}, {kept} characters kept: over the window",
            "{handle} 的中间部分，保留 {kept} 个字符：超出窗口",
        ),
        "left_arguments": (
            "long arguments of {handle}, {kept} characters kept of each: over the window",
            "{handle} 的长参数，每个保留 {kept} 个字符：超出窗口",
        ),
        "left_images": ("the images of {handle}: over the window", "{handle} 的图片：超出窗口"),
        "left_unseen": (
            "{gone} images of {handle}: the model does not see",
            "{handle} 的 {gone} 张图片：模型看不到图片",
        ),
        "left_result": (
            "most of the {gone:,} bytes of {handle}, {kept} characters kept: a big result",
            "{handle} 共 {gone:,} 字节，仅保留 {kept} 个字符：结果过大",
        ),
        "pin_what": ("Give a text, --list, or --remove ID.", "请给出文本、--list 或 --remove ID 之一。"),
        "pinned": ("Pinned as {id}.", "已保留，id 为 {id}。"),
        "pin_removed": ("Pin {id} is removed.", "{id} 已移除。"),
        "no_pins": ("Nothing is pinned.", "没有保留任何内容。"),
        "column_pin": ("pin", "id"),
        "column_fact": ("fact", "内容"),
        # replay
        "same": (
            "No difference: {events} events, {runs} runs, {steps} requests.",
            "没有差异：{events} 个事件，{runs} 次运行，{steps} 个请求。",
        ),
        "differs_version": (
            "Event {seq}: {name} was {stored} when the run started; now it is {now}.",
            "事件 {seq}：运行开始时 {name} 为 {stored}，现在为 {now}。",
        ),
        "gone": ("gone", "（已不存在）"),
        "differs_request": ("Event {seq}: the request of step {name} differs.", "事件 {seq}：第 {name} 步的请求不同。"),
        "differs_event": ("Event {seq} differs.", "事件 {seq} 不同。"),
        "differs_model": (
            "Event {seq}: the model would be asked for another reply here.",
            "事件 {seq}：现在会在这里再次请求模型。",
        ),
        "differs_tool": (
            "Event {seq}: the tool {name} would run here.",
            "事件 {seq}：现在会在这里运行工具 {name}。",
        ),
        "stored": ("stored: {what}", "日志：{what}"),
        "now": ("now:    {what}", "现在：{what}"),
        "nothing": ("nothing", "（无）"),
        "proved": (
            "The request of event {proved} was the same: what differs was recorded after it, or is not in the log.",
            "事件 {proved} 的请求相同：差异出自其后的记录，或不在日志之中。",
        ),
        "unproved": (
            "It is the first request: the system message, the question, a tool or the template differs.",
            "这是第一个请求：系统消息、问题、工具或模板有变化。",
        ),
        # doctor
        "doctor_good": ("Everything that is configured works.", "所有已配置的部分都可用。"),
        "doctor_bad": ("Does not work: {count}.", "不可用的有 {count} 项。"),
        "doctor_settings": ("settings", "设置"),
        "doctor_no_file": (
            "no file (./stepwell.toml is not there); defaults",
            "没有设置文件（./stepwell.toml），使用默认值",
        ),
        "doctor_settings_remedy": (
            "Mend it there and run `stepwell doctor` again; nothing else could be checked.",
            "请按提示修改后再运行 `stepwell doctor`；其余项目无法检查。",
        ),
        "doctor_variable": ("variable that names no setting", "不对应任何设置的变量"),
        "doctor_variable_remedy": (
            "unset {name}, or correct it: settings are listed in docs/settings.md",
            "unset {name}，或者更正其名称：设置见 docs/settings.md",
        ),
        "doctor_folder": ("data folder", "数据目录"),
        "doctor_folder_new": ("{folder} is not there yet and will be made", "{folder} 尚不存在，使用时会创建"),
        "doctor_unwritable": ("nothing can be made in {folder}", "无法在 {folder} 中创建目录"),
        "doctor_folder_open": ("{folder} can be read by others (mode {mode})", "{folder} 可被他人读取（权限 {mode}）"),
        "doctor_folder_remedy": ("name another: export STEPWELL_DATA=FOLDER", "换一个目录：export STEPWELL_DATA=目录"),
        "doctor_database": ("database", "数据库"),
        "doctor_database_facts": (
            "whole; {size} kB, {threads} threads, {unfinished} unfinished runs",
            "完好；{size} kB，{threads} 个会话，{unfinished} 个未完成的运行",
        ),
        "doctor_unfinished": ("`stepwell serve` goes on with unfinished runs", "`stepwell serve` 会继续未完成的运行"),
        "doctor_database_remedy": (
            "put a backup in its place, or move {file} away to start anew",
            "用备份替换它，或移走 {file} 重新开始",
        ),
        "doctor_server": ("server", "服务器"),
        "doctor_no_server": ("none runs on this data folder", "此数据目录上没有服务器在运行"),
        "doctor_held": (
            "another process works on the data folder, but no server answers",
            "另一个进程正在使用数据目录，但没有服务器应答",
        ),
        "doctor_held_remedy": ("close it, perhaps a `stepwell chat` elsewhere", "关闭它，也许是别处的 `stepwell chat`"),
        "doctor_model": ("model {name}", "模型 {name}"),
        "doctor_default": (" (default)", "（默认）"),
        "doctor_embedded": (
            "embedded; it runs tools and is no language model",
            "内置；它只会调用工具，不是语言模型",
        ),
        "doctor_endpoint_remedy": (
            "start the endpoint, or correct models.{name}.base_url",
            "启动该端点，或更正 models.{name}.base_url",
        ),
        "doctor_key_remedy": (
            "the endpoint refuses the key: correct api_key_env or the variable that it names",
            "端点拒绝了密钥：请更正 api_key_env 或它所指的变量",
        ),
        "doctor_model_unlisted": (
            "{place} answers, but does not list {model}",
            "{place} 有应答，但其列表中没有 {model}",
        ),
        "doctor_models_known": ("it lists: {names}", "它列出了：{names}"),
        "doctor_tools": ("tools", "工具"),
        "doctor_tool": ("tool {name}", "工具 {name}"),
        "doctor_off": ("not switched on", "未启用"),
        "doctor_switch_on": ("export {variable}", "export {variable}"),
        "doctor_no_sandbox": (
            "commands run with all the rights of the server's user",
            "命令以服务器用户的全部权限运行",
        ),
        "doctor_sandbox_on": (
            "export STEPWELL_TOOLS__SHELL__SANDBOX=bubblewrap",
            "export STEPWELL_TOOLS__SHELL__SANDBOX=bubblewrap",
        ),
    }
)


def text(name: str, language: str, /, **values: object) -> str:
    """Return a text by name in `zh` or else English, with its values filled in."""
    english, chinese = TEXTS[name]
    return (chinese if language == "zh" else english).format(**values)
