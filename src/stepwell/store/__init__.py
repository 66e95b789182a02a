"""Where logs live: the port and its adapters. Nothing here knows what an agent is."""
