"""What the program offers and says, for the documentation to be held against it."""

import ast
import re

from tests.acceptance.terminal import ROOT
from tests.command_line import commands

COMMANDS = commands()


def options(command: str) -> set[str]:
    return {name for each in COMMANDS[command].params for name in each.opts if name.startswith("--")} - {"--help"}


def said() -> str:
    """Every text in the program, with … for what it fills in; and the errors of its SQL."""
    texts = []
    for file in (ROOT / "replicator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
                )
    control = (ROOT / "replicator" / "postgres" / "control" / "control.sql").read_text()
    control = re.sub(r"--.*", "", control)  # an apostrophe in a comment ends no text
    texts += [each.replace("%.%", "…").replace("%", "…") for each in re.findall(r"'([^']+)'", control)]
    return re.sub(r"…(\.…)+", "…", "\n".join(texts))  # a dotted name is one thing
