"""The clock, the learning rate and the length of epochs: pure arithmetic."""
