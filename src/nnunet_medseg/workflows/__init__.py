"""The order of things: what happens when."""
