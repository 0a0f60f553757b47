"""Helper package of the companion to NCnet and neurashed.

The science (`chsh`, `ensembles`, `ncnet`), the evidence (`stats`, `figures`, `claims`) and the press that turns
chapters into a book (`ncutil.press`). Importing `ncutil` imports none of them.
"""

__version__ = "0.1.0"
