"""The face for clients of MCP: agents as tools, threads as resources."""
