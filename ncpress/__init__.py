"""The press: what turns chapters into a book. It imports none of the science, and no chapter imports it.

`project` reads the clone, `skip` says what has to run, `run` executes it, `stage` lays out the pages, `ledger` writes
the claims page and the crosswalk, `render` makes and checks the site, `compare` holds one run against another.
"""
