"""The stages of a training: each reads named files of earlier stages and writes its own."""
