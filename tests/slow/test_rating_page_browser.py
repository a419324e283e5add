"""The page for raters in a real browser: a whole task, killed in the middle; nothing lost, nothing sent."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from ddpo_utils.human_eval.comparisons import Comparisons, build_comparisons
from ddpo_utils.human_eval.page import write_page
from ddpo_utils.human_eval.ratings import Ratings, read_ratings

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")]

HOSTILE = (
    '</script><img src="{address}/x" onerror="document.title=1"><b>bold</b> &amp; "\u2028"\n\n🙂 אב '
    + "x" * 300
)


@pytest.fixture
def comparisons() -> Comparisons:
    a, b = (
        pd.DataFrame(
            {
                "prompt_id": f"p{p}",
                "prompt": f"Prompt {p}.",
                "text": f"{name} {p} {k}. " + "A word or two. " * 20,
            }
            for p in range(10)
            for k in range(4)
        )
        for name in ("One", "Two")
    )
    return build_comparisons(a, b, ("one", "two"))[0]


class Raters:
    """Browsers on one profile folder, and every address that their pages ask for."""

    def __init__(self, play: Any, folder: Path, page: Path):
        self.play, self.profile, self.page, self.asked = play, folder / "profile", page, []
        self.context: Any = None

    def start(self, width: int = 1400, script: str = "", **settings: Any) -> Any:
        """A browser with the page open on its first screen."""
        self.context = self.play.chromium.launch_persistent_context(
            self.profile,
            executable_path=BROWSER,
            args=["--no-sandbox"],
            viewport={"width": width, "height": 900},
            timeout=300_000,
            **settings,
        )
        self.context.set_default_timeout(60_000)
        self.context.on("request", lambda request: self.asked.append(request.url))
        if script:
            self.context.add_init_script(script)
        return self.open(self.context.pages[0])

    def open(self, page: Any = None) -> Any:
        page = page or self.context.new_page()
        page.goto(self.page.as_uri())
        page.locator("#intro").wait_for()
        return page

    def kill(self) -> None:
        """SIGKILL to the browser itself, the process that alone writes to the disk."""
        flag = f"--user-data-dir={self.profile}"
        own = [p for p in psutil.process_iter(["cmdline"]) if flag in (p.info["cmdline"] or [])]
        (browser,) = [
            p for p in own if not any(part.startswith("--type=") for part in p.info["cmdline"])
        ]
        browser.kill()
        browser.wait(60)
        self.close()

    def close(self) -> None:
        if self.context:
            with suppress(sync_api.Error):  # it was killed
                self.context.close()
            self.context = None


@pytest.fixture
def raters(comparisons: Comparisons, tmp_path: Path) -> Iterator[Raters]:
    with sync_api.sync_playwright() as play:
        raters = Raters(play, tmp_path, write_page(comparisons, tmp_path / "page.html"))
        yield raters
        raters.close()


def begin(page: Any, name: str = "Ada L.") -> None:
    page.fill("#name", name)
    page.click("#start button")
    page.locator("#item").wait_for()


def rate(page: Any, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")


def download(page: Any, folder: Path) -> Path:
    with page.expect_download() as started:
        page.locator(".download:visible").click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def kept(page: Any) -> None:
    """Until the page says that the answer is on the disk."""
    page.locator("#kept:not([aria-busy])", has_text="Kept in this browser").wait_for(
        state="attached"
    )


def choose(page: Any, name: str) -> None:
    page.get_by_role(
        "radio", name=name, exact=True
    ).check()  # by the name that a screen reader speaks


def checked(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "input[type=radio]:checked", "all => all.map((one) => one.name + one.value)"
    )


def test_a_whole_task_killed_in_the_middle_loses_nothing(
    raters: Raters, comparisons: Comparisons, tmp_path: Path
):
    page = raters.start()
    assert "10 comparisons" in page.inner_text("#what") and "Nothing is sent" in page.inner_text(
        "#intro"
    )
    page.click("#start button")
    assert "name" in page.inner_text("#name-say") and page.locator("#item").is_hidden()
    begin(page)
    shown = [page.locator("#prompt").text_content(), *page.locator(".story p").all_text_contents()]
    first = comparisons.items[0]
    assert shown == [first["prompt"], *first["A"], *first["B"]]
    assert page.inner_text("#place") == "Comparison 1 of 10"

    below = page.locator("#next").bounding_box()
    page.click("#next")  # nothing answered: said, and the first question has the focus
    assert page.inner_text("#missing") == "Questions 1 and 2 still open."
    assert (
        page.evaluate("document.activeElement.name") == "diverse"
        and page.locator("legend.missing").count() == 2
    )
    choose(page, "Set A")
    page.click("#next")
    assert page.inner_text("#missing") == "Question 2 still open."
    top = page.evaluate("scrollY") + page.locator("#next").bounding_box()["y"]
    assert top == pytest.approx(below["y"], abs=1), "the page moved under the rater's hand"
    choose(page, "B3")
    page.click("#next")
    assert (
        page.inner_text("#place") == "Comparison 2 of 10"
        and page.inner_text("#count") == "1 of 10 answered"
    )
    assert checked(page) == []

    rate(page, "b1")  # 2
    rate(page, "h0")  # 3
    page.fill("#comment", "")
    page.type("#comment", "a2 is dull\nand b")  # 4: letters and Enter of a comment answer nothing
    assert checked(page) == [] and page.inner_text("#place") == "Comparison 4 of 10"
    page.locator("#place").focus()
    rate(page, "B8")
    page.keyboard.press("Backspace")
    assert (
        checked(page) == ["diverseB", "bestB4"]
        and page.input_value("#comment") == "a2 is dull\nand b"
    )
    page.keyboard.press("a")  # thought better of it
    page.click("#back")
    page.click("#clear")  # 3 is taken back
    assert checked(page) == [] and page.inner_text("#count") == "3 of 10 answered"
    rate(page, "a2")
    page.keyboard.press("Enter")
    choose(page, "A4")  # 5 is half given
    page.fill("#comment", "half")
    kept(page)
    raters.kill()

    page = raters.start()
    page.get_by_role("button", name="Go on as Ada L. (4 of 10 answered)").click()
    page.locator("#item").wait_for()
    assert page.inner_text("#place") == "Comparison 5 of 10"
    assert checked(page) == ["bestA4"] and page.input_value("#comment") == "half"
    answers = read_ratings(download(page, tmp_path), comparisons)["answers"]
    assert len(answers) == 4, "what is half given is no answer"
    page.locator("#place").focus()
    rate(page, "b")
    for _ in range(5):
        rate(page, "b5")
    assert page.inner_text("#end h1").startswith("All done")
    path = download(page, tmp_path)
    content = read_ratings(path, comparisons)
    by_hand = Ratings(tmp_path / "other", comparisons, "Ada L.").path
    assert (
        path.name == f"{by_hand.stem}-{comparisons.id[:6]}.json"
        and path.name in page.text_content("#file")
    )
    assert (content["rater"], content["kind"]) == ("Ada L.", "person")
    given = [(a["item"], a["diverse"], a["best"], a["comment"]) for a in content["answers"]]
    assert given == [
        ("c01", "A", "B3", ""),
        ("c02", "B", "A1", ""),
        ("c03", "A", "A2", ""),
        ("c04", "A", "B4", "a2 is dull\nand b"),
        ("c05", "B", "A4", "half"),
        *[(f"c{n:02}", "B", "B1", "") for n in range(6, 11)],
    ]
    assert (
        all(0 <= a["seconds"] < 600 for a in content["answers"])
        and content["answers"][0]["seconds"] > 0
    )
    assert not Ratings(
        tmp_path, comparisons, "Ada L."
    ).waiting  # the notebook goes on with the page's file
    assert {url for url in raters.asked if not url.startswith("blob:")} == {raters.page.as_uri()}

    page = raters.open()  # another rater begins at the beginning
    begin(page, "Bo")
    assert page.inner_text("#place") == "Comparison 1 of 10"


def test_two_tabs_lose_no_answer(raters: Raters, comparisons: Comparisons, tmp_path: Path) -> None:
    one = raters.start()
    begin(one)
    two = raters.open()
    begin(two)
    rate(two, "a1")
    rate(two, "b2")
    kept(two)
    one.bring_to_front()
    answers = read_ratings(download(one, tmp_path), comparisons)["answers"]
    assert [(a["item"], a["best"]) for a in answers] == [("c01", "A1"), ("c02", "A2")]


@pytest.mark.parametrize(
    "script",
    [
        "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } });",
        "IDBFactory.prototype.open = function () { throw new DOMException('no', 'SecurityError'); };",
        "IDBObjectStore.prototype.put = function () { throw new DOMException('full', 'QuotaExceededError'); };",
    ],
    ids=["no store", "a store that does not open", "a full store"],
)
def test_a_browser_that_keeps_nothing_says_so_and_goes_on(
    script, raters, comparisons, tmp_path
) -> None:
    page = raters.start(script=script)
    begin(page)
    rate(page, "a3")
    page.locator("#warning", has_text="download them before you close").wait_for()
    page.locator("#kept", has_text="Not kept").wait_for()
    for _ in range(9):
        rate(page, "h0")
    answers = read_ratings(download(page, tmp_path), comparisons)["answers"]
    assert [a["diverse"] for a in answers] == ["A"] + ["undecided"] * 9
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.close(run_before_unload=True)
    page.wait_for_event("close")
    assert asked == ["beforeunload"]


class Outside(BaseHTTPRequestHandler):
    """A server that hands out the rating page and a page without a policy, and counts who comes."""

    visits: list[str] = []
    pages: dict[str, bytes] = {}

    def do_GET(self) -> None:
        self.visits.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path in self.pages else "text/plain")
        self.end_headers()
        self.wfile.write(self.pages.get(self.path, b""))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[str]:
    Outside.visits.clear()
    server = HTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


LEAVE = """(address) => Promise.allSettled([
    fetch(address + "/fetch", { mode: "no-cors" }),
    new Promise((done) => { const image = new Image(); image.onload = image.onerror = done;
        image.src = address + "/image"; }),
    new Promise((done) => { const script = document.createElement("script"); script.onload = script.onerror = done;
        try { script.src = address + "/script"; document.body.append(script); } catch { done(); } }),
])"""


@pytest.mark.parametrize("width", [320, 400])
def test_hostile_texts_stay_texts_and_nothing_leaves_a_narrow_page(
    width, raters, comparisons, outside
) -> None:
    hostile = HOSTILE.replace("{address}", outside)
    items = [
        {**item, "prompt": hostile, "A": [hostile, *item["A"][1:]]} for item in comparisons.items
    ]
    write_page(Comparisons("hostile", "summaries", items), raters.page)
    page = raters.start(width, color_scheme="dark")
    inside = "[document.documentElement.scrollWidth, innerWidth]"
    assert page.evaluate(inside) == [
        width,
        width,
    ] and "summaries of their plots" in page.inner_text("#long")
    begin(page)
    assert page.locator("#prompt").text_content() == hostile
    assert "\n\n".join(page.locator("#A1 p").all_text_contents()) == hostile
    assert page.locator("img, #item b").count() == 0 and page.title() == "Compare sets of stories"
    assert page.evaluate(inside) == [width, width]
    first, second = (page.locator(".set").nth(n).bounding_box() for n in range(2))
    assert (
        first["x"] == second["x"] and second["y"] > first["y"] + first["height"] - 1
    )  # one below the other
    for number in range(10):
        choose(page, "Set B")
        choose(page, "A1")
        assert page.locator("#A1.chosen").count() == 1, number
        page.click("#next")
    assert page.locator("#end").is_visible() and page.evaluate(inside) == [width, width]
    assert {url for url in raters.asked if not url.startswith("blob:")} == {raters.page.as_uri()}
    assert Outside.visits == []
    Outside.pages = {"/page": raters.page.read_bytes(), "/bare": b"<p>A page without a policy."}
    for name, leave in (("/page", set()), ("/bare", {"/fetch", "/image", "/script"})):
        page.goto(f"{outside}{name}")
        Outside.visits.clear()
        page.evaluate(LEAVE, outside)
        assert {path for path in Outside.visits if path != "/favicon.ico"} == leave


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_worked_without_a_mouse(scheme: str, raters: Raters) -> None:
    page = raters.start(color_scheme=scheme)
    colour = (
        "(name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
    )
    for over, under, least in [
        ("ink", "paper", 7),
        ("ink", "raised", 7),
        ("ink", "tint", 7),
        ("soft", "paper", 4.5),
        ("alert", "paper", 4.5),
        ("alert", "alert-tint", 4.5),
        ("on-accent", "accent", 4.5),
        ("edge", "raised", 3),
        ("accent", "paper", 3),
    ]:
        a, b = sorted(
            (luminance(page.evaluate(colour, name)) for name in (over, under)), reverse=True
        )
        assert (a + 0.05) / (b + 0.05) >= least, (over, under)
    page.keyboard.press("Tab")  # the name
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.locator("#item").wait_for()
    assert (
        page.evaluate("document.activeElement.id") == "place"
    )  # a screen reader reads on from the new heading
    unnamed = "all => all.filter((one) => !one.labels?.length && !one.textContent && !one.ariaLabel).length"
    assert page.eval_on_selector_all("input, textarea, button, progress", unnamed) == 0
    assert page.eval_on_selector_all(
        "input[type=radio]", "all => all.every((one) => one.closest('fieldset'))"
    )
    assert page.locator("fieldset > legend").all_inner_texts()[0].startswith("1. Which set")
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
        ring = "getComputedStyle(document.activeElement.closest('.choice') ?? document.activeElement).outlineStyle"
        assert page.evaluate(ring) == "solid", stops
        if stops[-1] in ("diverse", "best"):
            page.keyboard.press("Space")
    assert stops == ["diverse", "best", "comment", "next", "keys", "clear"]
    assert checked(page) == ["diverseA", "bestA1"]
    page.locator("#keys").press("Space")  # keys off: for those who speak to their computer
    page.keyboard.press("Tab")
    page.locator("#place").focus()
    page.keyboard.press("b")
    assert checked(page) == ["diverseA", "bestA1"]
    page.keyboard.press("Enter")
    assert page.inner_text("#place") == "Comparison 2 of 10"


def test_seconds_run_while_the_page_is_in_sight_alone(
    raters: Raters, comparisons: Comparisons, tmp_path: Path
) -> None:
    raters.start()
    clock = raters.context.clock
    clock.install(time=0)
    page = raters.open()
    clock.pause_at(3_600_000)  # milliseconds; from here on the test alone moves the page's time
    begin(page)
    see = """(state) => {
        Object.defineProperty(document, "visibilityState", { get: () => state, configurable: true });
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
    (answer,) = read_ratings(download(page, tmp_path), comparisons)["answers"]
    assert answer == {"item": "c01", "diverse": "B", "best": "A1", "comment": "", "seconds": 26.5}
