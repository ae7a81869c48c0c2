"""Does the page of a collection work in a browser? Mouse, keyboard, search, themes; nothing fetched."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import test_space_page
from PIL import Image
from test_space_page import HOSTILE, NAMES, frame

from tce_tf.visualization import results_page, space_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait_module = pytest.importorskip("selenium.webdriver.support.wait")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)",
)


def start(*arguments):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # Chromium refuses its sandbox to root; /dev/shm is small in containers.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module", params=["webgl", pytest.param("svg", marks=pytest.mark.slow)])
def browser(request):
    # Software WebGL has to be asked for; without any, the page falls back to SVG.
    extra = "--enable-unsafe-swiftshader" if request.param == "webgl" else "--disable-3d-apis"
    driver = start(extra)
    driver.points = {"webgl": "scattergl", "svg": "scatter"}[request.param]
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    made = [test_space_page.make(name, seed) for seed, name in enumerate(("random", HOSTILE, "c"))]
    page = space_page.space_page(*zip(*made, strict=True))
    path = tmp_path_factory.mktemp("page") / "space.html"
    results_page.write(str(path), page)
    return f"file://{path}"


@pytest.fixture
def page(browser, address):
    """The page, loaded; afterwards: no error was logged, nothing fetched, no name became markup."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(address)
    wait(browser, "return document.documentElement.dataset.ready")
    yield browser
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert address in sent  # the log does see requests
    assert [url for url in sent if not url.startswith(("file:", "data:", "blob:"))] == []
    assert not browser.execute_script("return window.hacked || document.querySelector('img, b')")


def until(browser, condition):
    return wait_module.WebDriverWait(browser, 20).until(condition)


def wait(browser, script, *arguments):
    return until(browser, lambda b: b.execute_script(script, *arguments))


def text(browser, name):
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def chosen(browser):
    return browser.execute_script("return state.frame")


def press(browser, *keys):
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def move_to(browser, number, encoder=0):
    """The mouse to a frame's point; returns the chain of actions."""
    x, y = browser.execute_script(
        """
        const [frame, number] = arguments, encoder = data.encoders[number];
        const box = encoder.plot.getBoundingClientRect(), { xaxis, yaxis } = encoder.plot._fullLayout;
        return [box.left + xaxis._offset + xaxis.d2p(encoder.x[frame]),
                box.top + yaxis._offset + yaxis.d2p(encoder.y[frame])].map(Math.round);
        """,
        number,
        encoder,
    )
    actions = webdriver.ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(x - 3, y - 3).move_to_location(x, y)
    return actions


def seen(browser, canvas):
    """Pixels of a canvas, uint8 [H, W, 3]."""
    script = "return document.querySelector(arguments[0]).toDataURL('image/png').split(',')[1]"
    png = base64.b64decode(browser.execute_script(script, canvas))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def shows(browser, canvas, video, number):
    """Whether a canvas is this frame rather than any other, JPEG's losses aside."""
    picture = seen(browser, canvas)
    if picture.shape != (32, 48, 3):
        return False
    every = [(v, n) for v, count in enumerate(test_space_page.FRAMES) for n in range(count)]
    errors = [np.abs(picture - frame(*each) * 1.0).mean() for each in every]
    return every[np.argmin(errors)] == (video, number) and min(errors) < 25


def until_shown(browser, canvas, video, number):
    until(browser, lambda b: shows(b, canvas, video, number))


def shapes(browser, encoder=0):
    return browser.execute_script("return data.encoders[arguments[0]].plot.layout.shapes", encoder)


def test_it_loads_with_two_encoders_of_three_side_by_side(page):
    assert page.execute_script("return trace") == page.points
    sections = page.execute_script(
        "return data.encoders.map(e => [e.section.querySelector('h2').textContent, e.section.hidden,"
        " e.section.querySelector('p').textContent, e.button.getAttribute('aria-pressed')])"
    )
    figures = [encoder["figures"] for encoder in content(page)["encoders"]]
    assert "order" in figures[0]
    assert sections == [
        ["random", False, figures[0], "true"],
        [HOSTILE, False, figures[1], "true"],
        ["c", True, figures[2], "false"],
    ]
    drawn = page.execute_script("return data.encoders[1].plot.data.map(t => [t.x, t.y])")
    found, places = test_space_page.make()
    # One path a video, nothing between videos; and every point.
    for axis in (0, 1):
        gaps = [None if at in (9, 22, 24) else value for at, value in enumerate(drawn[0][axis])]
        assert gaps == drawn[0][axis] and drawn[0][axis].count(None) == 3
        assert drawn[1][axis] == places[:, axis].tolist()
    assert text(page, "name") == NAMES[0]
    until_shown(page, "#frame", 0, 0)


