"""The client of an engine."""

from __future__ import annotations

import pytest
import requests
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError

from hypercloud.config.model import EnginesConfig
from hypercloud.engine import client
from hypercloud.engine.address import Policy
from hypercloud.engine.client import translated
from hypercloud.engine.model import EngineSpec
from hypercloud.errors import EngineUnreachable
from tests.support.docker_engine import FakeEngine


def test_a_silent_pull_ends(monkeypatch):
    monkeypatch.setattr(client, "PULL_SILENCE", 0.3)
    engine, config = FakeEngine(), EnginesConfig()
    made = client.EngineClient(EngineSpec(id="e", name="e", addr=engine.url, cpus=0, memory=0), config, Policy(config))
    try:
        engine.hold = "POST /images/create"
        with pytest.raises(EngineUnreachable, match="does not answer"):
            list(made.pull("large"))
        engine.hold = ""
        monkeypatch.setattr(client, "PULL_SILENCE", 60)
        said = [line["status"] for line in made.pull("small", {"username": "a", "password": "b"})]
        assert said == ["Pulling from small", "Downloading", "Pull complete"]
        assert engine.pulls[-1][0] == "small:latest"
        assert engine.pulls[-1][1]
    finally:
        engine.hold = ""
        made.close()
        engine.close()


def test_an_address_where_nobody_answers():
    """The reason is words, and no Python object."""
    reason = ConnectTimeoutError(object(), "Connection to 10.0.0.1 timed out. (connect timeout=3.0)")
    error = requests.ConnectTimeout(MaxRetryError(object(), "/_ping", reason))
    with pytest.raises(EngineUnreachable) as caught, translated("far"):
        raise error
    assert caught.value.details == "Connection to 10.0.0.1 timed out. (connect timeout=3.0)"
