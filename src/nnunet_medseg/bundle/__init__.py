"""The model that is handed over."""
