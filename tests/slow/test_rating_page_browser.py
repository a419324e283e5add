"""The page for raters in a real browser: a whole task, killed midway; nothing lost or sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import CHROMIUM, PATIENCE
from playwright.sync_api import Error, sync_playwright
from study import BUILT

from ddpo_utils.human_eval.comparisons import Comparisons
from ddpo_utils.human_eval.page import write_page
from ddpo_utils.human_eval.ratings import Ratings, read_ratings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs chromium")]


class Raters:
    """Browsers on one profile folder, and every address that their pages ask for."""

    def __init__(self, playwright: Any, folder: Path):
        self.playwright, self.profile, self.requests = playwright, folder / "profile", []
        self.page = write_page(BUILT, folder / "page.html")
        self.context: Any = None

    def start(self, width: int = 1400, script: str = "", **settings: Any) -> Any:
        """A browser with the page open on its first screen."""
        settings |= {"executable_path": CHROMIUM, "args": ["--no-sandbox"], "timeout": PATIENCE}
        settings["viewport"] = {"width": width, "height": 900}
        browser = self.playwright.chromium
        self.context = browser.launch_persistent_context(self.profile, **settings)
        self.context.set_default_timeout(PATIENCE)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.add_init_script(script or "0")
        return self.open(self.context.pages[0])

    def open(self, page: Any = None) -> Any:
        page = page or self.context.new_page()
        page.goto(self.page.as_uri())
        page.locator("#intro").wait_for()
        return page

    def outside(self) -> set[str]:
        """Addresses that were asked for, beside the page's own."""
        asked = {url for url in self.requests if not url.startswith("blob:")}
        return asked - {self.page.as_uri()}

    def kill(self) -> None:
        """SIGKILL to the browser itself, the process that alone writes to the disk."""
        flag = f"--user-data-dir={self.profile}"
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if flag in line and not any(part.startswith("--type=") for part in line):
                process.kill()
                process.wait(60)
        with suppress(Error):  # it was killed
            self.context.close()


@pytest.fixture
def raters(tmp_path: Path) -> Iterator[Raters]:
    with sync_playwright() as playwright:
        raters = Raters(playwright, tmp_path)
        yield raters
        with suppress(Error):  # closed before
            raters.context.close()


def begin(page: Any, name: str = "Ada L.") -> None:
    page.fill("#name", name)
    page.click("#start button")
    page.locator("#item").wait_for()


