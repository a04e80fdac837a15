"""Contenders of train_step.py and predict.py, and how a model is measured."""

import subprocess
import sys
from typing import Any

from harness import REPOSITORY, Contender, Results, append, measure, peers_python, rows, spread
from harness import verdict as verdict_of

OURS = "leukjax"
PEERS = {
    "flax": ("plain_flax.py", {}),
    "timm": ("contender_torch.py", {}),
    "timm compiled": ("contender_torch.py", {"compiled": True}),
    "onnxruntime": ("contender_torch.py", {"task": "onnx"}),
}
MODELS = ("cnn", "resnet50", "hybrid", "vit_s16", "vit_b16")


def field(spec: dict[str, Any], peers: list[str]) -> list[Contender]:
    """Returns leukjax and the peers whose environment exists; prints the others."""
    contenders = [Contender(OURS, "contender_leukjax.py", spec)]
    for name in peers:
        script, more = PEERS[name]
        python = None if name == "flax" else peers_python()
        if name != "flax" and python is None:
            print(f"left out: {name}; benchmarks/peers.sh makes its environment", file=sys.stderr)
        else:
            contenders.append(Contender(name, script, {**spec, **more}, python))
    return contenders


def compare(task: str, spec: dict[str, Any], peers: list[str], rounds: int, seconds: float) -> None:
    """Measures one model, prints a verdict, appends the rows.

    Args:
      task: "train" or "predict".
      spec: model, precision, batch and image_size.
      peers: names of `PEERS`.
      rounds: of each contender.
      seconds: length of a round, about.
    """
    latency = task == "predict"
    options = {"task": task, "seconds": seconds, "wait_each": latency, **spec}
    results = measure(field(options, peers), rounds)
    for answers in results.values():
        for answer in answers:
            answer["images_per_second"] = spec["batch"] / answer["seconds"]
    add_share_of_peak(results, passes=1 if latency else 3)
    name = "predict" if latency else "train_step"
    append(name, rows(results, "images_per_second", OURS, spec))
    for contender, answers in results.items():
        speed = spread([answer["images_per_second"] for answer in answers])
        if latency:
            more = f"latency {spread([1000 * answer['seconds'] for answer in answers])} ms"
        else:
            memory = max(answer["peak_memory"] for answer in answers) / 2**30
            share = spread([answer.get("peak_share", float("nan")) for answer in answers]).median
            more = f"peak memory {memory:.2f} GiB, {share:.1%} of peak FLOP/s"
        print(f"  {contender:15} {speed} images/s, {more}")
    title = f"{spec['model']} {'inference' if latency else 'training'}, {spec['image_size']} px"
    title += f", batch {spec['batch']}, {spec['precision']}"
    print(verdict_of(title, "images_per_second", results, OURS), flush=True)


def add_share_of_peak(results: Results, passes: int) -> None:
    """Adds ``peak_share`` to every answer: model FLOP/s relative to the peak of the device.

    FLOPs are those of the convolutions and matrix products of leukjax's model, for all contenders.
    The peak of a CPU is the rate of a large float32 matrix product in NumPy.

    Args:
      results: with ``images_per_second``.
      passes: multiple of the network's FLOPs per image: 1 forward, 3 with the backward pass.
    """
    if OURS not in results:
        return
    first = results[OURS][0]
    peak = first["peak_flops"] or matrix_product_flops()
    for answers in results.values():
        for answer in answers:
            rate = passes * first["flops_per_image"] * answer["images_per_second"]
            answer["peak_share"] = rate / peak
    for answer in results[OURS]:
        answer["peak_flops"] = peak


def matrix_product_flops(size: int = 2048) -> float:
    """Returns the FLOP/s of NumPy's float32 matrix product on all cores, the best of five.

    In a process of its own, because BLAS keeps its threads.
    """
    code = (
        "import numpy as n, time\n"
        f"a = n.ones(({size}, {size}), n.float32)\n"
        "times = []\n"
        "for _ in range(6):\n"
        "    began = time.perf_counter(); a @ a; times.append(time.perf_counter() - began)\n"
        "print(min(times[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return 2 * size**3 / float(done.stdout)
