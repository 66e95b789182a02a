"""Models: the port (`base`), its adapters, and the facts about model families."""
