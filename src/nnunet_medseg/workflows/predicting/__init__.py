"""The parts of a prediction: what is remembered, written and shown."""
