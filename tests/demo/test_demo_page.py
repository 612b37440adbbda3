"""`minidiff demo` as a process: where it listens, what it leaves, and the page itself in a browser without a window."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fits import fit_config, smooth

from minidiff import cli
from minidiff.demo.serve import FIRST_PORT, free_port, is_open
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.files import write_image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


# --- without a server -------------------------------------------------------------------------------------------------


def test_without_gradio_a_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.run(["demo", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'minidiff[demo]'" in said


@pytest.mark.parametrize(
    ("host", "open_"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True), ("10.0.0.7", True)],
)
def test_a_page_that_others_can_reach_is_warned_of(
    host: str, open_: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minidiff.demo.serve.serve_demo", lambda *given, **named: None)
    assert is_open(host) == open_
    assert cli.run(["demo", "--host", host, "--device", "cpu"]) == 0
    assert ("everybody" in capsys.readouterr().err) == open_


def test_a_port_that_is_taken_is_refused_and_the_next_one_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert FIRST_PORT <= free_port("127.0.0.1", None) < FIRST_PORT + 100
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*another `port`"):
            free_port("127.0.0.1", port)
        assert cli.run(["demo", "--port", str(port), "--device", "cpu"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="no address"):
        free_port("no such host", None)


# --- a server ---------------------------------------------------------------------------------------------------------


@contextmanager
def served(home: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `minidiff demo` in a folder, with its own folder for temporary files; give the page's address."""
    pytest.importorskip("gradio")
    (home / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "minidiff", "demo", "--device", "cpu", *options], cwd=home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        said = ""
        while (found := re.search(r"page +(http://\S+)", said)) is None:
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line, said
            said += line
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def answers(address: str, port: int) -> bool:
    """Tell whether somebody listens."""
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux alone")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_listens_on_this_machine_alone_and_leaves_nothing(ending: signal.Signals, tmp_path: Path) -> None:
    """An upload lies in the temporary folder while the page runs, and only its user may look into it.

    Fails when it listens on 0.0.0.0, which answers at 127.0.0.2, too; and when the folder of Gradio is the common one.
    """
    with served(tmp_path) as (address, process):
        port = int(address.rstrip("/").rpartition(":")[2])
        assert answers("127.0.0.1", port) and not answers("127.0.0.2", port)
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="secret.png"\r\n\r\nabc\r\n--x--\r\n'
        request = urllib.request.Request(
            f"{address}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert reply.status == 200
        assert list((tmp_path / "tmp").rglob("secret.png"))
        (home,) = (tmp_path / "tmp").iterdir()
        assert home.stat().st_mode & 0o077 == 0
        process.send_signal(ending)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == (0 if ending == signal.SIGINT else 143) and "Traceback" not in said, said
    assert not list((tmp_path / "tmp").iterdir())


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(trained: Path, finisher: Path, dehazers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, a noisy picture, a broken one, and a fit that has kept two steps."""
    home = tmp_path_factory.mktemp("desk")
    (home / "runs").mkdir()
    for name, place in (("ddpm-waves-1", trained), ("finisher", finisher), ("dehaze-1", dehazers / "second")):
        (home / "runs" / name).symlink_to(place)
    noise = 25 * np.random.default_rng(0).standard_normal((96, 128, 3))
    write_image(home / "noisy.png", (smooth(96, 128) + noise).clip(0, 255).astype(np.uint8))
    (home / "bad.png").write_bytes(b"no picture")
    for step in (10, 40):
        write_image(home / "runs/dip-photo-1/steps" / f"{step:06d}.png", smooth(16, 16) // (50 // step))
    write_json(home / "runs/dip-photo-1/config.json", fit_config())
    return home


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_in_a_browser(desk: Path) -> None:
    """Draw, restore, dehaze, start; errors are lines; nothing is asked of other machines; no script fails.

    With MINIDIFF_SCREENSHOTS set to a folder, each tab is photographed there: wide and narrow, light and dark.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    pictures = os.environ.get("MINIDIFF_SCREENSHOTS")
    with served(desk) as (address, _), sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            if pictures is None and (width, scheme) != (1280, "light"):
                continue
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(120_000)
            asked: list[str] = []
            failed: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("pageerror", lambda error, failed=failed: failed.append(str(error)))
            page.goto(address)

            def photograph(name: str, page: Any = page, width: int = width, scheme: str = scheme) -> None:
                if pictures is not None:
                    page.wait_for_timeout(1000)
                    page.screenshot(path=f"{pictures}/{name}-{width}-{scheme}.png", full_page=True)

            for act in (draws, restores, dehazes, starts):
                tab = open_tab(page, act)
                act(page, tab, desk)
                photograph(act.__name__)
            outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
            assert not outside and not failed
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
            context.close()
        browser.close()


TABS = {"draws": "Draw", "restores": "Restore", "dehazes": "Dehaze", "starts": "Start anywhere"}


def open_tab(page: Any, act: Any) -> Any:
    """Open the tab of an act; give the panel."""
    page.get_by_role("tab", name=TABS[act.__name__], exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def choose(page: Any, tab: Any, label: str, value: str) -> None:
    """Choose a value of a list."""
    tab.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=value, exact=True).click()


def said(tab: Any, text: str) -> None:
    """Wait until the page says this."""
    tab.locator(".said").filter(has_text=re.compile(text)).first.wait_for()


def draws(page: Any, tab: Any, desk: Path) -> None:
    choose(page, tab, "Model", "runs/ddpm-waves-1")
    tab.get_by_role("button", name="Draw", exact=True).click()
    said(tab, "sampling +16 images")
    assert tab.locator("img").count() >= 2


def restores(page: Any, tab: Any, desk: Path) -> None:
    tab.get_by_role("button", name="Restore", exact=True).click()
    said(tab, "Error: there is no picture yet")
    tab.locator("input[type=file]").set_input_files(desk / "bad.png")
    said(tab, "Error: bad.png is not a readable image")
    tab.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_timeout(500)
    said(tab, "Error: bad.png is not a readable image")
    tab.get_by_label("Remove this file").or_(tab.get_by_label("Clear")).first.click()
    tab.locator("input[type=file]").set_input_files(desk / "noisy.png")
    choose(page, tab, "Model", "runs/finisher")
    tab.get_by_role("button", name="Restore", exact=True).click()
    said(tab, r"noisy.png: noise \d+\.\d of 255, from t = \d+, 1 call")
    with page.expect_download() as download:
        tab.get_by_role("button", name="Save the answer").click()
    assert download.value.suggested_filename == "noisy-restored.png"


def dehazes(page: Any, tab: Any, desk: Path) -> None:
    tab.locator("input[type=file]").set_input_files(desk / "noisy.png")
    choose(page, tab, "Model", "runs/dehaze-1")
    tab.get_by_role("button", name="Dehaze", exact=True).click()
    said(tab, r"noisy.png: \d+% of the light comes through")


def starts(page: Any, tab: Any, desk: Path) -> None:
    tab.locator("input[type=file]").set_input_files(desk / "noisy.png")
    choose(page, tab, "Model", "runs/ddpm-waves-1")
    slide(page, tab, "Start at timestep", 12, 49)
    said(tab, "t = 12")
    slide(page, tab, "Start at timestep", 30, 49)
    said(tab, "t = 30")
    choose(page, tab, "Start from", "runs/dip-photo-1")
    slide(page, tab, "Step of the prior", 12, 40)
    said(tab, "step +10 of the prior")


def slide(page: Any, tab: Any, label: str, value: int, largest: int) -> None:
    """Move a slider, as a hand does: first the place, then the release. Wait until it has its largest value."""
    handle = tab.get_by_label(f"range slider for {label}").and_(page.locator(f"[max='{largest}']"))
    handle.fill(str(value))
    handle.dispatch_event("pointerup")
