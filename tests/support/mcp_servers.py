"""MCP servers for tests, as programs: honest ones, and such as misbehave.

    python mcp_servers.py MODE [ARGUMENTS]

They need nothing but the standard library, so that they start at once; one over the SDK is in `mcp_sdk_server.py`. Each
mode is a function of that name below.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Object = dict[str, Any]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NONE: Object = {"type": "object", "properties": {}}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def command(mode: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a server."""
    return (sys.executable, "-S", "-E", "-P", __file__, mode, *arguments)


def write(message: Object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(said: str, **more: Any) -> Object:
    return {"content": [{"type": "text", "text": said}], **more}


class Plain:
    """A server over pipes that keeps to the protocol; others change what it does."""

    def __init__(self) -> None:
        self.tools: dict[str, tuple[str, Object, Callable[[Object], Object]]] = {
            "say": ("Says it.", TEXT, lambda arguments: text(arguments["text"])),
            "image": ("Shows a dot.", NONE, lambda _: {"content": [image()]}),
            "fails": ("Fails.", NONE, lambda _: text("It broke.", isError=True)),
            "structured": ("Counts.", NONE, lambda _: {"content": [], "structuredContent": {"count": 3}}),
            "linked": ("Names a file.", NONE, lambda _: {"content": [LINK, EMBEDDED]}),
            "environment": ("Its environment.", NONE, lambda _: text(json.dumps(dict(os.environ)))),
            "pid": ("Its process.", NONE, lambda _: text(str(os.getpid()))),
            "die": ("Ends.", NONE, lambda _: os._exit(3)),
            "raw": ("Answers whatever it is given.", TEXT, lambda arguments: json.loads(arguments["text"])),
        }

    def listed(self, cursor: str) -> Object:
        tools = [
            {"name": name, "description": said, "inputSchema": schema} for name, (said, schema, _) in self.tools.items()
        ]
        return {"tools": tools}

    def answer(self, method: str, params: Object) -> Object:
        match method:
            case "initialize":
                capabilities = {"tools": {"listChanged": True}}
                told = {"protocolVersion": params["protocolVersion"], "capabilities": capabilities}
                return {**told, "serverInfo": {"name": "plain", "version": "1"}}
            case "tools/list":
                return self.listed(params.get("cursor", ""))
            case "tools/call":
                return self.tools[params["name"]][2](params.get("arguments", {}))
            case _:
                return {}

    def got(self, message: Object) -> None:
        if "id" in message and "method" in message:
            write({"id": message["id"], "result": self.answer(message["method"], message.get("params") or {})})

    def serve(self) -> None:
        for line in sys.stdin:
            self.got(json.loads(line))


LINK = {"type": "resource_link", "uri": "file:///a.txt", "name": "a.txt", "mimeType": "text/plain"}
EMBEDDED = {"type": "resource", "resource": {"uri": "file:///b.txt", "text": "what is in b"}}


def image() -> Object:
    return {"type": "image", "data": base64.b64encode(PIXEL).decode(), "mimeType": "image/png"}


def plain() -> None:
    Plain().serve()


def counting(file: str) -> None:
    """Write a line to a file at each start and each call of `count`, and die in the calls whose number is given."""
    server = Plain()
    place = Path(file)

    def count(arguments: Object) -> Object:
        with place.open("a") as out:
            out.write("call\n")
        if place.read_text().count("call\n") <= int(arguments["deaths"]):
            os._exit(4)
        return text(f"call {place.read_text().count('call')}")

    with place.open("a") as out:
        out.write("start\n")
    schema = {"type": "object", "properties": {"deaths": {"type": "integer"}}, "required": ["deaths"]}
    for name in ("count", "count_again"):
        server.tools[name] = ("Counts.", schema, count)
    server.serve()


def described(file: str) -> None:
    """Have the tools that a file says, read again at each listing; `reload` says that they are others."""
    server = Plain()

    def listed(cursor: str) -> Object:
        tools = [{"inputSchema": NONE, **each} for each in json.loads(Path(file).read_text())]
        return {"tools": tools}

    def reload(_: Object) -> Object:
        write({"method": "notifications/tools/list_changed"})
        return text("told")

    server.listed = listed  # type: ignore[method-assign]
    server.tools["reload"] = ("", NONE, reload)
    server.serve()


def garbage() -> None:
    """Write to stdout what is no message, before and between the messages."""
    print("Welcome to the server!")
    print("\x1b[31m{not json\x00", flush=True)
    sys.stdout.buffer.write(b"\xff\xfe\n[1,2,3]\n{}\n\n")
    server = Plain()
    server.tools["say"] = ("", TEXT, lambda arguments: (print("debug: called"), text(arguments["text"]))[1])
    server.serve()


def refuses() -> None:
    """Answer calls with an error of the protocol."""

    class Refusing(Plain):
        def got(self, message: Object) -> None:
            if message.get("method") == "tools/call":
                write({"id": message["id"], "error": {"code": -32000, "message": "No such file."}})
            else:
                super().got(message)

    Refusing().serve()


def dies() -> None:
    """End at once."""
    sys.stderr.write("no configuration\n")
    sys.exit(7)


def silent() -> None:
    """Never answer, and never end by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def hangs(file: str = "") -> None:
    """Never answer a call of `hang`; write what is heard of it to a file."""

    class Hanging(Plain):
        def got(self, message: Object) -> None:
            if file and message.get("method") in ("tools/call", "notifications/cancelled"):
                with open(file, "a") as out:
                    out.write(json.dumps(message) + "\n")
            if (message.get("params") or {}).get("name") != "hang":
                super().got(message)

    server = Hanging()
    server.tools["hang"] = ("", NONE, lambda _: {})
    server.serve()


def huge(place: str = "first") -> None:
    """Answer `much` with as many MB as it is told, `values` with as many numbers, `endless` with a line without end.

    The id stands where `place` says: first, last, or nowhere that can be found.
    """

    def line(id: Any, result: Callable[[], None]) -> None:
        head, tail = {
            "first": (f'{{"jsonrpc":"2.0","id":{id},"result":', "}"),
            "last": ('{"result":', f',"id":{id},"jsonrpc":"2.0"}}'),
            "nowhere": ('{"result":', f',"id":{id},"jsonrpc":"2.0","more":{{"a":[1]}}}}'),
        }[place]
        sys.stdout.write(head)
        result()
        sys.stdout.write(tail + "\n")
        sys.stdout.flush()

    def much(count: int) -> None:
        sys.stdout.write('{"content":[{"type":"text","text":"')
        for _ in range(count):
            sys.stdout.write("x" * (1 << 20))
        sys.stdout.write('"}]}')

    def values(count: int) -> None:
        sys.stdout.write('{"content":[],"structuredContent":{"a":[' + "0," * (count - 1) + "0]}}")

    class Huge(Plain):
        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            match params.get("name"):
                case "much":
                    line(message["id"], lambda: much(int(params["arguments"]["text"])))
                case "values":
                    line(message["id"], lambda: values(int(params["arguments"]["text"])))
                case "endless":
                    line(message["id"], lambda: much(1 << 30))
                case _:
                    super().got(message)

    server = Huge()
    server.tools |= {name: ("", TEXT, lambda _: {}) for name in ("much", "values", "endless")}
    server.serve()


def resourceful(what: str = "") -> None:
    """Have resources in pages, and no tools; `own` has a tool by the name of ours, `broken` answers what is no list."""

    class Resourceful(Plain):
        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            unknown = {"error": {"code": -32601, "message": "What?"}}
            match message.get("method"):
                case "initialize":
                    able = {"resources": {}, "prompts": {}, **({"tools": {}} if what == "own" else {})}
                    told = {"protocolVersion": params["protocolVersion"], "capabilities": able}
                    info = {"serverInfo": {"name": "resourceful", "version": "1"}}
                    write({"id": message["id"], "result": {**told, **info}})
                case "tools/list" if what == "own":
                    tools = [{"name": "list_resources", "description": "Its own.", "inputSchema": NONE}]
                    write({"id": message["id"], "result": {"tools": tools}})
                case "resources/list" if what == "broken":
                    write({"id": message["id"], "result": {"resources": 5}})
                case "resources/list":
                    first = int(params.get("cursor", 0))
                    listed = [{"uri": f"n://{each}", "name": f"n\u202e{each}"} for each in range(first, first + 600)]
                    more = {"nextCursor": "600"} if not first else {}
                    write({"id": message["id"], "result": {"resources": listed, **more}})
                case "resources/read" if params["uri"] == "n://none":
                    write({"id": message["id"], "error": {"code": -32002, "message": "No such resource."}})
                case "resources/read":
                    kinds: dict[str, list[Object]] = {
                        "n://empty": [],
                        "n://data": [{"uri": "n://data", "blob": "AAECAw==", "mimeType": "application/zip"}],
                        "n://wrong": [{"uri": "n://wrong", "blob": "%%%", "mimeType": "image/png"}],
                        "n://two": [{"uri": "n://two/1", "text": "one"}, {"uri": "n://two/2", "text": "two"}],
                        "n://much": [{"uri": "n://much", "text": "x" * (40 << 20)}],
                    }
                    write({"id": message["id"], "result": {"contents": kinds[params["uri"]]}})
                case "tools/list" | "resources/templates/list" | "prompts/list":
                    write({"id": message["id"], **unknown})
                case _:
                    super().got(message)

    Resourceful().serve()


def freezes() -> None:
    """Answer nothing any more, not even a ping, after a call of `freeze`."""
    server = Plain()

    def freeze(_: Object) -> Object:
        while True:
            time.sleep(1)

    server.tools["freeze"] = ("", NONE, freeze)
    server.serve()


def floods() -> None:
    """Write notifications without end, and answer calls between them."""
    lock = threading.Lock()

    class Flooding(Plain):
        def got(self, message: Object) -> None:
            with lock:
                super().got(message)

    def flood() -> None:
        told = {"method": "notifications/message", "params": {"level": "info", "data": "x" * 100}}
        while True:
            with lock:
                write(told)

    threading.Thread(target=flood, daemon=True).start()
    Flooding().serve()


def many(count: str) -> None:
    """List very many tools, in pages without end."""
    server = Plain()
    each = int(count)

    def listed(cursor: str) -> Object:
        first = int(cursor or 0)
        tools = [{"name": f"tool{number}", "inputSchema": NONE} for number in range(first, first + each)]
        return {"tools": tools, "nextCursor": str(first + each)}

    server.listed = listed  # type: ignore[method-assign]
    server.serve()


def children(file: str) -> None:
    """Start processes that outlive it, in its group and outside of it, and write their numbers to a file."""
    sleeper = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        "import signal,time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)",
    ]
    made = [subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)]
    Path(file).write_text(" ".join(str(each.pid) for each in made) + f" {os.getpid()}")
    Plain().serve()


def talks() -> None:
    """Write much, and a secret, to stderr."""
    for number in range(200):
        sys.stderr.write(f"line {number} \x1b[31m of {os.environ.get('TOKEN', '')}\n")
    sys.stderr.flush()
    Plain().serve()


def asks() -> None:
    """Ask the person during a call, as servers over pipes do: without saying which call it is about."""
    waiting: dict[Any, Any] = {}

    class Asking(Plain):
        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            if message.get("method") == "tools/call" and params["name"] == "ask":
                number = f"q{message['id']}"
                waiting[number] = message["id"]
                schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
                asked = {"message": params["arguments"]["text"], "requestedSchema": schema}
                write({"id": number, "method": "elicitation/create", "params": asked})
            elif "method" not in message and message.get("id") in waiting:
                said = json.dumps(message.get("result") or message.get("error"))
                write({"id": waiting.pop(message["id"]), "result": text(said)})
            else:
                super().got(message)

    server = Asking()
    server.tools["ask"] = ("Asks.", TEXT, lambda _: {})
    server.serve()


def asks_else() -> None:
    """Ask for a model's reply and for roots during a call, and answer with what came."""
    answers: list[Object] = []

    class Asking(Plain):
        call: Any = None

        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            if message.get("method") == "tools/call" and params["name"] == "ask":
                self.call = message["id"]
                sample = {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5}
                write({"id": "s", "method": "sampling/createMessage", "params": sample})
                write({"id": "r", "method": "roots/list"})
            elif "method" not in message and message.get("id") in ("s", "r"):
                answers.append(message)
                if len(answers) == 2:
                    write({"id": self.call, "result": text(json.dumps(answers))})
            else:
                super().got(message)

    server = Asking()
    server.tools["ask"] = ("Asks.", NONE, lambda _: {})
    server.serve()


def progresses() -> None:
    """Tell how far a call is, a great many times."""

    class Telling(Plain):
        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            if message.get("method") == "tools/call" and params["name"] == "work":
                token = params["_meta"]["progressToken"]
                for done in range(500):
                    told = {"progressToken": token, "progress": done, "total": 500, "message": "at\x1b[31m work"}
                    write({"method": "notifications/progress", "params": told})
                write({"id": message["id"], "result": text("done")})
            else:
                super().got(message)

    server = Telling()
    server.tools["work"] = ("Works.", NONE, lambda _: {})
    server.serve()


def modern() -> None:
    """Know no handshake, as of 2026-07-28: tell what it is, ask by the outcome of a call, and tell who listens."""
    version = "2026-07-28"
    more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

    class Modern(Plain):
        listener: Any = None

        def listed(self, cursor: str) -> Object:
            names = [*self.tools, *(["late"] if self.listener is not None else [])]
            return {"tools": [{"name": name, "inputSchema": TEXT} for name in names], **more}

        def got(self, message: Object) -> None:
            params = message.get("params") or {}
            match message.get("method"):
                case "initialize":
                    data = {"supported": [version], "requested": params["protocolVersion"]}
                    write({"id": message["id"], "error": {"code": -32022, "message": "No handshake.", "data": data}})
                case "server/discover":
                    told = {"supportedVersions": [version], "capabilities": {"tools": {"listChanged": True}}, **more}
                    write({"id": message["id"], "result": told})
                case "subscriptions/listen":
                    self.listener = message["id"]
                    meta = {"io.modelcontextprotocol/subscriptionId": self.listener}
                    told = {"notifications": {"toolsListChanged": True}, "_meta": meta}
                    write({"method": "notifications/subscriptions/acknowledged", "params": told})
                    write({"method": "notifications/tools/list_changed", "params": {"_meta": meta}})
                case "tools/call" if params["name"] == "ask" and "inputResponses" not in params:
                    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
                    form = {"mode": "form", "message": params["arguments"]["text"], "requestedSchema": schema}
                    asked = {"q": {"method": "elicitation/create", "params": form}}
                    told = {"resultType": "input_required", "inputRequests": asked, "requestState": "kept"}
                    write({"id": message["id"], "result": told})
                case "tools/call" if params["name"] == "ask":
                    said = json.dumps([params["inputResponses"]["q"], params["requestState"]])
                    write({"id": message["id"], "result": {**text(said), "resultType": "complete"}})
                case "tools/call" if params["name"] == "samples":
                    sample = {"messages": [], "maxTokens": 5}
                    asked = {"q": {"method": "sampling/createMessage", "params": sample}}
                    write({"id": message["id"], "result": {"resultType": "input_required", "inputRequests": asked}})
                case "tools/call" if params["name"] == "forever":
                    told = {"resultType": "input_required", "requestState": "again"}
                    write({"id": message["id"], "result": told})
                case _:
                    super().got(message)

    server = Modern()
    server.tools = {name: ("", TEXT, lambda _: text("")) for name in ("ask", "samples", "forever")}
    server.serve()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
