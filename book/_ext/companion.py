"""The book's Sphinx extension: mathematics without a network, a quiet console, labels that the theme forgot."""

import re
from importlib import util
from pathlib import Path
from shutil import copyfile

MATHJAX = "tex-svg-full.js"


def ship_mathjax(app, exception):
    """Copy MathJax into the site: one file with every TeX extension and no fonts to fetch."""
    if exception is None and app.builder.format == "html":
        package = Path(util.find_spec("sphinx-mathjax-offline").origin).parent
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        copyfile(package / "static" / "mathjax" / MATHJAX, target / MATHJAX)


def mend_page(app, pagename, templatename, context, doctree):
    """Take out thebe, which Jupyter Book loads always and twice (an error on the console), and mend a role."""

    def is_thebe(file):
        return "thebe" in str(getattr(file, "filename", file)) + str(getattr(file, "attributes", {}).get("body", ""))

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not is_thebe(file)]
    if "body" in context:
        pattern = r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>'
        body = re.sub(pattern, "", context["body"], flags=re.DOTALL)
        # A list may only hold list items; the entries of a bibliography have a role of their own.
        body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        if app.builder.name == "html":
            # Every figure opens in full, as those with a width of their own do anyway; so the keyboard gets there too.
            picture = r'(<figure\b[^>]*>\s*)(<img\b[^>]*\bsrc="([^"]+)"[^>]*>)'
            body = re.sub(picture, r'\1<a class="reference internal image-reference" href="\3">\2</a>', body)
        context["body"] = body
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = named(context["generate_toctree_html"])


def named(toctree):
    """The switches that fold a chapter's pages away in the contents get a name for those who don't see them."""

    def written(*words, **options):
        found = toctree(*words, **options)
        return str(found).replace("<summary>", '<summary aria-label="Pages of this chapter">') if found else found

    return written


def mend_singlehtml(app):
    """sphinx-exercise's handlers for single-page HTML hide everyone else's handlers for HTML."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


QUIET = """// The theme announces itself on the console; a reader's console is the reader's.
(() => {
  const log = console.log;
  console.log = (...words) => /^\\[(PST|togglebutton)\\]/.test(words[0]) || log(...words);
})();"""


def setup(app):
    app.add_js_file(None, body=QUIET, priority=1)
    app.config.mathjax_path = f"mathjax/{MATHJAX}"
    # A single page has its mathematics on pages that are no longer files of their own.
    app.set_html_assets_policy("always")
    app.connect("builder-inited", mend_singlehtml)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("build-finished", ship_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
