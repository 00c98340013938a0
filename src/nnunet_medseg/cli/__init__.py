"""The commands: parse, show, exit codes."""