def test_points_are_seen_in_the_colours_of_their_class(page):
    page.execute_script("choose(21); Plotly.relayout(data.encoders[0].plot, {shapes: []})")
    colours = page.execute_script("return data.encoders[0].plot.data[1].marker.color")
    assert len(set(colours[:9])) == 1 and len({colours[0], colours[9], colours[21]}) == 3

    def visible(browser):
        picture = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
        plot = picture[100:-80, :500].reshape(-1, 3).astype(int)
        wanted = [np.array(colours[at][4:-1].split(","), int) for at in (0, 9)]
        return all((np.abs(plot - colour).max(axis=1) < 12).sum() > 50 for colour in wanted)

    until(page, visible)


def test_hovering_shows_the_frame_in_place_and_in_the_other_encoder(page):
    move_to(page, 13).perform()
    wait(page, "return !document.getElementById('tip').hidden")
    until_shown(page, "#tip canvas", 1, 4)
    assert text(page, "tip") == f"{NAMES[1]}: walk, frame 5 of 12, 0.16 s"
    for encoder in (0, 1):
        assert any(s.get("xanchor") == 4 and s["yanchor"] == 5 for s in shapes(page, encoder))
    assert chosen(page) == 0
    actions = webdriver.ActionChains(page)
    actions.w3c_actions.pointer_action.move_to_location(1300, 20)
    actions.perform()
    wait(page, "return document.getElementById('tip').hidden")


def test_a_click_plays_the_video_along_its_path_to_its_end(page):
    page.execute_script(
        "window.passed = []; const before = choose; choose = (f) => { passed.push(f); before(f); }"
    )
    move_to(page, 16).click().perform()
    wait(page, "return state.timer")
    assert text(page, "play") == "Pause" and text(page, "name") == NAMES[1]
    path = next(s["path"] for s in shapes(page) if s["type"] == "path")
    assert path == "M" + "L".join(f"{x},5" for x in range(12))
    wait(page, "return !state.timer")
    assert page.execute_script("return [...new Set(passed)]") == list(range(16, 21))
    assert chosen(page) == 20 and text(page, "play") == "Play"
    until_shown(page, "#frame", 1, 11)
    assert text(page, "place") == "walk, frame 12 of 12, 0.44 s"


def test_colours_follow_class_video_and_time(page):
    def colours(mode):
        page.execute_script(
            "at('colour').value = arguments[0]; at('colour').dispatchEvent(new Event('change'))",
            mode,
        )
        return page.execute_script(
            "return data.encoders.slice(0, 2).map(e => e.plot.data[1].marker.color)"
        )

    for found in colours("video"):
        assert [len(set(found[a:b])) for a, b in ((0, 9), (9, 21))] == [1, 1]
        assert len(set(found)) == 3
    for found in colours("time"):
        assert len(set(found)) > 12 and found[0] == found[9] and found[8] == found[20]
    assert text(page, "legend") == "first framelast frame"
    colours("class")
    assert text(page, "legend") == "".join(sorted(test_space_page.LABELS[:2])) + "no class"


def test_search_finds_by_name_and_class_and_fades_the_others(page):
    press(page, "/")
    press(page, "WALK ü")
    assert text(page, "found") == "1 of 3 videos, 22 frames"
    visible = "return [...document.querySelectorAll('#videos li')].map(e => !e.hidden)"
    assert page.execute_script(visible) == [False, True, False]
    colours = page.execute_script("return data.encoders[0].plot.data[1].marker.color")
    faint = page.execute_script("return css('--faint')")
    assert [c == faint for c in colours] == [True] * 9 + [False] * 12 + [True]
    press(page, "\ue007")  # Enter
    assert chosen(page) == 9
    press(page, *"\ue003" * 6, "nothing")  # Backspace
    assert page.execute_script(visible) == [False] * 3
    press(page, "\ue007")
    assert chosen(page) == 9


