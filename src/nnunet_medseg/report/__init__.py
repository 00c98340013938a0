"""Facts of a run made into what people read."""
