"""The page in a browser: what a person does with it, how it looks, and whether everybody can use it."""

from __future__ import annotations

import json

import pytest

from tests.support.browser import Page
from tests.web.conftest import PICTURES, serious

VIEWS = ("Dashboard", "Engines", "Containers", "Stacks", "Images", "Events", "Accounts")
STACK = "db:\n  image: redis\nfront:\n  image: busybox\n  links: [db]\n"
EVIL = "<img src=x onerror=window.hacked=1>"


def run_container(page: Page, engine, image: str) -> str:
    """Run a container with the form; give its name."""
    before = set(engine.containers)
    page.click("Containers")
    page.shows("Run a container")
    page.fill("Run a container", name=image)
    page.shows(f"{image}:latest" if ":" not in image else image)
    (made,) = set(engine.containers) - before
    return engine.containers[made]["Name"][1:]


def test_signing_in(browser, cloud):
    page = Page(browser)
    try:
        page.looks()
        page.go(cloud.url)
        page.until("document.activeElement?.name === 'username'")
        assert serious(page) == []
        page.picture(PICTURES / "signin.png")
        page.fill("Sign in", username="admin", password="wrong")
        page.until("!document.getElementById('message').hidden")
        page.fill("Sign in", username="admin", password=cloud.password)
        page.shows("Running containers")
        page.go(cloud.url)  # a reload keeps the session
        page.shows("admin (admin)")
        page.click("Sign out")
        page.until("document.activeElement?.name === 'username'")
        page.go(cloud.url)
        page.until("document.querySelector('#login').checkVisibility()")
    finally:
        page.close()


def test_the_dashboard_follows(page, cloud, engine):
    page.shows("Running containers")
    assert "local: up" in page.text()
    cloud.ship("POST", "/api/containers", {"name": "busybox", "cpus": 0.1, "memory": 16})
    running = "[...document.querySelectorAll('.card')].find((one) => one.textContent.startsWith('Running'))"
    page.until(f"Number({running}.querySelector('b').textContent) === {len(engine.running())}")


def test_a_container(page, engine):
    name = run_container(page, engine, "site")
    page.click(f"Stop {name}")
    page.shows("stopped")
    page.click(f"Start {name}")
    page.click(f"Logs of {name}")
    page.until("document.querySelector('dialog pre')?.textContent.includes('listening on :8080')")
    page.click("Close")
    page.click(f"Figures of {name}")
    page.until("document.querySelector('dialog .card b')")
    page.click("Close")
    page.click(f"Scale {name}")  # the browser's question is answered with 2
    page.until("document.querySelectorAll('tbody tr').length >= 2")
    page.click(f"Remove {name}")
    page.until(f"!document.body.innerText.includes({json.dumps(name)})")


def test_the_terminal(page, engine):
    name = run_container(page, engine, "shell")
    page.click(f"Terminal in {name}")
    shown = "document.querySelector('.xterm-rows, .xterm-accessibility')"
    page.until(f"{shown}?.textContent.includes('ran: sh')")
    page.run("document.querySelector('.xterm-helper-textarea').focus()")
    for letter in "hello":
        page.key(letter, text=letter)
    page.key("Enter", code=13, text="\r")
    page.until("document.querySelector('#terminal').textContent.includes('echo: hello')")
    sizes = [one["size"] for one in engine.execs.values() if "size" in one]
    page.looks(width=700)
    page.until("document.querySelector('.xterm-screen').getBoundingClientRect().width < 700")
    for _ in range(200):
        if len({one["size"] for one in engine.execs.values() if "size" in one} - set(sizes)) > 0:
            break
        page.run("new Promise((done) => setTimeout(done, 50))")
    assert {one["size"] for one in engine.execs.values() if "size" in one} - set(sizes)
    page.picture(PICTURES / "terminal.png")
    page.click("Close")


def drawn(page: Page) -> None:
    """Wait until each of three plots has a line in it that is no axis."""
    page.until("document.querySelectorAll('.plot canvas').length === 3")
    page.until(
        "[...document.querySelectorAll('.plot canvas')].every((one) => { const colours = new Set();"
        " const { data } = one.getContext('2d').getImageData(0, 0, one.width, one.height);"
        " for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && Math.max(data[at], data[at + 1],"
        " data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]) > 60) colours.add(data[at]);"
        " return colours.size > 0; })"
    )


