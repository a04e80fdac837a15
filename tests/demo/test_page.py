"""The page as used by browsers and programs."""

import dataclasses
import io
import json
import socket
import threading
import zipfile

import numpy as np
import pytest
from form import cell, encoded, form
from PIL import Image

import leukjax
from leukjax.demo import model_info


def named(number: int) -> tuple[str, bytes]:
    return f"cell{number}.png", encoded(cell(number))


def test_probabilities_are_those_of_predict_and_the_range_that_of_the_views(client, trained_run):
    numbers = [1, 2, 3]
    rows = client.rows(*map(named, numbers))
    model = leukjax.load(trained_run)
    for row, number in zip(rows, numbers, strict=True):
        (prepared,) = model.prepare(cell(number))
        rotated = [np.rot90(prepared, quarter) for quarter in range(4)]
        views = model.predict(np.stack([*rotated, *(view[:, ::-1] for view in rotated)]))
        for column, name in enumerate(model.classes):
            assert row["probabilities"][name] == pytest.approx(views[0, column], abs=1e-5)
            assert row["low"][name] == pytest.approx(views[:, column].min(), abs=1e-5)
            assert row["high"][name] == pytest.approx(views[:, column].max(), abs=1e-5)
        assert row["predicted"] == model.classes[int(views[0].argmax())]
        assert row["unlikeness"] is None  # the run stores none


def test_bad_images_get_an_error_and_the_others_a_prediction(client):
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("cell.png", encoded(cell(1)))
    good = encoded(cell(4))
    rotated_exif = Image.Exif()
    rotated_exif[0x0112] = 6
    rows = client.rows(
        ("cut.png", good[: len(good) // 2]),
        ("cells.zip", zipped.getvalue()),
        ("print.jpg", encoded(cell(5), "JPEG", "CMYK")),
        ("phone.jpg", encoded(cell(5), "JPEG", exif=rotated_exif)),
        ("none.png", b""),
        ("large.png", encoded(np.zeros((201, 200, 3), np.uint8))),
    )
    cut, archive, cmyk, exif, empty, large = rows
    assert "cut.png: is damaged or cut off" in cut["error"]
    assert "is a zip file, which the page does not accept" in archive["error"]
    assert "has no bytes" in empty["error"]
    assert "200 x 201 pixels; at most 0.04 million are read" in large["error"]
    assert cmyk["conversions"] == ["CMYK"]
    assert exif["conversions"] == ["EXIF rotation"]
    for row in (cmyk, exif):
        assert not row["error"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_names_of_files_and_cards_are_escaped(client, trained_run, tmp_path):
    name = '<img src=x onerror=alert(1)>".png'
    for path in ("/", "/answers"):
        _, _, html = client.send((name, encoded(cell(1))), (name, b"bad"), path=path)
        assert "<img src=x" not in html
        assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    model = leukjax.load(trained_run).member
    card = tmp_path / "model_card.md"
    card.write_text("# A\n\n<script>bad()</script>\n\n[b](javascript:c)\n\n![d](http://e/f.png)\n\n"
                    "| g |\n|--:|\n| h |\n")  # fmt: skip
    html = model_info._html(card)
    assert "<script" not in html
    assert "<img" not in html
    assert "href" not in html
    assert "style=" not in html
    assert "<h3>A</h3>" in html
    assert '<td class="right">h</td>' in html
    assert model_info.model_info(dataclasses.replace(model, workdir=tmp_path)).html == html
    assert (
        model_info.model_info(model).html == ""
    )  # such a small run has none, and the page reports it
    assert "has no model_card.md" in client.request("GET", "/")[2]


def test_the_page_loads_nothing_from_other_servers(client):
    _, headers, html = client.request("GET", "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert "Not a medical device" in html
    assert "SYNTHETIC" in html
    assert "http" not in html.replace('http-equiv="', "")
    for path in ("/style.css", "/page.js"):
        status, _, text = client.request("GET", path)
        assert status == 200
        assert "http" not in text
        assert "url(" not in text


def test_uploads_beyond_the_limits_are_rejected(client, small):
    status, _, text = client.send(*(named(number) for number in range(7)))
    assert (status, "may have 6 images" in text) == (413, True)
    status, _, text = client.send(("a.png", bytes(small.max_bytes + 1)))
    assert (status, "may have 1 MiB" in text) == (413, True)
    status, _, text = client.send()
    assert (status, "no image was sent" in text) == (400, True)
    status, _, text = client.request("POST", "/answers.json", b"x", Content_Type="text/plain")
    assert (status, "no image was sent" in text) == (400, True)
    kind = "multipart/form-data; boundary=edge"
    status, _, text = client.request("POST", "/answers.json", b"--no\r\nno", Content_Type=kind)
    assert (status, "the upload is damaged" in text) == (400, True)
    status, _, html = client.send(path="/")
    assert (status, "Rejected:" in html) == (400, True)


def test_an_upload_without_its_size_is_rejected(client, small):
    kind, body = form([("a.png", bytes(small.max_bytes + 1))])
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        head = f"POST /answers.json HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        head += f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
        connection.sendall(head.encode() + body + b"\r\n0\r\n\r\n")
        response = connection.recv(1000)
    assert response.startswith(b"HTTP/1.1 413")


def test_a_full_queue_rejects_with_a_message(page, client, small):
    assert page.queue.reserve(small.max_waiting - 1)
    try:
        assert client.rows(named(1))
        status, headers, text = client.send(named(1), named(2))
        assert (status, headers["retry-after"]) == (503, "5")
        assert "none of yours was classified" in json.loads(text)["error"]
    finally:
        page.queue.release(small.max_waiting - 1)
    assert len(client.rows(named(1), named(2))) == 2


def test_other_web_pages_are_rejected(client):
    host = f"localhost:{client.port}"
    assert client.send(named(1), Host=host, Origin=f"http://{host}")[0] == 200
    assert client.send(named(1), Host=host, Origin="http://elsewhere.example")[0] == 403
    assert client.send(named(1), Host=host, Origin="null")[0] == 403
    assert client.request("GET", "/", Host="elsewhere.example")[0] == 403
    assert client.request("GET", "/", Host=f"[::1]:{client.port}")[0] == 200


def test_concurrent_users_get_their_own_results(client):
    expected = {number: client.rows(named(number))[0]["probabilities"] for number in range(6)}
    wrong: list[object] = []

    def use(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(4):
            numbers = random.integers(0, 6, 2).tolist()
            try:
                rows = client.rows(*map(named, numbers), ("bad.png", b"bad"))
            except Exception as error:
                wrong.append(error)
                return
            for row, number in zip(rows, numbers, strict=False):
                if row["probabilities"] != pytest.approx(expected[number], abs=1e-5):
                    wrong.append((row, number))

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong
