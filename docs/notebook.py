"""The notebook of the documentation: run again, `python -m docs.notebook`, and shown as a page of the site."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("audit.ipynb")
PAGE = "notebook.md"


def markdown() -> str:
    """The notebook as Markdown: its cells, with what they printed and drew."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += map(_shown, cell.get("outputs", []))
    first, rest = parts[0], parts[1:]
    about = f"This page is [a notebook]({NOTEBOOK.name}), to be run in Jupyter."
    return "\n\n".join([first, about, *rest]) + "\n"


def _shown(output: dict[str, Any]) -> str:
    if picture := output.get("data", {}).get("image/png"):
        return f'<img alt="What the cell above draws" src="data:image/png;base64,{"".join(picture).strip()}">'
    return f"```text\n{text_of(output).rstrip()}\n```"


def text_of(output: dict[str, Any]) -> str:
    """An output as plain text."""
    return "".join(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])


def run() -> dict[str, Any]:
    """The notebook with the outputs of a run in a fresh kernel, in a folder of its own. Raises what a cell raises."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = (
        os.environ
        | {
            "PYTHONWARNINGS": "ignore:IProgress",  # tqdm would like ipywidgets, and says so
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # Jupyter's, whatever this process was told to draw with
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        # Neither times nor the version of Python are kept: they would change with every run.
        client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    notebook.metadata["language_info"] = {"name": "python"}
    found: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return found


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(run(), indent=1, ensure_ascii=False) + "\n", "utf-8")
