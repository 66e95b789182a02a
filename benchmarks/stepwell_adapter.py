"""Stepwell in the peer benchmark: one agent per scripted model, in memory or durable."""

from common import PROMPT, SYSTEM, alookup

from stepwell import Agent, tool

lookup = tool(effect="pure")(alookup)


@tool(name="lookup")
async def write_lookup(key: str) -> str:
    """Look up the value of one item.

    Args:
        key: the name of the item
    """
    return await alookup(key)


WINDOW = 1_000_000
"""The scripted model takes any length; runs are not compacted."""


class Adapter:
    """Every turn is a fresh thread; step limits are off."""

    name, package = "stepwell", "stepwell"
    tools, window, summaries = (lookup,), WINDOW, True

    def __init__(self, base_url):
        self.base_url, self.agents = base_url, {}

    def make(self, model, path=None):
        return Agent(
            model,
            base_url=self.base_url,
            api_key="sk-bench",
            system=SYSTEM,
            tools=self.tools,
            path=path,
            max_steps=None,
            window=self.window,
            summaries=self.summaries,
        )

    def agent(self, model):
        agent = self.agents.get(model)
        if agent is None:
            agent = self.agents[model] = self.make(model)
        return agent

    async def turn(self, model, prompt=PROMPT):
        return (await self.agent(model).run(prompt)).text

    async def stream(self, model, prompt=PROMPT):
        async for event in self.agent(model).stream(prompt):
            if type(event).__name__ == "TextDelta":
                yield event.text

    async def persist(self, model, path, prompt=PROMPT):
        async with self.make(model, path) as agent:
            return (await agent.run(prompt)).text

    async def close(self):
        for agent in self.agents.values():
            await agent.close()


class Durable(Adapter):
    """All turns in one database file at `synchronous=FULL`."""

    name = "stepwell-durable"

    def make(self, model, path=None):
        import tempfile

        return super().make(model, path or tempfile.mkdtemp(prefix="stepwell-bench-") + "/stepwell.db")


class Write(Adapter):
    """The same with a tool that must not be repeated: its intent is durable before it runs."""

    name = "stepwell-write"
    tools = (write_lookup,)


class Compacting(Adapter):
    """The same with a small window, so that long runs are compacted."""

    name = "stepwell-compacting"
    window = 8192


class Unsummarised(Adapter):
    """The same without summaries."""

    name = "stepwell-unsummarised"
    summaries = False