def rate(page: Any, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")


def choose(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check()  # the name in a screen reader


def checked(page: Any) -> list[str]:
    names = "all => all.map((one) => one.name + one.value)"
    return page.eval_on_selector_all("input[type=radio]:checked", names)


def download(page: Any, folder: Path) -> Path:
    with page.expect_download() as started:
        page.locator(".download:visible").click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def kept(page: Any) -> None:
    """Until the page says that the answer is on the disk."""
    status = page.locator("#kept:not([aria-busy])", has_text="Kept in this browser")
    status.wait_for(state="attached")


def test_a_whole_task_killed_in_the_middle_or_in_two_tabs_loses_nothing(
    raters: Raters, tmp_path: Path
) -> None:
    page = raters.start()
    page.click("#start button")
    assert "name" in page.inner_text("#name-say")
    begin(page)
    texts = [page.locator("#prompt").text_content(), *page.locator(".story p").all_text_contents()]
    first = BUILT.items[0]
    assert texts == [first["prompt"], *first["A"], *first["B"]]
    page.click("#next")  # nothing answered: the first question gets the focus
    assert page.inner_text("#missing") == "Questions 1 and 2 still open."
    assert page.evaluate("document.activeElement.name") == "diverse"
    choose(page, "Set A")
    choose(page, "B3")
    page.click("#next")
    assert page.inner_text("#place") == "Comparison 2 of 6"
    assert checked(page) == []
    rate(page, "b1")  # 2
    page.fill("#comment", "")
    page.type("#comment", "a2 is dull\nand b")  # 3: keys of a comment answer nothing
    assert checked(page) == []
    page.locator("#place").focus()
    rate(page, "B8")
    page.keyboard.press("Backspace")
    assert checked(page) == ["diverseB", "bestB4"]
    assert page.input_value("#comment") == "a2 is dull\nand b"
    page.keyboard.press("a")  # a second thought
    page.click("#back")
    page.click("#clear")  # 2 is taken back
    assert checked(page) == []
    assert page.inner_text("#count") == "2 of 6 answered"
    rate(page, "h0")
    page.keyboard.press("Enter")
    choose(page, "A4")  # 4 is half given
    page.fill("#comment", "half")
    kept(page)
    raters.kill()

    page = raters.start()
    page.get_by_role("button", name="Go on as Ada L. (3 of 6 answered)").click()
    page.locator("#item").wait_for()
    assert page.inner_text("#place") == "Comparison 4 of 6"
    assert checked(page) == ["bestA4"]
    assert page.input_value("#comment") == "half"
    assert len(read_ratings(download(page, tmp_path), BUILT)["answers"]) == 3
    page.locator("#place").focus()
    for keys in ("b", "b5", "b5"):
        rate(page, keys)
    assert page.locator("#end").is_visible()
    path = download(page, tmp_path)
    content = read_ratings(path, BUILT)
    assert (content["rater"], content["kind"]) == ("Ada L.", "person")
    given = [(a["item"], a["diverse"], a["best"], a["comment"]) for a in content["answers"]]
    assert given == [
        ("c01", "A", "B3", ""),
        ("c02", "undecided", "undecided", ""),
        ("c03", "A", "B4", "a2 is dull\nand b"),
        ("c04", "B", "A4", "half"),
        ("c05", "B", "B1", ""),
        ("c06", "B", "B1", ""),
    ]
    notebook = Ratings(tmp_path, BUILT, "Ada L.")  # goes on with the page's file
    assert notebook.path == path and not notebook.waiting
    assert not raters.outside()
    one, two = raters.open(), raters.open()  # another rater begins at the beginning, in two tabs
    begin(one, "Bo")
    begin(two, "Bo")
    rate(two, "a1")
    rate(two, "b2")
    kept(two)
    one.bring_to_front()
    answers = read_ratings(download(one, tmp_path), BUILT)["answers"]
    assert [(a["item"], a["best"]) for a in answers] == [("c01", "A1"), ("c02", "A2")]


FAILURE = "{ throw new DOMException('no', 'SecurityError'); }"


@pytest.mark.parametrize(
    "script",
    [
        f"Object.defineProperty(window, 'indexedDB', {{ get() {FAILURE} }});",
        f"IDBFactory.prototype.open = function () {FAILURE};",
        f"IDBObjectStore.prototype.put = function () {FAILURE};",
    ],
    ids=["no store", "a store that does not open", "a full store"],
)
def test_a_browser_that_keeps_nothing_says_so_and_goes_on(script, raters, tmp_path) -> None:
    page = raters.start(script=script)
    begin(page)
    rate(page, "a3")
    page.locator("#warning", has_text="download them before you close").wait_for()
    for _ in range(5):
        rate(page, "h0")
    answers = read_ratings(download(page, tmp_path), BUILT)["answers"]
    assert [a["diverse"] for a in answers] == ["A"] + ["undecided"] * 5
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.type), dialog.accept()))
    page.close(run_before_unload=True)
    page.wait_for_event("close")
    assert dialogs == ["beforeunload"]


# a text, as prompt, story and comment, and the name of who rates it
HOSTILE = {
    "</script><script>document.title = 1</script><!--<script>": "<img src=x onerror=alert(1)>",
    '<img src="http://127.0.0.1:9/x" onerror="document.title = 1"><b>': "B\u202eo\u2066/../ada",
    "\x1b[2J\x00 \u2028\n\n\u202eevil\u202c ${1} @SCRIPT@ 🙂": "\u0928\u0947\u0939\u093e",
    "</textarea><style>*{display:none}</style>" + "x" * 300: "\x1b[31mAda\u0000",
}


