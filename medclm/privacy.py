"""Names of patients, studies and files leave as keyed hashes, and in no other form."""

from __future__ import annotations

import hashlib
import secrets


def new_salt() -> str:
    """For one set or one institution, kept apart from the data: who has it can test guesses of an id."""
    return secrets.token_hex(32)


def hashed(*parts: str, salt: str) -> str:
    """32 hexadecimal digits of BLAKE2b keyed with the salt. Parts are told apart: ("a", "bc") is not ("ab", "c").

    Raises ValueError for an empty salt: patients' ids are few enough to try them all.
    """
    if not salt:
        raise ValueError("salt: expected a secret, got an empty text")
    key = hashlib.blake2b(salt.encode()).digest()  # a salt of any length into the 64 bytes of a key
    state = hashlib.blake2b(key=key, digest_size=16)
    for part in parts:
        raw = part.encode()
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()
