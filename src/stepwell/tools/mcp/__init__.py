"""Tools of MCP servers: connections, calls, and what is remembered of what servers said. It reads no settings."""
