"""AG-UI, the protocol between agents and front ends: one more encoder over the log, under `/agui`."""
