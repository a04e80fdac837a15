"""The test images of a published split, in leukjax and in a PyTorch data loader.

benchmarks/peers.sh                                      once: the environment with PyTorch
python benchmarks/published_split.py --root=bccd_cells --split_file=published.csv

--split_file is a CSV with the columns path,part, paths below --root (ROOT/<class>/…). PyTorch, in
its own environment, reads it with a Dataset of a few lines, as the code of papers does; leukjax by
split.protocol=given. Prints whether both test on the same images, with the same labels, and whether
they decode to the same pixels. Ends with 1 if images or labels differ.
"""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

Answer = dict[str, tuple[str, str]]  # path -> class, digest of the decoded pixels


def with_pytorch(root: str, split_file: str) -> Answer:
    """What a PyTorch data loader yields for the part "test"."""
    import numpy as np
    import torch
    from PIL import Image

    class TestImages(torch.utils.data.Dataset):
        def __init__(self) -> None:
            with open(split_file, newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                self.paths = [row["path"] for row in rows if row["part"] == "test"]

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
            path = self.paths[index]
            image = np.array(Image.open(Path(root) / path).convert("RGB"))
            return path, torch.from_numpy(image)

    loader = torch.utils.data.DataLoader(TestImages(), batch_size=None, shuffle=False)
    return {
        path: (path.split("/")[0], hashlib.sha256(image.numpy().tobytes()).hexdigest())
        for path, image in loader
    }


def with_leukjax(root: str, split_file: str) -> Answer:
    """What leukjax tests on."""
    import leukjax as lj

    data = lj.ImageFolder(root)
    test = lj.split_given(data, split_file).test
    entries = {entry.id: entry for entry in data.entries}
    rows = zip(test.manifest.id.tolist(), test.manifest.label.tolist(), strict=True)
    answer = {}
    for id, label in rows:
        pixels = data.image(entries[id])
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        answer[id] = (data.classes[label], digest)
    return answer


def main(_: list[str]) -> None:
    """Asks both, and compares."""
    python = harness.peers_python()
    if python is None:
        sys.exit("error: the peers' environment is missing; run benchmarks/peers.sh")
    ours = with_leukjax(FLAGS.root, FLAGS.split_file)
    command = [python, __file__, "--pytorch", FLAGS.root, FLAGS.split_file]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    theirs = {path: tuple(answer) for path, answer in json.loads(done.stdout).items()}
    same = {path: answer[0] for path, answer in ours.items()} == {
        path: answer[0] for path, answer in theirs.items()
    }
    equal = sum(ours[path] == theirs[path] for path in ours if path in theirs)
    print(f"test images: {len(ours)} in leukjax, {len(theirs)} in PyTorch")
    print(f"same images and labels: {'yes' if same else 'NO'}")
    print(f"same decoded pixels: {equal} of {len(ours)}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pytorch"]:
        print(json.dumps(with_pytorch(*sys.argv[2:])))
    else:
        from absl import app, flags

        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import harness

        FLAGS = flags.FLAGS
        flags.DEFINE_string("root", None, "folder of images, ROOT/<class>/…", required=True)
        flags.DEFINE_string("split_file", None, "CSV with the columns path,part", required=True)
        app.run(main)
