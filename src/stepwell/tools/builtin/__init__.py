"""The tools that come with Stepwell, one module a tool or family. Wiring builds them from the settings."""
