"""Distances of surfaces: the box around the structures against the whole volume, in turn.

`python bench/metrics.py [--cases N] [--side VOXELS]` makes label maps with three structures of
usual size and measures each twice: as the program does, and with distance transforms of the whole
volume.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from nnunet_medseg.evaluation.surface import surface_by_label

RESULTS = Path(__file__).parent / "results" / "metrics.jsonl"
SPACING_MM = (2.0, 0.8, 0.8)
RADII = (0.2, 0.12, 0.05)  # of the side: an organ, a smaller one, a lesion


def make_maps(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a label map with three balls, and the same with each of them a little elsewhere."""
    rng = np.random.default_rng(seed)
    maps = np.zeros((2, side, side, side), np.uint8)
    grid = np.ogrid[:side, :side, :side]
    for label, radius in enumerate(RADII, start=1):
        centre = rng.uniform(0.25, 0.75, 3) * side
        for number in range(2):
            middle = centre + number * rng.uniform(-2, 2, 3)
            apart = sum((axis - at) ** 2 for axis, at in zip(grid, middle, strict=True))
            maps[number][apart < (radius * side) ** 2] = label
    return maps[0], maps[1]


def whole_volume(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Transform the whole volume, twice a label: the part that both ways cannot do without."""
    for label in range(1, len(RADII) + 1):
        for mask in (truth == label, prediction == label):
            distance_transform_edt(~mask, sampling=SPACING_MM)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    ours_s, whole_s = [], []
    for seed in range(options.cases):
        maps = make_maps(seed, options.side)
        for seconds, measure in (
            (ours_s, lambda maps=maps: surface_by_label(*maps, [1, 2, 3], SPACING_MM, 2.0)),
            (whole_s, lambda maps=maps: whole_volume(*maps)),
        ):
            started = time.perf_counter()
            measure()
            seconds.append(time.perf_counter() - started)
        print(f"case {seed + 1}: {ours_s[-1]:.2f} s, whole volume {whole_s[-1]:.2f} s", flush=True)
    ratio = sum(ours_s) / sum(whole_s)
    print(f"in all {sum(ours_s):.1f} s, whole volume {sum(whole_s):.1f} s: {ratio:.3f}")
    record = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cases": options.cases,
        "side": options.side,
        "ours_s": round(sum(ours_s), 2),
        "whole_volume_s": round(sum(whole_s), 2),
    }
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
