// Has the protocol's own client take in runs: a JSON list of lists of events on the standard input.
// It fails where one breaks a rule; whatever the client warns of goes to the standard error.
import { readFileSync } from "node:fs";
import { AbstractAgent } from "@ag-ui/client";
import { from } from "rxjs";

class Told extends AbstractAgent {
  constructor(events) {
    super({ threadId: "t" });
    this.events = events;
  }
  run() {
    return from(this.events);
  }
}

for (const events of JSON.parse(readFileSync(0))) {
  await new Told(events).runAgent();
}
