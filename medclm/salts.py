"""The salt: what keeps hashed ids from being looked up, and what decides who is in which split.

One salt a user, made at random on first use and kept in the user's configuration folder, never in a set: whoever has a
set and not the salt cannot test whether a known patient is in it. The same salt gives the same hashes and the same
splits again, over every set, so keep the file as you keep the source's ids.
"""

from __future__ import annotations

import os
from pathlib import Path

from medclm.privacy import new_salt
from medclm.problems import DataError


def salt_file() -> Path:
    """``medclm/salt`` in the user's configuration folder (XDG)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medclm" / "salt"


def read_salt(path: Path | None = None) -> str:
    """The text of a salt file; the user's own (path None) is made where it is not there."""
    own, path = path is None, path or salt_file()
    if own and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"salt.{os.getpid()}")
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(new_salt() + "\n")
        try:
            os.link(made, path)  # the first of two processes wins
        except FileExistsError:
            pass
        finally:
            made.unlink()
    try:
        salt = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"salt file: expected a readable text file, got {path} ({error})") from None
    if len(salt) < 16:
        raise DataError(f"salt file: expected at least 16 characters in {path}, got {len(salt)}")
    return salt
