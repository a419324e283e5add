"""One writer an output: a second comer is told, a waiting one waits, and a kill leaves no lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest
from faults import refusal

from ddpo_utils.storage.locks import locked

HOLDER = (
    "import sys; from ddpo_utils.storage.locks import locked\n"
    "with locked(sys.argv[1], every_rank=True): print('held', flush=True); input()"
)


def enter(path: Path, **options: bool) -> None:
    with locked(path, **options):
        pass


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds a path's lock until it gets a line or is killed."""
    started = []

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_by_every_name_of_the_output(tmp_path, hold, monkeypatch):
    folder = tmp_path / "new" / "run"
    hold(folder)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    for name in (folder, Path("new/run"), tmp_path / "link" / ".." / "new" / "run"):
        assert str(name) in refusal(enter, name)
    enter(tmp_path / "new" / "other")
    monkeypatch.setenv("RANK", "1")
    enter(folder)  # the first process of the launch has the lock for all
    assert str(folder) in refusal(enter, folder, every_rank=True)


@pytest.mark.parametrize("killed", [True, False])
def test_a_waiting_process_gets_the_lock_and_nothing_stays_behind(tmp_path, hold, killed):
    holder = hold(tmp_path / "run")
    waiting = Thread(target=enter, args=[tmp_path / "run"], kwargs={"wait": True})
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    if killed:
        holder.kill()
    holder.communicate("\n")
    waiting.join(60)
    assert not waiting.is_alive() and os.listdir(tmp_path) == []


def test_the_holder_enters_again_and_another_thread_does_not(tmp_path):
    with locked(tmp_path / "run"):
        enter(tmp_path / "run")
        with pytest.raises(KeyError), locked(tmp_path / "run"):
            raise KeyError
        with ThreadPoolExecutor(1) as pool:
            assert "run" in pool.submit(refusal, enter, tmp_path / "run").result()
        assert os.listdir(tmp_path) == ["run.lock"]
    enter(tmp_path / "run")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    assert "file" in refusal(enter, tmp_path / "file" / "run")  # no folder can be made there
