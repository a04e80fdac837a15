"""Makes tests/golden (shared with the reference scripts) and benchmarks importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "golden"), str(ROOT / "benchmarks")]
