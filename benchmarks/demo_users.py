"""Simulates many users of a page of leukjax.demo and counts lost results.

python benchmarks/demo_users.py --url=http://127.0.0.1:8000/ --users=50 --seconds=120

Each user uploads one to three images, some of them broken, waits for the result, and uploads the
next. Every image is different, and its result must equal the one of the image alone: results of
another image count as wrong. Exit status: 0 all were correct, 1 some were lost, wrong or refused.
"""

import collections
import http.client
import io
import json
import threading
import time
from urllib.parse import urlsplit

import numpy as np
from absl import app, flags
from PIL import Image

FLAGS = flags.FLAGS
flags.DEFINE_string("url", "http://127.0.0.1:8000/", "of the page")
flags.DEFINE_integer("users", 50, "number of concurrent users", lower_bound=1)
flags.DEFINE_float("seconds", 120, "duration")
flags.DEFINE_integer("images", 40, "number of different images", lower_bound=2)

BROKEN = "broken"
_COUNTING = threading.Lock()


def main(_: list[str]) -> int:
    """Uploads each image alone, then all users at once."""
    images = {f"cell{number}.png": _image(number) for number in range(FLAGS.images)}
    known = {}
    for name, data in images.items():
        (row,) = _ask({name: data})
        known[name] = row["probabilities"]
    images |= {f"{BROKEN}{number}.png": b"no image" for number in range(FLAGS.images // 8)}
    counts: collections.Counter[str] = collections.Counter()
    waited: list[float] = []
    until = time.perf_counter() + FLAGS.seconds
    users = [
        threading.Thread(target=_use, args=(seed, images, known, until, counts, waited))
        for seed in range(FLAGS.users)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    middle, high, worst = 1000 * np.quantile(waited, [0.5, 0.95, 1])
    bad = counts["lost"] + counts["wrong"] + counts["refused"]
    print(
        f"{'passed' if not bad else 'FAILED'}: {FLAGS.users} users, {FLAGS.seconds:g} s: "
        f"{counts['requests']:,} uploads, {counts['images']:,} images; "
        f"lost {counts['lost']}, wrong {counts['wrong']}, refused {counts['refused']}; "
        f"wait: median {middle:.0f} ms, 95 % {high:.0f} ms, longest {worst:.0f} ms"
    )
    return 1 if bad else 0


def _use(seed, images, known, until, counts, waited) -> None:
    """Simulates one user."""
    random = np.random.default_rng(seed)
    names = sorted(images)
    while time.perf_counter() < until:
        chosen = random.choice(names, random.integers(1, 4), replace=False).tolist()
        began, outcome = time.perf_counter(), collections.Counter(requests=1, images=len(chosen))
        try:
            rows = _ask({name: images[name] for name in chosen})
            if rows is None:
                outcome["refused"] += len(chosen)
            elif [row["name"] for row in rows] != chosen:
                outcome["lost"] += len(chosen)
            else:
                outcome["wrong"] += sum(not _right(row, known) for row in rows)
        except (OSError, http.client.HTTPException, ValueError):
            outcome["lost"] += len(chosen)
        with _COUNTING:
            waited.append(time.perf_counter() - began)
            counts.update(outcome)
        time.sleep(random.uniform(0, 0.2))  # reads the result


def _right(row: dict, known: dict) -> bool:
    if row["name"].startswith(BROKEN):
        return bool(row["error"]) and not row["probabilities"]
    expected = known[row["name"]]
    return not row["error"] and all(
        abs(row["probabilities"][name] - value) < 1e-4 for name, value in expected.items()
    )


def _ask(files: dict[str, bytes]) -> list[dict] | None:
    """Uploads files; returns their rows, or None if the page refused them."""
    url = urlsplit(FLAGS.url)
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=120)
    try:
        kind, body = _form(files)
        path = url.path.rstrip("/") + "/answers.json"
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        content = json.loads(response.read())
        return content["answers"] if response.status == 200 else None
    finally:
        connection.close()


def _form(files: dict[str, bytes]) -> tuple[str, bytes]:
    """Returns content type and bytes of a form, as browsers send it."""
    boundary = "leukjax-users"
    parts = []
    for name, data in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"'
        parts.append(head.encode() + b"\r\nContent-Type: image/png\r\n\r\n" + data + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def _image(seed: int) -> bytes:
    """Returns a disc of random size and colours on black."""
    random = np.random.default_rng(seed)
    side = int(random.integers(60, 200))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.clip(random.normal(random.integers(60, 200, 3), 20, (side, side, 3)), 0, 255)
    image[np.hypot(x, y) > side * random.uniform(0.25, 0.48)] = 0
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    app.run(main)
