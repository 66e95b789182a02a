"""Runs: who appends to logs, who drives engines, who follows. No wire protocol and no model is known here."""
