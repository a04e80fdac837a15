"""The page in headless Chromium: drop, file dialog, keyboard, narrow screens, no scripts."""

import shutil
import time

import pytest
from browser import browser
from form import cell, encoded

ARTICLES = "return document.querySelectorAll('article').length"
ENTER, TAB = "\ue007", "\ue004"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromedriver") is None, reason="chromedriver is not installed"
    ),
]


@pytest.fixture(scope="module")
def window():
    with browser() as session:
        yield session


@pytest.fixture
def files(tmp_path):
    for number in range(3):
        (tmp_path / f"cell{number}.png").write_bytes(encoded(cell(number)))
    (tmp_path / "<b>broken.png").write_bytes(b"no image")
    return sorted(tmp_path.iterdir())


def test_chosen_images_are_classified_and_the_page_fits(window, client, files):
    window.size(1100, 900)
    window.open(f"http://localhost:{client.port}/")
    window.choose(files)
    window.wait(f"{ARTICLES} === 4")
    names = window.run("return [...document.querySelectorAll('article h3')].map(x => x.innerText)")
    assert names == [file.name for file in files]
    assert window.run("return document.querySelectorAll('article.bad').length") == 1
    status = "return document.getElementById('status').innerText"
    assert window.run(status) == "Processed 4 images. 1 cannot be used."
    loaded = "return [...document.images].every(x => x.complete && x.naturalWidth === 24)"
    assert window.wait(loaded)
    window.choose(files[1:2])  # above the earlier ones
    window.wait(f"{ARTICLES} === 5")
    assert window.run("return document.querySelector('article h3').innerText") == files[1].name
    for width in (1100, 400, 320):
        window.size(width, 800)
        assert window.run("return document.documentElement.scrollWidth") <= width
    assert window.log() == []  # the page's own policy blocked nothing


def test_images_may_be_dropped_beside_the_drop_zone(window, client):
    window.open(f"http://localhost:{client.port}/")
    window.run(
        """
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 32;
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "dropped.png"));
          const options = { dataTransfer: data, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", options));
        });
        """
    )
    window.wait(f"{ARTICLES} === 1")
    assert window.run("return document.querySelector('article h3').innerText") == "dropped.png"
    assert window.run("return location.pathname") == "/"


def test_too_many_files_are_reported_before_they_are_sent(window, client, files, tmp_path):
    window.open(f"http://localhost:{client.port}/")
    many = []
    for number in range(7):
        many.append(tmp_path / f"{number}.png")
        many[-1].write_bytes(b"x")
    window.choose(many)
    window.wait(
        "return document.getElementById('status').innerText.startsWith('Not sent: 7 files')"
    )
    assert window.run(ARTICLES) == 0


def test_the_keyboard_reaches_the_images_and_the_card(window, client):
    window.open(f"http://localhost:{client.port}/")
    focus = "return document.activeElement.id || document.activeElement.className"
    reached = []
    for _ in range(4):
        window.press(TAB)
        reached.append(window.run(f"{focus} || document.activeElement.tagName"))
    assert reached[:3] == ["skip", "images", "SUMMARY"]
    window.run("document.querySelector('summary').focus()")
    window.press(ENTER)
    assert window.run("return document.querySelector('details').open")


def test_it_works_without_scripts(window, client, files):
    window.ask("POST", "/goog/cdp/execute", cmd="Emulation.setScriptExecutionDisabled",
               params={"value": True})  # fmt: skip
    try:
        window.open(f"http://localhost:{client.port}/")
        window.choose(files)
        element = window.find("button")
        window.ask("POST", f"/element/{element}/click")
        until = time.monotonic() + 60  # a click does not wait for the next page
        while (page := window.ask("GET", "/source")).count("<article") != 4:
            assert time.monotonic() < until, page
            time.sleep(0.2)
        assert "&lt;b&gt;broken.png" in page
    finally:
        window.ask("POST", "/goog/cdp/execute", cmd="Emulation.setScriptExecutionDisabled",
                   params={"value": False})  # fmt: skip
