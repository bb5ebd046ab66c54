"""A caller's form on its way in: read as it comes, and kept where it takes no memory, until its call is over.

The trap: whoever holds an upload of 25 MB, and mitmproxy does so by itself, holds as many as there are callers. Beyond
a few KiB the form lies in a file that has no name, so nothing is left of it however the gateway ends.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile, gettempdir

from loguru import logger

from wire.errors import Fault
from wire.multipart import Form, FormReader

IN_MEMORY = 256 * 1024
"""Bytes. A smaller form is not worth a file."""


class Spool:
    """One form. The constructor, add() and form() raise BadRequest where it is malformed, add() a Fault for want of
    room."""

    def __init__(self, content_type: str) -> None:
        self._reader: FormReader | None = FormReader(content_type)
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # lives as long as the call; see close()
        self.size = 0
        """Bytes so far."""

    def add(self, data: bytes) -> None:
        assert self._reader is not None
        self._reader.feed(data)
        try:
            self._file.write(data)
        except OSError as error:
            logger.error("no room for an upload in {}: {}", gettempdir(), error.strerror)
            raise Fault("The gateway has no room for this upload at the moment.") from None
        self.size += len(data)

    def form(self) -> Form:
        """The whole form, once."""
        reader, self._reader = self._reader, None
        assert reader is not None
        return reader.close()

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the body."""
        self._file.seek(start)
        return self._file.read(end - start)

    def close(self) -> None:
        """Gives the file up. May be called again."""
        self._reader = None
        self._file.close()
