"""What a message carries beside its words: data URLs, base64, and files that are text.

The trap: apps write base64 in every way there is (in lines, in the alphabet for URLs, without its padding, percent-
encoded), OpenAI reads them all, and Ollama's decoder takes the plain one only. What is plain already is not copied.
"""

from __future__ import annotations

import binascii
from typing import Any
from urllib.parse import unquote

from wire.errors import BadRequest, Untranslatable

_MAX_HEAD = 512
"""Characters before the comma of a data URL."""
_TEXT_TYPES = frozenset(
    {
        "application/json",
        "application/ld+json",
        "application/x-ndjson",
        "application/jsonl",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/csv",
        "application/sql",
        "application/javascript",
        "application/x-javascript",
        "application/typescript",
        "application/x-sh",
        "application/x-python",
        "application/x-tex",
        "application/markdown",
    }
)
_SNIFFED = 4096
"""Characters of base64."""
_NO_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""Types that say nothing: the bytes themselves tell whether they are text."""
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_URL_ALPHABET = str.maketrans("-_", "+/")


def data_url(url: str) -> tuple[str, str] | None:
    """(media type in lower case, base64) of a data URL, whatever parameters it has; None for anything else."""
    comma = url.find(",", 0, _MAX_HEAD)
    if comma < 0 or url[:5].lower() != "data:":
        return None
    media_type, *parameters = (piece.strip() for piece in url[5:comma].lower().split(";"))
    return (media_type, url[comma + 1 :]) if "base64" in parameters else None


def plain_base64(text: str, param: str) -> str:
    """The same base64 in one line of the plain alphabet, with its padding; raises BadRequest where it is none."""
    return text if text and _is_plain(text) else _repaired(text, param)[0]


def _is_plain(text: str) -> bool:
    """Without decoding it, which takes three times as long."""
    if len(text) % 4 or not text.isascii():
        return False
    bare = text.encode().removesuffix(b"=").removesuffix(b"=")
    return not bare.translate(None, _ALPHABET)


def _decoded(text: str) -> bytes | None:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also of text that is not ASCII
        return None


def _repaired(text: str, param: str) -> tuple[str, bytes]:
    """Plain base64 and what it stands for."""
    bare = "".join(unquote(text).split()).translate(_URL_ALPHABET).rstrip("=")
    bare += "=" * (-len(bare) % 4)
    found = _decoded(bare)
    if not found:
        raise BadRequest(f"'{param}' is not valid base64.", param=param)
    return bare, found


def file_text(given: Any, where: str) -> str:
    """The text of a part's `file` object between two marks with its name, for models that read nothing but text.

    Raises Untranslatable with `param` for what is no text in UTF-8 and for files that were uploaded elsewhere.
    """
    match given:
        case {"file_data": str(data)}:
            pass
        case {"file_id": str()}:
            raise Untranslatable(
                f"'{where}.file.file_id': this model cannot fetch uploaded files. Send the file itself as 'file_data'.",
                param=f"{where}.file.file_id",
            )
        case _:
            raise Untranslatable(
                f"'{where}.file' needs the file itself as 'file_data', in base64.", param=f"{where}.file"
            )
    name = given.get("filename")
    name = name if isinstance(name, str) and name else "file"
    spot = f"{where}.file.file_data"
    known = data_url(data)
    media_type, encoded = known if known is not None else ("", data)
    is_text = _is_text_type(media_type)
    found = _repaired(encoded, spot)[1] if encoded and (is_text or media_type in _NO_TYPES) else b""
    text = _text(found) if found or is_text else None
    if text is None:
        kind = f" ({media_type})" if media_type else ""
        raise Untranslatable(
            f"'{spot}': this model reads files of text in UTF-8 only, and this is none{kind}.", param=spot
        )
    label = name.replace('"', "'").replace("\n", " ")
    return f'<file name="{label}">\n{text}\n</file>'


def file_chars(given: Any) -> int:
    """About the characters of a part's `file` object that a model reads as text: none of a PDF, an image, a sound.

    It is not decoded for that: of a type that says nothing the beginning is looked at.
    """
    match given:
        case {"file_data": str(data)}:
            pass
        case _:
            return 0
    known = data_url(data)
    media_type, encoded = known if known is not None else ("", data)
    if not _is_text_type(media_type) and not (media_type in _NO_TYPES and _begins_as_text(encoded)):
        return 0
    name = given.get("filename")
    return len(encoded) * 3 // 4 + (len(name) if isinstance(name, str) else 0)


def _is_text_type(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _TEXT_TYPES or media_type.endswith(("+json", "+xml"))


def _begins_as_text(encoded: str) -> bool:
    try:
        begins = _repaired(encoded[:_SNIFFED], "")[1]
    except BadRequest:
        return False  # it is refused where it is read
    # The last character may be cut in two.
    return any(_text(begins[: len(begins) - cut]) is not None for cut in range(4))


def _text(found: bytes) -> str | None:
    """None for bytes that are no text."""
    if found.startswith(b"%PDF-") or b"\0" in found:
        return None
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
