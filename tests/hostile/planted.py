"""A module that a hostile file may name. Nobody may import it: it leaves a mark."""

import os
from pathlib import Path

Path(os.environ["HOSTILE_MARKER"]).touch()


class Network:
    """What plans may ask for."""


Reader = run = Network
