"""What an agent can do: typed functions offered to the model. Nothing here knows of runs or logs."""
