"""What the command line says of questions, plans, waiting messages and forks, in English and Chinese, by name."""

from __future__ import annotations

from types import MappingProxyType

PEOPLE = MappingProxyType(
    {
        # help
        "help_run_task": (
            "Carry out a task and show its plan, what each part hands in and what became of it.",
            "执行一个任务，并显示计划、各子任务的提交和结论。",
        ),
        "help_task": ("What is to be done.", "要做的事。"),
        "help_plan": ("With a plan, which is the default.", "先制定计划（默认）。"),
        "help_interaction": (
            "With a front that talks with you while a plan works.",
            "由一个前台与你对话，同时按计划执行。",
        ),
        "help_engine": (
            "Who answers: chat, react (a task as one piece), plan, or interaction (a front that talks).",
            "由谁回答：chat、react（单个任务）、plan（计划）或 interaction（对话前台）。",
        ),
        "help_path": (
            "The agent of one task, as its lines show it, such as 1.2; without it the run's own.",
            "某个任务的智能体，编号如行首所示，例如 1.2；不给则为运行自身的智能体。",
        ),
        "help_react": ("As one piece, without a plan.", "不制定计划，作为单个任务执行。"),
        "help_follow": (
            "Stay until it is over; without a server that is always so.",
            "一直显示到结束；没有服务器时总是如此。",
        ),
        "help_inbox": ("List the open questions of all threads.", "列出所有会话中待答复的问题。"),
        "help_answer": (
            "Answer what a run asks; without a number, list what is asked.",
            "答复运行提出的问题；不给编号则列出问题。",
        ),
        "help_number": ("Number of the question, as the list shows it.", "问题的编号，见列表。"),
        "help_answer_text": (
            "The answer: text, the number of a choice, a JSON object for a form, or a word that the list names.",
            "答复：文字、选项编号、表单的 JSON 对象，或列表中给出的词。",
        ),
        "help_approve": ("Let a call run that a run asks for.", "批准运行请求的调用。"),
        "help_arguments": (
            "JSON text of the arguments that run in place of the model's.",
            "以此 JSON 文本代替模型给出的参数。",
        ),
        "help_always": (
            "From now on in this thread: `call` for the same arguments, `tool` for any.",
            "此会话中以后也批准：`call` 限同样的参数，`tool` 不限参数。",
        ),
        "help_deny": ("Refuse the call.", "拒绝该调用。"),
        "help_reason": ("Why; the model is told.", "理由；会告诉模型。"),
        "help_steer": (
            "Say something to a running agent; it meets that before its next step.",
            "对正在运行的智能体说一句话；它在下一步之前会看到。",
        ),
        "help_said": ("What is said.", "要说的话。"),
        "help_interrupt": ("Close what is under way first.", "先打断正在进行的步骤。"),
        "help_cancel": ("Stop the open run of a thread.", "停止会话中正在进行的运行。"),
        "help_pause": ("Have the open run halt before its next step.", "让运行在下一步之前暂停。"),
        "help_resume": ("Have a halted run go on.", "让暂停的运行继续。"),
        "help_queue": (
            "List, change, move or remove messages that wait for the end of a run, or set what becomes of new ones.",
            "列出、修改、移动或移除排队的消息，或设置新消息的处理方式。",
        ),
        "help_queue_action": (
            "`list`, `edit`, `move`, `remove` or `policy`.",
            "`list`、`edit`、`move`、`remove` 或 `policy`。",
        ),
        "help_queue_item": (
            "Number of the message; for `policy`: queue, steer, interrupt or reject.",
            "消息的编号；`policy` 时为 queue、steer、interrupt 或 reject。",
        ),
        "help_queue_value": (
            "For `edit` the new text; for `move` the number to put it before, 0 for the end.",
            "`edit` 时为新的文字；`move` 时为目标编号，0 表示末尾。",
        ),
        "help_fork": (
            "Begin a new thread with the events of another up to a number, perhaps with one changed, and go on there.",
            "以另一会话中到某编号为止的事件开始新会话，可修改其中一个，并从那里继续。",
        ),
        "help_at": ("Number of the last event that is kept.", "保留的最后一个事件的编号。"),
        "help_edit": ("What the message at that event says instead.", "该事件的消息改为的文字。"),
        "help_fork_arguments": (
            "JSON text of other arguments for a call of the reply at that event.",
            "该事件的回复中某个调用改用的参数（JSON 文本）。",
        ),
        "help_fork_call": ("Id of that call, where there are several.", "该调用的 id（有多个时）。"),
        "help_result": ("What the tool at that event returned instead.", "该事件的工具改为返回的内容。"),
        "help_regenerate": ("Have the newest answer written again, in a fork.", "在分叉中重新生成最新的回答。"),
        "help_diff": ("Show where two threads part.", "显示两个会话从哪里开始不同。"),
        # questions
        "asked_approval": ("May this call run?", "是否允许执行此调用？"),
        "asked_question": ("The agent asks:", "智能体提问："),
        "asked_outcome": (
            "This call was cut off, and nobody knows whether it happened. What now?",
            "此调用被中断，不知道是否已经生效。如何处理？",
        ),
        "asked_repetition": ("The agent goes in circles. May it go on?", "智能体在重复同样的步骤。是否继续？"),
        "asked_result": (
            "The program that began this run is to carry out this call. What came of it?",
            "此调用应由发起本次运行的程序执行。结果如何？",
        ),
        "asked_elicitation": ("A running tool asks:", "正在运行的工具提问："),
        "asked_confirm": ("Is that meant?", "确定吗？"),
        "asked_reason": ("because: {reason}", "原因：{reason}"),
        "asked_form": ("fields: {form}", "字段：{form}"),
        "asked_until": ("expires {time}", "截止 {time}"),
        "asked_more": (" … and {count:,} characters more", " …… 另有 {count:,} 个字符"),
        "keys_approval": (
            "y: run it; n [reason]: do not; e {{JSON}}: run it with these arguments; a: always this call; a tool: any",
            "y：执行；n [理由]：拒绝；e {{JSON}}：改用这些参数执行；a：同样的调用一律执行；a tool：该工具一律执行",
        ),
        "keys_question": (
            "answer with text, the number of a choice, or a JSON object for a form",
            "用文字、选项编号或表单的 JSON 对象答复",
        ),
        "keys_outcome": (
            "retry: run it again; done [result]: it happened; skip: leave it",
            "retry：重新执行；done [结果]：已经完成；skip：跳过",
        ),
        "keys_repetition": ("continue or stop", "continue（继续）或 stop（停止）"),
        "keys_result": (
            "done [result]: so it went; skip [why]: it did not",
            "done [结果]：已执行；skip [原因]：未执行",
        ),
        "keys_elicitation": (
            "answer with a JSON object for the form, or deny",
            "用表单的 JSON 对象答复，或输入 deny 拒绝",
        ),
        "keys_confirm": ("y or n", "y 或 n"),
        "no_questions": ("Nothing is asked.", "没有待答复的问题。"),
        "answer_with": ("decide with: {command}", "用此命令答复：{command}"),
        "resume_with": ("The run is halted; it goes on with: {command}", "运行已暂停；用此命令继续：{command}"),
        # open runs
        "nothing_said": ("The text is empty; say something.", "内容为空；请输入文字。"),
        "no_run": ("No run of this thread is open.", "此会话没有正在进行的运行。"),
        "did_steer": ("It was told.", "已告知。"),
        "did_pause": ("It halts before its next step.", "将在下一步之前暂停。"),
        "did_resume": ("It goes on.", "已继续。"),
        "did_cancel": ("It was asked to stop.", "已请求停止。"),
        "queued": ("Waiting for the end of the run, as number {item}.", "排队等待运行结束，编号 {item}。"),
        "steered": ("The agent meets it before its next step.", "智能体在下一步之前会看到。"),
        "commands": (
            "While a run goes on: a text follows the thread's policy; /steer TEXT, /interrupt TEXT, /queue [TEXT], "
            "/pause, /resume, /stop.",
            "运行期间：直接输入的文字按会话的策略处理；另有 /steer 文字、/interrupt 文字、/queue [文字]、"
            "/pause、/resume、/stop。",
        ),
        "queue_what": (
            "Give `list`, `edit ITEM TEXT`, `move ITEM BEFORE`, `remove ITEM`, or `policy` with queue, steer, "
            "interrupt or reject.",
            "请给出 `list`、`edit 编号 文字`、`move 编号 目标编号`、`remove 编号`，"
            "或 `policy` 加 queue、steer、interrupt、reject 之一。",
        ),
        "no_queue": ("No message waits.", "没有排队的消息。"),
        "column_item": ("item", "编号"),
        "column_message": ("message", "消息"),
        "plan_heading": ("Plan: {goal}", "计划：{goal}"),
        "plan_wanted": ("another plan is wanted: {text}", "要求修改计划：{text}"),
        "one_engine": (
            "--plan, --react and --interaction exclude each other",
            "--plan、--react 与 --interaction 不能同时使用",
        ),
        "thread": ("Thread {id}", "会话 {id}"),
        # forks
        "diff_same": ("Both threads are the same: {count} events.", "两个会话相同：共 {count} 个事件。"),
        "diff_common": ("{count} events are the same.", "有 {count} 个事件相同。"),
        "policy_queue": ("queue, they wait for its end", "queue，等待运行结束"),
        "policy_steer": ("steer, the agent meets them before its next step", "steer，在下一步之前交给智能体"),
        "policy_interrupt": ("interrupt, what is under way is closed first", "interrupt，先打断正在进行的步骤"),
        "policy_reject": ("reject, they are refused", "reject，一律拒绝"),
    }
)
