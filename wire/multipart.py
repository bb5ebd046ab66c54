"""multipart/form-data as it comes in: what its fields say, and where in the body everything lies.

The body itself is kept elsewhere and sent on as it came: only the bytes of a field's value are ever replaced. The trap:
the parser gives the bytes of a value in pieces, and those that looked like the beginning of a boundary come out of its
own memory, so a position in the body is not the position in the data at hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from wire.errors import BadRequest

MAX_PARTS = 128
"""Fields and files. OpenAI's largest form has some thirty."""
MAX_HELD = 1024 * 1024
"""Bytes of text that are held, of all fields together. Longer ones are sent on unread."""
MAX_HEADERS = 16
"""Of one part."""
MAX_HEADER = 4096
"""Bytes of one header of a part."""
HEAD = 64
"""Bytes of a file's beginning, by which its kind is known."""

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046 section 5.1.1."""
_TOKEN = re.compile(r"[0-9A-Za-z'+_.-]+")
"""What needs no quotes in a header."""


@dataclass(frozen=True, slots=True)
class Part:
    """A field or a file. `start` and `end` are where its content lies in the body."""

    name: str
    start: int
    end: int
    text: str | None = None
    """What a field says; None for a file, and for a text that was too long to be held."""
    is_file: bool = False
    head: bytes = b""
    """The first bytes of a file."""

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Form:
    """A whole form."""

    boundary: str
    parts: tuple[Part, ...]
    size: int
    """Bytes of the whole body."""

    @property
    def content_type(self) -> str:
        """Its header, written anew."""
        boundary = self.boundary if _TOKEN.fullmatch(self.boundary) else f'"{self.boundary}"'
        return f"multipart/form-data; boundary={boundary}"


def is_form(content_type: str) -> bool:
    """Whether a body of this type is read here."""
    return content_type.lower().lstrip().startswith("multipart/")


class FormReader:
    """Reads one form: feed() takes its bytes in any pieces, close() gives the form. Both raise BadRequest."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise BadRequest("The request must be multipart/form-data; other kinds of multipart are not read here.")
        boundary = options.get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise BadRequest("The content-type header of the request names no boundary that a form can have.")
        self._boundary = boundary.decode("ascii")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._form_end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )
        self._parts: list[Part] = []
        self._size = 0
        """Bytes of the body before the piece at hand."""
        self._piece = b""
        self._ended = False
        self._held = 0
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._is_file = False
        self._start: int | None = None
        self._length = 0
        self._content = bytearray()
        """What is held of the part at hand."""

    def feed(self, data: bytes) -> None:
        self._piece = data
        try:
            self._parser.write(data)
        except FormParserError as error:
            where = self._size + max(getattr(error, "offset", 0), 0)
            raise BadRequest(
                f"The multipart form is malformed at byte {where}: part {len(self._parts) + 1} cannot be read."
            ) from None
        self._size += len(data)

    def close(self) -> Form:
        self._parser.callbacks = {}  # the parser and the reader hold one another
        if not self._ended:
            raise BadRequest("The multipart form is not complete: its last boundary is missing.")
        return Form(self._boundary, tuple(self._parts), self._size)

    def _begin(self) -> None:
        if len(self._parts) >= MAX_PARTS:
            raise BadRequest(f"The multipart form has more than {MAX_PARTS} parts.")
        self._headers.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        where = f"part {len(self._parts) + 1} of the multipart form"
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(disposition)
        try:
            name = options.get(b"name", b"").decode()
        except UnicodeDecodeError:
            raise BadRequest(f"The name of {where} is not UTF-8.") from None
        if kind != b"form-data" or not name:
            raise BadRequest(f"There is no name on {where}: its content-disposition must be form-data with a name.")
        coding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if coding not in (b"binary", b"8bit", b"7bit"):
            raise BadRequest(f"'{name[:64]}' is encoded; send the bytes of {where} as they are.", param=name[:64])
        self._name = name
        self._is_file = b"filename" in options
        self._start, self._length = None, 0
        self._content.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._start is None:
            # What is not of this piece looked like a boundary, and lies just before it.
            self._start = self._size + (start if data is self._piece else start - end)
        self._length += end - start
        if self._is_file:
            if len(self._content) < HEAD:
                self._content += data[start : min(end, start + HEAD - len(self._content))]
        else:
            self._content += data[start : min(end, start + MAX_HELD + 1 - self._held - len(self._content))]

    def _end(self) -> None:
        start = self._start or 0
        text: str | None = None
        if not self._is_file and len(self._content) == self._length and self._held + self._length <= MAX_HELD:
            self._held += self._length
            try:
                text = self._content.decode()
            except UnicodeDecodeError:
                raise BadRequest(f"'{self._name[:64]}' is not UTF-8 text.", param=self._name[:64]) from None
        head = bytes(self._content) if self._is_file else b""
        self._parts.append(Part(self._name, start, start + self._length, text, self._is_file, head))

    def _form_end(self) -> None:
        self._ended = True
