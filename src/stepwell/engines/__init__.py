"""Engines decide which step comes next from the log's fold; they hold no state and speak no wire protocol."""
