"""The book's Sphinx extension: mathematics without a network, a quiet console, and repairs to what the theme writes."""

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
    """Take out thebe, which Jupyter Book loads twice (an error on the console), and repair roles, figures and names."""

    def is_thebe(file):
        return "thebe" in str(getattr(file, "filename", file)) + str(getattr(file, "attributes", {}).get("body", ""))

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not is_thebe(file)]
    # Docutils writes the viewport too.
    context["metatags"] = re.sub(r'<meta name="viewport"[^>]*>\s*', "", context.get("metatags", ""))
    if "body" in context:
        pattern = r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>'
        body = re.sub(pattern, "", context["body"], flags=re.DOTALL)
        # A list may only hold list items; the entries of a bibliography have a role of their own.
        body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        if app.builder.name == "html":
            # A figure with a width of its own is a link to its picture. Every figure becomes one: a link takes the
            # keyboard's focus, and then a wide figure can be moved with the arrow keys.
            picture = r'(<figure\b[^>]*>\s*)(<img\b[^>]*\bsrc="([^"]+)"[^>]*>)'
            body = re.sub(picture, r'\1<a class="reference internal image-reference" href="\3">\2</a>', body)
        context["body"] = body
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = named(context["generate_toctree_html"])


def named(toctree):
    """Give a name to the switches that fold a chapter's pages in the contents: a screen reader reads it out."""

    def written(*words, **options):
        found = toctree(*words, **options)
        return str(found).replace("<summary>", '<summary aria-label="Pages of this chapter">') if found else found

    return written


def mend_singlehtml(app):
    """Add the handlers for HTML to those for single-page HTML, which sphinx-exercise registers for itself alone."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


QUIET = """// The theme and a button print lines on the console of every page.
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
