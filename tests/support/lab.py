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

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 120_000  # ms, on a busy machine
SETTINGS = {  # no question at the start, and every cell is in the page, seen or not
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@contextmanager
def jupyter_lab(
    folder: Path, **variables: str
) -> Iterator[tuple[Callable[[str], str], subprocess.Popen]]:
    """A function from a file to its address, and the process of a server without user settings."""
    token, home = os.urandom(16).hex(), folder / ".home"
    for plugin, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    variables = {**os.environ, **variables, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        variables[name] = str(home / name)
    variables["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server_options = [f"root_dir={folder}", "port_retries=0", "ip=127.0.0.1", f"port={port}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.{option}" for option in server_options]
    command.append(f"--IdentityProvider.token={token}")
    log = (home / "lab.log").open("w")
    server = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=10).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"No JupyterLab: {(home / 'lab.log').read_text()[-2000:]}")
                time.sleep(0.5)
        yield lambda file: f"{address}/lab/tree/{file}?token={token}&reset", server
    finally:
        kernels = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(60)
        log.close()
        for kernel in kernels:
            if kernel.is_running():
                kernel.kill()


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
