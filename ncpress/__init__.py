"""The press turns chapters into a book: it runs them, lays out their pages, and renders and checks the site.

The name is that of a printing press. A chapter comes in as text; a page with its results, its run box and its verdicts
comes out.

| module | what it does |
| --- | --- |
| `project` | reads the clone: chapters, parameters, profiles, contents |
| `parameters` | knows which values each parameter may have |
| `execution` | says which chapters are stale, runs them and keeps what they gave |
| `kernels` | starts the interpreter of the command as the kernel of a chapter |
| `pages` | lays out the pages: text from the source, outputs from the run |
| `verdicts` | writes the claims page, the crosswalk and the table of `ncutil claims` |
| `outputs` | shows verdicts and figure data, as renderers of MyST-NB |
| `assignments` | writes the table of problem sets |
| `benchmarks` | writes the page of benchmarks |
| `markup` | shows text of machines and persons as it is |
| `rendering` | renders the site with Jupyter Book, checks it and puts it in place |
| `comparison` | compares two runs, and publishes one |
| `sweeps` | computes long studies block by block |
| `wheels` | builds the two distributions as wheels, which the book offers |

`python -m ncpress`, installed as the command `ncutil`, is the command line. The press imports `ncutil.ground` and
`ncutil.evidence`, and no science; no chapter imports the press.
"""

import sys

# Where it is installed, jsonschema imports this package to check addresses that no notebook has, and it compiles a
# grammar at its import: two thirds of the time that a command of ours needs to start.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
