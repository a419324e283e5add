"""A real JupyterLab and a real browser for the slow tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PATIENCE = 120_000  # ms: for whatever a busy machine does


@contextmanager
def jupyter_lab(
    folder: Path, **variables: str
) -> Iterator[tuple[Callable[[str], str], subprocess.Popen]]:
    """A JupyterLab of its own, with nothing of the user's settings: the address of a file, process of the server."""
    token, home = os.urandom(16).hex(), folder / ".home"
    for place, content in {
        "apputils-extension/notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        },  # no question, no way out
        "notebook-extension/tracker": {
            "windowingMode": "none"
        },  # every cell is in the page, seen or not
    }.items():
        settings = home / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(content))
    own = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }
    variables = {
        **os.environ,
        **variables,
        **{name: str(home / place) for name, place in own.items()},
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
    ]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api?token={token}", timeout=10
                ).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(
                        f"JupyterLab did not start: {(home / 'lab.log').read_text()[-2000:]}"
                    )
                time.sleep(0.5)
        yield lambda file: f"http://127.0.0.1:{port}/lab/tree/{file}?token={token}&reset", server
    finally:
        kernels = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(60)
        for left in kernels:
            if left.is_running():
                left.kill()


@contextmanager
def browser_page(address: str) -> Iterator[Page]:
    """The notebook in a headless Chromium, 1400 pixels wide."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()
