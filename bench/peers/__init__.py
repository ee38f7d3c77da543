"""Other libraries, each with the calls of it that do a row's work, or a part of it.

They are imported where they are used: one that is missing or does not run here is a line of the table.
``pip install -e '.[peers]'`` brings them, and so does ``make bench PEERS=1``.
"""
