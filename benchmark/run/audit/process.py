"""The process that trains one model for an audit. It ends when its standard input does: with whoever started it."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmark.errors import UserError
from benchmark.run.audit import trainer


def again(asked: dict[str, str]) -> trainer.Trainer:
    """The trainer of `Trainer.asked`. Raises UserError."""
    if "file" in asked:
        return trainer.read(Path(asked["file"]))
    from benchmark.run.audit import by_protocol  # slow to import, and a user's own recipe does without

    return by_protocol.read(**asked)


def end_with_the_caller() -> None:
    """Wait for the end of standard input, and end."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Train one model as the JSON in the first argument says, and write its answers, or the line of an error."""
    threading.Thread(target=end_with_the_caller, daemon=True).start()
    asked = json.loads(sys.argv[1])
    sys.argv = [asked["trainer"].get("file", sys.argv[0])]
    try:
        made = again(asked["trainer"])
        if made.key != asked["key"]:
            raise UserError(f"{made.name}: expected it as it was when the audit began, given a changed one; run again")
        data = load_file(asked["data"])
        rows = load_file(asked["rows"])["rows"]
        found = made.answers(data, rows, asked["classes"], asked["seed"], asked["order"])
        save_file({"answers": found}, asked["answers"])
    except UserError as problem:
        Path(asked["error"]).write_text(str(problem), "utf-8")
        sys.exit(2)
