"""Settings of the documentation site: `nox -s docs` builds it, and every warning is an error.

The API pages are made from the docstrings of whatever packages the workspace has, so none is typed here.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from api_pages import is_type_variable, write_api_pages
from workspace import Workspace

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "cdc"
copyright = "the contributors to the cdc toolkit"
html_title = "cdc: change data capture for Python"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Docstrings write `name` as Markdown does.
default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# An "Attributes:" section would otherwise describe each field a second time.
napoleon_use_ivar = True
python_use_unqualified_type_names = True
nitpicky = True
# The site is built without a network, so the names of other projects' types lead nowhere. Ours must.
nitpick_ignore_regex = [(r"py:.*", r"(?!cdc_).*")]


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Lead a reference to `package._module.Name`, as annotations spell it, to the public `package.Name`.

    A private name, or a type variable, stays plain text. A type that is neither private nor re-exported, but in
    a public signature, is a dead reference: users could not name what they are given.
    """
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target.startswith("cdc_"):
        return None
    package, _, name = target.partition(".")
    if name.rpartition(".")[2].startswith("_") or is_type_variable(target):
        return content
    # Without its private modules, or straight in the package where a public module defines it.
    shown = [part for part in name.split(".") if not part.startswith("_")]
    for public in (".".join([package, *shown]), f"{package}.{shown[-1]}"):
        domain = env.domains.python_domain
        found = domain.resolve_xref(env, str(node.get("refdoc")), app.builder, "obj", public, node, content)
        if found is not None:
            return found
    return None


def hide_private_constructor(
    app: Sphinx,
    what: str,
    name: str,
    value: object,
    options: object,
    signature: str | None,
    return_annotation: str | None,
) -> tuple[str, str | None] | None:
    """Leave out how to make what users are given and cannot make: a parameter's type is none that they could name."""
    if what == "class" and signature and not dataclasses.is_dataclass(value):
        for package, target in re.findall(r"\b(cdc_\w+)(?:\.\w+)*\._\w+\.(\w+)", signature):
            if not hasattr(importlib.import_module(package), target):
                return "", return_annotation
    return None


def setup(app: Sphinx) -> None:
    """Write the API pages before Sphinx looks for documents, and mend references to private modules."""
    app.connect("autodoc-process-signature", hide_private_constructor)
    app.connect("missing-reference", resolve_public_name)
    write_api_pages(Path(app.srcdir) / "api", Workspace().packages)
