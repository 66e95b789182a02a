"""The benchmark's one tool, as a module that a server's settings can name."""

from common import alookup

from stepwell import tool

lookup = tool(effect="pure")(alookup)
