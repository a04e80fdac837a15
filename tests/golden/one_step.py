"""Writes one_step.json: metrics of the second step of each model. Run it where a change is meant.

python tests/golden/one_step.py
"""

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

from test_step import GOLDEN, Trainer  # noqa: E402

golden = {}
for name in ("cnn", "resnet", "hybrid_vit"):
    _, metrics, probabilities = Trainer(name, 1).run(steps=2)
    golden[name] = {key: float(value) for key, value in metrics.items()}
    golden[name]["probability"] = float(probabilities[0, 1])
GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
print(GOLDEN.read_text())
