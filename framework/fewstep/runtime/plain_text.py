"""One rule for all text that is read, from files, tables and prompts.

Text is UTF-8. A byte order mark at the beginning of a file is no part of it, and every line break is LF: CRLF and CR
alone are read as LF.
"""

from __future__ import annotations

RULE = "UTF-8 without a byte order mark; CRLF and CR are read as LF"
"""The rule in words, for manifests."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def plain_text(text: str) -> str:
    """A text with LF as its only line break."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def decoded_file(content: bytes) -> str:
    """The text of a whole file.

    Raises:
        UnicodeDecodeError: the bytes are not UTF-8.
    """
    return plain_text(content.decode("utf-8").removeprefix("\ufeff"))
