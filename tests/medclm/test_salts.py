"""The user's own salt: made once, readable by nobody else, the same ever after."""

from __future__ import annotations

import stat

import pytest

from medclm.problems import DataError
from medclm.salts import read_salt, salt_file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_salt_is_made_once_and_for_its_owner_alone(tmp_path):
    salt = read_salt()
    assert len(salt) == 64 and read_salt() == salt
    assert salt_file() == tmp_path / "medclm" / "salt"
    assert stat.S_IMODE(salt_file().stat().st_mode) == 0o600
    assert [path.name for path in salt_file().parent.iterdir()] == ["salt"]


def test_two_users_have_two_salts(tmp_path, monkeypatch):
    salt = read_salt()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert read_salt() != salt


def test_own_file_is_read_and_never_made(tmp_path):
    (tmp_path / "mine").write_text("a salt of my own institute\n")
    assert read_salt(tmp_path / "mine") == "a salt of my own institute"
    with pytest.raises(DataError, match="expected a readable text file"):
        read_salt(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_short_salt_is_refused(tmp_path):
    (tmp_path / "short").write_text("pepper\n")
    with pytest.raises(DataError, match=r"expected at least 16 characters .* got 6"):
        read_salt(tmp_path / "short")