def test_neighbours_are_thumbnails_that_lead_to_their_frame(page):
    nearest = content(page)["encoders"][0]["nearest_elsewhere"]
    buttons = page.find_elements("css selector", "#nearest button")
    assert len(buttons) == 2 * space_page.NUM_NEIGHBOURS
    assert [b.text for b in buttons[:6]] == [f"{c:.3f}" for c in nearest["cosines"][0]]
    wanted = nearest["frames"][0][0]
    video = int(wanted >= 9) + int(wanted >= 21)
    until_shown(page, "#nearest button canvas", video, wanted - (0, 9, 21)[video])
    buttons[0].click()
    assert chosen(page) == wanted
    page.find_element("id", "others").click()
    own = content(page)["encoders"][0]["nearest"]["cosines"][wanted]
    first = page.find_elements("css selector", "#nearest button")[: len(own)]
    assert [b.text for b in first] == [f"{c:.3f}" for c in own]


def content(page):
    return page.execute_script("return JSON.parse(document.getElementById('data').textContent)")


def test_the_keyboard_reaches_everything(page):
    order = []
    for _ in range(40):
        press(page, "\ue004")  # Tab
        order.append(
            page.execute_script(
                "return document.activeElement.id || document.activeElement.textContent"
            )
        )
    for name in (
        "random",
        HOSTILE,
        "c",
        "colour",
        "theme",
        "map",
        "play",
        "slider",
        "others",
        "search",
        "videos",
    ):
        assert name in order, name
    unnamed = page.execute_script(
        """
        const named = (e) => e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label");
        return [...document.querySelectorAll("button, input, select, canvas[role], [tabindex]")]
            .filter((e) => !named(e)).length;
        """
    )
    assert unnamed == 0
    page.execute_script("at('map').focus()")
    press(page, "\ue014")  # right
    assert chosen(page) == 1
    press(page, "\ue010")  # End
    press(page, "\ue014")
    assert chosen(page) == 8
    press(page, "\ue012")  # left
    assert chosen(page) == 7
    press(page, "\ue015")  # down
    assert chosen(page) == 9 and text(page, "name") == NAMES[1]
    press(page, "\ue013")  # up
    assert chosen(page) == 0
    press(page, " ")
    wait(page, "return state.timer && state.frame > 1")
    press(page, "\ue00c")  # Escape
    assert page.execute_script("return state.timer") is None
    page.execute_script("at('videos').focus()")
    press(page, "\ue015")
    active = page.execute_script("return at('videos').getAttribute('aria-activedescendant')")
    assert chosen(page) == 9 and active == "video-1"
    press(page, "\ue015", "\ue015", "\ue015")
    assert chosen(page) == 21


def test_a_video_of_one_frame_plays_and_ends(page):
    page.execute_script("choose(21); play(true)")
    wait(page, "return !state.timer")
    assert chosen(page) == 21


def test_encoders_are_shown_and_hidden_and_one_stays(page):
    buttons = page.find_elements("css selector", "#encoders button")
    hidden = "return data.encoders.map(e => e.section.hidden)"
    buttons[2].click()
    assert page.execute_script(hidden) == [False, False, False]
    for button in buttons:
        button.click()
    assert page.execute_script(hidden) == [True, True, False]
    assert page.execute_script("return data.encoders[2].plot.data[1].x.length") == 22
    assert len(page.find_elements("css selector", "#nearest h3")) == 1
    wait(page, "return data.encoders[2].plot.querySelector('.main-svg').clientWidth > 900")


def test_themes_follow_the_system_and_the_button(page):
    def backs():
        return page.execute_script(
            "return [getComputedStyle(document.body).backgroundColor,"
            " data.encoders[0].plot.layout.plot_bgcolor]"
        )

    def prefer(scheme):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    prefer("light")
    wait(page, "return document.documentElement.dataset.theme === 'light'")
    assert backs() == ["rgb(255, 255, 255)", "#fff"]
    prefer("dark")
    wait(page, "return document.documentElement.dataset.theme === 'dark'")
    assert backs() == ["rgb(20, 23, 27)", "#14171b"]
    page.find_element("id", "theme").click()
    assert backs() == ["rgb(255, 255, 255)", "#fff"]
    prefer("")


def test_nothing_can_be_fetched(browser, address):
    browser.get(address)
    wait(browser, "return document.documentElement.dataset.ready")
    refused = browser.execute_async_script(
        """
        const done = arguments[0];
        document.addEventListener("securitypolicyviolation", (e) => done(e.violatedDirective));
        fetch("http://127.0.0.1:9/").then(() => done("went"), () => setTimeout(done, 5000, "no policy"));
        """
    )
    assert refused == "connect-src"
