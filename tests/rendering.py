"""What a terminal would show."""

import io

from rich.console import Console, RenderableType


def rendered(shown: RenderableType) -> str:
    """As text, without colours."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()
