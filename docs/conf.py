"""Settings of the documentation site: `nox -s docs` builds it, and every warning is an error.

The API pages are made from the docstrings of whatever packages the workspace has, so none is typed here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from workspace import Package, Workspace

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "cdc"
copyright = "the contributors to the cdc toolkit"
html_title = "cdc: change data capture for Python"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_templates"]
# Docstrings write `name` as Markdown does.
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
nitpicky = True
# The site is built without a network, so the names of other projects' types lead nowhere. Ours must.
nitpick_ignore_regex = [(r"py:.*", r"(?!cdc_).*")]


def write_api_pages(folder: Path, packages: tuple[Package, ...]) -> None:
    """Write one page per package: what its `__init__` re-exports, then each module without an underscore."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for package in packages:
        modules = [name for name in package.modules() if not any(part[0] == "_" for part in name.split("."))]
        lines = [f"# {package.import_name}", ""]
        for module in modules:
            options = [":members:", ":show-inheritance:"]
            if module == package.import_name:
                options.append(":imported-members:")
            else:
                lines += [f"## {module}", ""]
            lines += ["```{eval-rst}", f".. automodule:: {module}"]
            lines += [*(f"   {option}" for option in options), "```", ""]
        (folder / f"{package.import_name}.md").write_text("\n".join(lines), encoding="utf-8")


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Lead a reference to `package._module.Name`, as annotations spell it, to the public `package.Name`."""
    target = str(node.get("reftarget", ""))
    parts = target.split(".")
    public = ".".join(part for part in parts if not part.startswith("_"))
    if node.get("refdomain") != "py" or public == target:
        return None
    domain = env.domains.python_domain
    document = str(node.get("refdoc", ""))
    for role in ("obj", "class", "data"):
        found = domain.resolve_xref(env, document, app.builder, role, public, node, content)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    """Write the API pages before Sphinx looks for documents, and mend references to private modules."""
    app.connect("missing-reference", resolve_public_name)
    write_api_pages(Path(app.srcdir) / "api", Workspace().packages)
