"""Write sklift_values.json: random campaigns, and the curves that scikit-uplift draws of them.

Only this script needs scikit-uplift (`pip install scikit-uplift==0.5.1`); the tests compare with the file.
"""

import json
from pathlib import Path

import numpy as np
from sklift.metrics import qini_curve, uplift_curve


def draw_case(seed: int) -> dict:
    """A campaign with ties among the scores."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 80))
    treated = rng.random(n) < rng.uniform(0.3, 0.7)
    return {
        "outcome": (rng.random(n) < 0.4).astype(int).tolist(),
        "treated": treated.astype(int).tolist(),
        "score": np.round(rng.normal(size=n), int(rng.integers(0, 3))).tolist(),
    }


def curves(case: dict) -> dict:
    """The ends of the steps (shoppers) and the gains, of both curves."""
    arrays = np.array(case["outcome"]), np.array(case["score"]), np.array(case["treated"])
    found = {"qini": qini_curve(*arrays), "uplift": uplift_curve(*arrays)}
    return {name: [np.asarray(part, float).tolist() for part in pair] for name, pair in found.items()}


if __name__ == "__main__":
    cases = [draw_case(seed) for seed in range(20)]
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps([case | curves(case) for case in cases]) + "\n", encoding="utf-8")
