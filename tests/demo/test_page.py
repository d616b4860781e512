"""The demo page in a browser: headless Chromium with a fresh profile, at the widths of a desktop and of a phone."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.main import main
from fewstep.core.errors import UserError
from fewstep.demo.serve import check_port, serve

PAIR = ["digits-teacher", "digits-dmmd"]
NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "driver": ("chromedriver",)}
WIDTHS = {"desktop": (1280, 1000), "phone": (390, 844)}


def program(kind: str) -> str:
    """Path of a program; skips the test without it. `CHROMEDRIVER` may name the driver."""
    path = os.environ.get("CHROMEDRIVER") if kind == "driver" else None
    path = path or next(filter(None, map(shutil.which, NAMES[kind])), None)
    if path is None:
        pytest.skip(f"no {NAMES[kind][0]} here: apt-get install chromium chromium-driver")
    return path


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.demo.serve.gradio_package", lambda: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["demo", "--port", str(port)])
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert re.fullmatch(
            rf"error: --port: 127\.0\.0\.1:{port} is in use; take another, such as --port \d+\n", message
        )
    check_port("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host, --port: cannot listen at 192\.0\.2\.1:7860 "):
        check_port("192.0.2.1", 7860)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"needs the package gradio: pip install 'fewstep\[demo\]'"):
        serve(PAIR)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of `fewstep demo` in a process of its own; skips where the page cannot be opened."""
    for package, extra in (("gradio", "'fewstep[demo]'"), ("selenium", "selenium")):
        if find_spec(package) is None:
            pytest.skip(f"no {package} here: pip install {extra}")
    program("chromium")
    program("driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fewstep", "demo", *PAIR, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"demo: http://127.0.0.1:{port}   (Ctrl-C ends it)\n"
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(program("driver")))
    try:
        yield driver
    finally:
        driver.quit()


def resize(browser: Any, size: tuple[int, int]) -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait_for(browser: Any, script: str, seconds: float = 60) -> Any:
    """What a script returns once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := browser.execute_script(f"return {script}"):
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {script}\n{browser.find_element('tag name', 'body').text}")


COSTS = "[...document.querySelectorAll('.fewstep-cost')].map(e => e.textContent).filter(t => t)"
PICTURES = "[...document.querySelectorAll('.fewstep-picture')].filter(e => e.naturalWidth > 0).map(e => e.src)"


@pytest.mark.medium
@pytest.mark.parametrize("width", WIDTHS)
def test_models_draw_side_by_side(address: str, browser: Any, width: str) -> None:
    resize(browser, WIDTHS[width])
    browser.get(address)
    first = wait_for(browser, f"({PICTURES}).length === 4 && ({PICTURES})")  # samples and animation of two models
    costs = wait_for(browser, f"({COSTS}).length === 2 && ({COSTS})")
    assert [cost.split(" evaluations")[0] for cost in costs] == ["16", "8"]
    assert all(re.search(r", \d+\.\d\d s for 16 ", cost) for cost in costs)
    columns = browser.execute_script(
        "return [...document.querySelectorAll('.fewstep-picture')].map(e => e.getBoundingClientRect().left)"
    )
    assert (max(columns) - min(columns) > 200) == (width == "desktop")  # beside each other, or one below the other
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    sources = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert {re.sub(r"^(\w+://[^/]*/|data:|blob:).*", r"\1", source) for source in sources} <= {f"{address}/", "data:"}
    if folder := os.environ.get("FEWSTEP_SCREENSHOTS"):
        save_whole_page(browser, Path(folder) / f"{width}.png")
    seed = browser.find_element("css selector", "input[type=number][aria-label='seed'], input[aria-label='seed']")
    seed.clear()
    seed.send_keys("1")
    browser.find_element("id", "draw").click()
    second = wait_for(browser, f"(p => p.length === 4 && p.every(s => !{first!r}.includes(s)) && p)({PICTURES})")
    assert len(set(second)) == 4


def save_whole_page(browser: Any, file: Path) -> None:
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(picture["data"]))