def test_plots(page, engine):
    """Of the engines, and of a container; in a table, too, for who cannot see them."""
    name = run_container(page, engine, "plotted")
    page.click("Dashboard")
    page.until("/local\\s+[0-9.]+ %\\s+[0-9.]+ MiB/.test(document.querySelector('.readings table')?.innerText)")
    drawn(page)
    page.looks(dark=True)
    drawn(page)
    page.click("Containers")
    page.click(f"Figures of {name}")
    page.until("document.querySelectorAll('dialog .card b').length === 4")
    drawn(page)
    assert serious(page) == []
    page.picture(PICTURES / "figures.png")
    page.click("Close")


def test_files_up_and_down(page, engine, tmp_path):
    name = run_container(page, engine, "files")
    (tmp_path / "up.txt").write_text("carried\n", encoding="utf-8")
    page.saves(tmp_path / "down")
    page.click("Containers")
    page.click(f"Files of {name}")
    page.choose("files", tmp_path / "up.txt")
    page.fill("Upload", directory="/srv")
    page.shows("up.txt: in /srv.")
    assert engine.files["/srv/up.txt"] == b"carried\n"
    page.fill("Download", path="/srv/up.txt")
    page.shows("/srv/up.txt: 8 B.")
    for _ in range(200):
        if (tmp_path / "down/up.txt").exists():
            break
        page.run("new Promise((done) => setTimeout(done, 50))")
    assert (tmp_path / "down/up.txt").read_text(encoding="utf-8") == "carried\n"
    page.fill("Download", path="/nothing")
    page.until("document.querySelector('dialog #message')?.textContent.includes('Could not find the file')")
    assert serious(page) == []
    page.click("Close")
    page.log.clear()  # the browser itself reports the answer 404


def test_a_pull_with_its_layers(page, engine):
    page.click("Images")
    engine.pulling = True
    page.fill("Pull an image", name="site/app")
    page.until("document.querySelector('.doing').innerText.includes('0123456789ab: Pull complete')")
    page.picture(PICTURES / "pull.png")
    engine.pulling = False
    page.shows("Pulled site/app on local.")
    page.shows("site/app:latest")


def test_a_build_from_a_context(page, engine, tmp_path):
    page.click("Images")
    page.fill("Build an image", tag="mine:1")
    page.until("document.getElementById('message').textContent.includes('Choose a directory')")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY data /\n", encoding="utf-8")
    (tmp_path / ("long" * 30)).write_text("x", encoding="utf-8")
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (tmp_path / ".dockerignore").write_text("secret\n", encoding="utf-8")
    page.choose("directory", tmp_path)
    page.fill("Build an image", tag="mine:1")
    page.shows("Successfully tagged mine:1")
    assert sorted(engine.images["mine:1"]) == [".dockerignore", "Dockerfile", "long" * 30]
    page.shows("Built mine:1 on local.")
    page.fill("Build an image", tag="mine:2", text="FROM busybox")
    page.until("document.getElementById('message').textContent.includes('Give one of the three')")
    page.click("Stacks")
    page.shows("Stack file (YAML)")
    page.click("Images")
    page.fill("Build an image", tag="mine:2", text="FROM busybox\nRUN false")
    page.until("document.querySelector('.doing pre')?.innerText.includes('non-zero code: 1')")
    assert "mine:2" not in engine.images
    assert serious(page) == []


def test_the_page_goes_on_after_the_server(page, cloud):
    """It says that the server does not answer, and follows what happens when it is back."""
    page.click("Events")
    page.until("document.querySelector('#view h2')?.textContent === 'Events'")
    page.click("Dashboard")
    page.shows("Running containers")
    cloud.kill()
    page.until("document.getElementById('message').textContent.includes('does not answer')")
    cloud.start()
    page.log.clear()  # the browser itself reports what it could not reach
    page.until("document.getElementById('message').hidden")
    page.shows("local: up")
    page.log.clear()


def test_events_of_late_and_as_they_happen(page, engine):
    name = run_container(page, engine, "eventful")
    page.click("Events")
    page.until("/start\\s+\\w{12}\\s+eventful/.test(document.querySelector('#view tbody')?.innerText)")
    (one,) = [one for one in engine.containers.values() if one["Name"] == f"/{name}"]
    engine.emit("oom", one)
    page.until("/oom\\s+\\w{12}\\s+eventful/.test(document.querySelector('#view tbody tr').innerText)")


def test_a_stack_from_yaml(page):
    page.click("Stacks")
    page.shows("Stack file (YAML)")
    page.fill("Make and start a stack", name="shop", text="a: [")
    page.until("document.getElementById('message').textContent.includes('no YAML')")
    page.until("true")
    page.log.clear()  # the browser itself reports the answer 400
    page.fill("Make and start a stack", name="shop", text=STACK)
    page.shows("front")
    page.until("/shop\\s+Running/.test(document.body.innerText)")
    page.picture(PICTURES / "stacks.png")
    page.click("Terminate shop")
    page.until("!/shop/.test(document.querySelector('tbody').innerText)")