def test_hostile_texts_and_names_stay_texts_on_a_narrow_page(raters, tmp_path) -> None:
    items = []
    for item, text in zip(BUILT.items, HOSTILE, strict=False):
        items.append(item | {"prompt": text, "A": [text] * 4})
    shown = Comparisons("hostile", "summaries", items)
    write_page(shown, raters.page)
    page = raters.start(320, color_scheme="dark")
    for name in HOSTILE.values():
        page.locator("#name").evaluate("(field, name) => { field.value = name; }", name)
        page.click("#start button")
        page.locator("#item").wait_for()
        for text in HOSTILE:
            assert page.locator("#prompt").text_content() == text
            assert "\n\n".join(page.locator("#A1 p").all_text_contents()) == text
            assert page.locator("#item :is(img, b, style, meta, script)").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") == 320
            choose(page, "Set B")
            choose(page, "A1")
            page.fill("#comment", text)
            page.click("#next")
        path = download(page, tmp_path)
        ratings = Ratings(tmp_path, shown, name)
        assert ratings.path == path and not ratings.waiting
        assert read_ratings(path, shown)["rater"] == ratings.rater
        raters.open(page)
        page.get_by_role("button", name=f"Go on as {ratings.rater} (4 of 4").wait_for()
        assert page.title() == "Compare sets of stories"
    assert not raters.outside()
    assert page.evaluate("fetch('data:,').then(() => 'sent', () => 'refused')") == "refused"


def test_it_can_be_worked_without_a_mouse(raters: Raters) -> None:
    page = raters.start()
    page.keyboard.press("Tab")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.locator("#item").wait_for()
    assert page.evaluate("document.activeElement.id") == "place"  # a screen reader reads on here
    named = "all => all.every((one) => one.labels?.length || one.textContent || one.ariaLabel)"
    assert page.eval_on_selector_all("input, textarea, button, progress", named)
    stops = []
    ring = "(document.activeElement.closest('.choice') ?? document.activeElement)"
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
        assert page.evaluate(f"getComputedStyle({ring}).outlineStyle") == "solid", stops
        if stops[-1] in ("diverse", "best"):
            page.keyboard.press("Space")
    assert stops == ["diverse", "best", "comment", "next", "keys", "clear"]
    page.locator("#keys").press("Space")  # keys off: for those who speak to their computer
    page.locator("#place").focus()
    page.keyboard.press("b")
    assert checked(page) == ["diverseA", "bestA1"]
    page.keyboard.press("Enter")
    assert page.inner_text("#place") == "Comparison 2 of 6"


def test_seconds_run_while_the_page_is_in_sight_alone(raters: Raters, tmp_path: Path) -> None:
    raters.start()
    clock = raters.context.clock
    clock.install(time=0)
    page = raters.open()
    clock.pause_at(3_600_000)  # milliseconds; from here on the test alone moves the page's time
    begin(page)
    see = """(state) => {
        const value = { get: () => state, configurable: true };
        Object.defineProperty(document, "visibilityState", value);
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    clock.fast_forward(20_000)
    page.evaluate(see, "hidden")
    clock.fast_forward(100_000)
    page.evaluate(see, "visible")
    clock.fast_forward(5_500)
    rate(page, "a1")
    clock.fast_forward(7_000)
    page.keyboard.press("Backspace")  # a second look counts too
    clock.fast_forward(1_000)
    rate(page, "b")
    (answer,) = read_ratings(download(page, tmp_path), BUILT)["answers"]
    assert answer == {"item": "c01", "diverse": "B", "best": "A1", "comment": "", "seconds": 26.5}
