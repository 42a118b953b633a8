"""hypercloud's configuration: the example has every key with its default, mistakes are named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hypercloud.config.load import load
from hypercloud.config.model import Config
from hypercloud.errors import InvalidInput

EXAMPLE = Path(__file__).resolve().parents[2] / "configs/hypercloud.toml"


def test_the_example_is_the_default():
    assert load(EXAMPLE) == Config()


def test_the_example_names_every_key():
    text = EXAMPLE.read_text(encoding="utf-8")
    for section in (Config, *(type(getattr(Config(), field.name)) for field in dataclasses.fields(Config))):
        if dataclasses.is_dataclass(section):
            for field in dataclasses.fields(section):
                assert f"{field.name} = " in text or f"[{field.name}]" in text, field.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threads = true", "threads"),
        ("hosts = []", "hosts is empty"),
        ('hosts = ["http://x"]', "hosts must be"),
        ("nonsense = 1", "nonsense"),
        ("[engines]\nnonsense = 1", "engines.nonsense"),
        ('[engines]\nnetworks = ["300.0.0.0/8"]', "engines.networks"),
        ('[tls]\ncert = "/x"', "tls.cert and tls.key"),
        ("[login]\nattempts = 0", "login.attempts"),
        ('[organisations]\n"A B" = []', "organisation"),
        ("= nothing", "cannot read"),
    ],
)
def test_mistakes_are_named(tmp_path, text, said):
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=said):
        load(tmp_path / "c.toml")


def test_the_command_line_wins(tmp_path):
    (tmp_path / "c.toml").write_text('log_level = "debug"', encoding="utf-8")
    assert load(tmp_path / "c.toml", {"log_level": "error", "root": None}).log_level == "error"
