"""Who takes part in train_step.py and predict.py, and what their answers mean."""

import subprocess
import sys
from typing import Any

from harness import REPOSITORY, Contender, Results, peers_python

OURS = "leukjax"
PEERS = {
    "flax": ("contender_flax.py", {}),
    "timm": ("contender_torch.py", {}),
    "timm compiled": ("contender_torch.py", {"compiled": True}),
    "onnxruntime": ("contender_onnx.py", {}),
}
MODELS = ("cnn", "resnet50", "hybrid")


def field(spec: dict[str, Any], peers: list[str]) -> list[Contender]:
    """leukjax, and those of the peers whose environment is here (says which are not)."""
    found = [Contender(OURS, "contender_leukjax.py", spec)]
    python = peers_python()
    for name in peers:
        script, more = PEERS[name]
        if name == "flax":
            found.append(Contender(name, script, {**spec, **more}))
        elif python is None:
            print(f"left out: {name}; benchmarks/peers.sh makes its environment", file=sys.stderr)
        else:
            found.append(Contender(name, script, {**spec, **more}, python))
    return found


def add_speed(results: Results, batch: int) -> None:
    """Put ``images_per_second`` into every answer."""
    for answers in results.values():
        for answer in answers:
            answer["images_per_second"] = batch / answer["seconds"]


def add_share_of_peak(results: Results, passes: int) -> None:
    """Put ``peak_share`` into every answer: model FLOPs a second over what the device can do.

    FLOPs are those of the convolutions and matrix products of leukjax's model, for all contenders
    alike. A CPU's peak is what a large float32 matrix product of NumPy reaches on it.

    Args:
      passes: of the network's FLOPs an image: 1 forward, 3 with the backward pass.
    """
    if OURS not in results:
        return
    known = results[OURS][0]
    peak = known["peak_flops"] or matrix_product_flops()
    for answers in results.values():
        for answer in answers:
            rate = passes * known["flops_per_image"] * answer["images_per_second"]
            answer["peak_share"] = rate / peak
    for answer in results[OURS]:
        answer["peak_flops"] = peak


def matrix_product_flops(size: int = 2048) -> float:
    """FLOP/s of NumPy's float32 matrix product on all cores, the best of five, in its own process.

    In a process of its own, because BLAS keeps its threads.
    """
    code = (
        "import numpy as n, time\n"
        f"a = n.ones(({size}, {size}), n.float32)\n"
        "times = []\n"
        "for _ in range(6):\n"
        "    begun = time.perf_counter(); a @ a; times.append(time.perf_counter() - begun)\n"
        "print(min(times[1:]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return 2 * size**3 / float(said.stdout)
