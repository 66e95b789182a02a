// A chat over AG-UI with the protocol's own client: a tool of the front end, an approval, an answer.
// Usage: node chat.mjs URL [KEY]. Writes what came as one JSON text.
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const [url, key] = process.argv.slice(2);
const agent = new HttpAgent({ url, headers: key ? { Authorization: `Bearer ${key}` } : {}, threadId: "npm" });
const tools = [
  {
    name: "look",
    description: "Look at a part of the screen.",
    parameters: { type: "object", properties: { at: { type: "string" } } },
  },
];
const runs = [];

async function run(parameters = {}) {
  const events = [];
  const seen = { events };
  await agent.runAgent(
    { tools, ...parameters },
    {
      onEvent: ({ event }) => void events.push(event.type),
      onRunFinishedEvent: ({ outcome, pendingToolCallIds }) => {
        seen.outcome = outcome;
        seen.pending = pendingToolCallIds ?? [];
      },
      onRunErrorEvent: ({ event }) => void (seen.error = event),
    },
  );
  runs.push(seen);
  return seen;
}

agent.addMessage({ id: "u1", role: "user", content: "Look, and calculate 1+1." });
let seen = await run();
while (seen.outcome === "interrupt" || seen.pending?.length > 0) {
  if (seen.outcome === "interrupt") {
    const responses = agent.pendingInterrupts.map((each) => [
      each.id,
      { status: "resolved", payload: { approved: true } },
    ]);
    const interrupts = agent.pendingInterrupts;
    seen = await run({ resume: buildResumeArray(interrupts, Object.fromEntries(responses)) });
    continue;
  }
  for (const call of seen.pending) {
    agent.addMessage({ id: `t-${call}`, role: "tool", toolCallId: call, content: "a cat" });
  }
  seen = await run();
}
agent.addMessage({ id: "u2", role: "user", content: "Thanks." });
await run();
console.log(JSON.stringify({ runs, messages: agent.messages, state: agent.state }));
