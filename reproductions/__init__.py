"""One small program for each claim of the lecture notes that polyak keeps: `python -m reproductions.NAME --row ID`.

`rows.toml` says which claims these are and how each is checked, `rows_of_the_notes.toml` lists all of them. A check
measures; it never looks a result up. `python -m reproductions.rows` (`make rows`) runs them.
"""
