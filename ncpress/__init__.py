"""The press: what turns chapters into a book, with the command `ncutil`. It imports none of the science.

`project` reads the clone, `parameters` what values its chapters take. `execution` runs what is stale, in `kernels`.
`pages` lays out the pages, with `verdicts` for the claims and the crosswalk; `rendering` makes and checks the site.
`comparison` holds one run against another.
"""

import sys

# nbformat imports jsonschema, and that this package where it is installed: it builds a grammar at its import, two
# seconds of every command, to check a kind of address that no notebook holds. None keeps it from being imported.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
