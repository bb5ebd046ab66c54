"""Images that a request names by their URL, and what a file must begin with to be one that a model takes.

The trap: what a server says of a file's type is worth nothing. A page of an error, a GIF and an archive come as
`image/png` all the same, and a model that is sent one answers 500.
"""

from __future__ import annotations

import re

from wire.openai import ChatRequest

ENOUGH = 12
"""Bytes from which image_type() can tell."""
_REMOTE = re.compile(r"https?://", re.IGNORECASE)


def remote_images(request: ChatRequest) -> tuple[str, ...]:
    """The http(s) URLs of a request's images as they are written, each once, in order."""
    found: dict[str, None] = {}
    for message in request.body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            match part:
                case {"type": "image_url", "image_url": {"url": str(url)}} if _REMOTE.match(url):
                    found[url] = None
    return tuple(found)


def image_type(head: bytes) -> str | None:
    """The media type of a file that begins with these bytes; None where it is no image that we know.

    Of the types that we know, image/gif is one that no model here takes.
    """
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _MARKS.items() if head.startswith(mark)), None)


_MARKS: dict[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}
