"""The faces of old Langchain-Chatchat clients, of 0.2 and 0.3; `docs/chatchat.md` lists every old route."""