@pytest.mark.parametrize("kind", ["API key", "service key"])
def test_keys_are_shown_once(page, cloud, kind):
    page.click("Accounts")
    article = "an" if kind == "API key" else "a"
    page.fill(f"Make {article} {kind}", description="laptop")
    page.until("document.querySelector('dialog pre')")
    key = page.run("document.querySelector('dialog pre').textContent")
    if kind == "API key":
        assert cloud.dc("GET", "/auth/", auth=cloud.basic("admin", key)).status == 200
    else:
        assert cloud.call("GET", "/api/accounts", headers={"X-Service-Key": key}).status == 200
    page.click("Close")
    page.until("!document.querySelector('dialog pre')")
    page.shows("laptop")
    assert key not in page.run("document.documentElement.outerHTML")


def test_markup_of_others_is_text(page, cloud, engine):
    """Names, labels and output of containers, and of keys, whoever has written them."""
    one = engine.create({"Image": EVIL, "Cmd": ["sh"], "Labels": {EVIL: EVIL}}, EVIL)
    engine.start(one)
    engine.output = f"<script>window.hacked = 1</script>{EVIL}\n"
    cloud.ship("POST", "/api/servicekeys", {"description": EVIL})
    assert cloud.add_engine("evil", engine.url, [EVIL]).status == 400  # labels of engines are words
    assert cloud.add_engine(EVIL, engine.url).status == 400
    try:
        for view in ("Containers", "Accounts"):
            page.click(view)
            page.shows(EVIL)
        page.click("Containers")
        page.shows(EVIL)
        page.click(f"Logs of {EVIL}")
        page.until("document.querySelector('dialog pre')?.textContent.includes('<script>')")
        page.click("Close")
        page.click("Events")
        assert page.run("window.hacked") is None
        assert page.run("document.querySelectorAll('main img, dialog img, dialog script').length") == 0
    finally:
        engine.output = "listening on :8080\n"
        engine.containers.pop(one["Id"], None)


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_everybody_can_use_it(page, engine, dark, width):
    """Each view, dark and light, on a desk and on a phone: nothing beside the screen, no serious finding of axe."""
    page.looks(dark=dark, width=width)
    if not engine.running():
        run_container(page, engine, "busybox")
    for view in VIEWS:
        page.click(view)
        page.until(f"document.querySelector('#view h2')?.textContent === {json.dumps(view)}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), view
        assert serious(page) == [], (view, dark, width)
        page.picture(PICTURES / f"{view.lower()}-{'dark' if dark else 'light'}-{width}.png")


def test_by_keyboard(page):
    """From the beginning: skip to the content, then the sections in their order; what has the focus is to be seen."""
    page.run("document.activeElement.blur()")
    names = []
    for _ in range(1 + len(VIEWS) + 1):
        page.key("Tab", code=9)
        names.append(page.run("document.activeElement.textContent.trim()"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", names
    assert names == ["Skip to content", *VIEWS, "Sign out"]
    page.run("[...document.querySelectorAll('nav a')].at(-1).focus()")
    page.key("Enter", code=13, text="\r")
    page.until("document.querySelector('#view h2')?.textContent === 'Accounts'")
    assert page.run("document.activeElement.id") == "main"


def test_a_click_while_the_list_changes(page, cloud, engine):
    """What is under the mouse is not replaced while its button is down."""
    name = run_container(page, engine, "steady")
    label = f"[aria-label='Logs of {name}']"
    page.run(f"document.querySelector({json.dumps(label)}).scrollIntoView({{ block: 'center' }})")
    box = f"document.querySelector({json.dumps(label)}).getBoundingClientRect()"
    where = {axis: page.run(f"{box}.{axis} + 5") for axis in ("x", "y")}
    press = {"button": "left", "clickCount": 1, **where}
    page.run("window.asked = performance.getEntriesByName(location.origin + '/api/containers').length")
    page.send("Input.dispatchMouseEvent", type="mousePressed", **press)
    cloud.ship("POST", "/api/containers", {"name": "another", "cpus": 0.1, "memory": 16})
    page.until("performance.getEntriesByName(location.origin + '/api/containers').length > window.asked + 1")
    assert "another" not in page.text()
    page.send("Input.dispatchMouseEvent", type="mouseReleased", **press)
    page.until("document.querySelector('dialog pre')?.textContent.includes('listening on :8080')")
    page.click("Close")
    page.shows("another:latest")
