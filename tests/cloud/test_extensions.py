"""Extensions of Shipyard: one copy, and patience with what fails."""

from __future__ import annotations

from tests.support.cloud import CloudProcess
from tests.support.docker_engine import FakeEngine
from tests.support.until import until


def add(server, name, image="probe"):
    """Add an extension, which also looks after all others."""
    body = {"name": name, "image": image, "config": {"cpus": 0.1, "memory": 16}}
    assert server.ship("POST", "/api/extensions", body).status == 204


def of_image(engine, image):
    return [one for one in engine.containers.values() if one["Config"]["Image"].startswith(image)]


def test_an_engine_is_away(tmp_path):
    engines = {"a": FakeEngine(), "b": FakeEngine()}
    server = CloudProcess(tmp_path / "cloud").start()
    try:
        for name, engine in engines.items():
            server.add_engine(name, engine.url)
        add(server, "first")
        home = next(name for name, engine in engines.items() if of_image(engine, "probe"))
        (other,) = [engine for name, engine in engines.items() if name != home]
        engines[home].lose()

        def health():
            return server.ship("GET", f"/api/engines/{home}").json["health"]["status"]

        until(lambda: health() == "down")
        add(server, "second", "sensor")
        assert of_image(other, "sensor")
        assert not of_image(other, "probe")
        server.restart()
        until(lambda: health() == "down")
        add(server, "third", "gauge")
        assert not of_image(other, "probe")
        engines[home].come_back()
        until(lambda: health() == "up")
        add(server, "fourth", "meter")
        assert len(of_image(engines[home], "probe")) == 1
        assert not of_image(other, "probe")
    finally:
        server.stop()
        for engine in engines.values():
            engine.close()


def test_one_that_fails_is_tried_less_and_less(tmp_path):
    engine = FakeEngine()
    server = CloudProcess(tmp_path / "cloud").start()
    try:
        server.add_engine("a", engine.url)
        add(server, "lost", "missing/image")
        for name in ("x", "y", "z"):
            add(server, name)
        assert 1 <= len([image for image, _ in engine.pulls if image.startswith("missing/")]) < 4  # not at each look
    finally:
        server.stop()
        engine.close()
