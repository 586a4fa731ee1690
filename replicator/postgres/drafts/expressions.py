"""Puts one expression in the place of a column in another."""

from replicator.postgres.statements import TOKEN, after_block


def in_place_of(text: str, column: str, put: str) -> str:
    """An expression in which a column that is named alone is another expression.

    :param put: it is put in as it is: in brackets, that is.
    """
    parts, at, before = list[str](), 0, ""
    while token := TOKEN.match(text, at):
        begin, at = at, token.end()
        if token["block"]:
            at = after_block(text, at)
        part = text[begin:at]
        named = part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() if token["word"] else None
        rest = text[at:].lstrip()
        alone = before not in (".", "::") and not rest.startswith((".", "("))
        parts.append(put if named == column and alone else part)
        if not part.isspace() and not token["comment"]:
            before = "::" if part == ":" else part
    return "".join(parts)
