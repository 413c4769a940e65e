"""Write statsforecast_values.json: series, and what statsforecast and hierarchicalforecast say of each.

statsforecast wants an older scipy, so it cannot be installed beside this package. Run this in an environment
of its own (`pip install statsforecast hierarchicalforecast`); test_inventory.py compares with the file.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from hierarchicalforecast.methods import MinTrace
from statsforecast.models import ARIMA, TSB, AutoETS, CrostonClassic, CrostonSBA

HORIZON = 3


def draw_series(seed: int) -> np.ndarray:
    """Counts of 60 weeks: rare or frequent, with a level that wanders."""
    rng = np.random.default_rng(seed)
    level = np.exp(np.cumsum(rng.normal(0, 0.1, 60)) + rng.normal(0, 1))
    return rng.poisson(level).astype(float) * (rng.random(60) < rng.uniform(0.3, 1))


def draw_smooth(seed: int) -> np.ndarray:
    """Weekly totals of 100 weeks: AR(1) around a level, or the sum of it."""
    rng = np.random.default_rng(seed)
    y = np.zeros(100)
    for t in range(1, 100):
        y[t] = 0.6 * y[t - 1] + rng.normal(0, 10)
    return 200 + (np.cumsum(y) / 4 if seed % 2 else y)


def rare(seed: int) -> dict:
    """One series, and its forecasts by the methods for rare demand."""
    y = draw_series(seed)
    said = {
        "croston": CrostonClassic(),
        "sba": CrostonSBA(),
        "tsb": TSB(alpha_d=0.2, alpha_p=0.1),
    }
    values = {name: float(model.forecast(y, 1)["mean"][0]) for name, model in said.items()}
    return {"y": y.tolist(), **values}


def smooth(seed: int) -> dict:
    """One series, and its forecasts by ETS and by ARIMA of two orders."""
    y = draw_smooth(seed)
    orders = [(1, 0, 0), (2, 0, 0)]
    arima = {
        str(order): ARIMA(order=order, method="ML").forecast(y, HORIZON)["mean"].tolist() for order in orders
    }
    return {
        "y": y.tolist(),
        "arima": arima,
        "ets": AutoETS(model="ANN").forecast(y, HORIZON)["mean"].tolist(),
    }


def summed(seed: int) -> dict:
    """Forecasts of a total, two groups and five items, and how MinTrace makes them add up."""
    rng = np.random.default_rng(seed)
    items = np.eye(5)
    S = np.vstack([np.ones(5), [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], items])
    base = S @ rng.uniform(1, 9, (5, HORIZON)) + rng.normal(0, 1, (8, HORIZON))
    method = MinTrace(method="wls_struct")
    return {"base": base.tolist(), "reconciled": method.fit_predict(S=S, y_hat=base)["mean"].tolist()}


if __name__ == "__main__":
    packages = ("statsforecast", "hierarchicalforecast")
    found = {
        "versions": {name: version(name) for name in packages},
        "rare": [rare(seed) for seed in range(12)],
        "smooth": [smooth(seed) for seed in range(4)],
        "summed": [summed(seed) for seed in range(3)],
    }
    path = Path(__file__).with_name("statsforecast_values.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
