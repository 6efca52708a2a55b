"""Show labels as text: what a file calls its cells may be written to be taken for more."""

import unicodedata


def printable(text: str) -> str:
    r"""Return a label that no page, picture or terminal takes for more than text: control characters as ``\x1b``.

    Markup is left as it is: give the result to something that reads none, such as ``rich.text.Text``.
    """
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )
