"""Forms for tests, made byte by byte."""

from __future__ import annotations

from wire.multipart import Form, FormReader

BOUNDARY = "d74496d66958873e"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
WAV = (
    b"RIFF\x24\x7d\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00"
    b"data\x00\x7d\x00\x00" + bytes(range(256)) * 125
)
"""One second at 16 kHz: 44 bytes of header, 32000 bytes of sound."""
MP3 = b"\xff\xfb\x90\x00" + bytes(400)


def part(name: str, content: bytes | str, filename: str | None = None, **headers: str) -> bytes:
    """One part without its boundary; underscores in names of headers stand for dashes."""
    file = f'; filename="{filename}"' if filename is not None else ""
    lines = [f'Content-Disposition: form-data; name="{name}"{file}']
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    data = content.encode() if isinstance(content, str) else content
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def body(*parts: bytes, boundary: str = BOUNDARY, end: bytes = b"--\r\n") -> bytes:
    """A form of these parts."""
    mark = b"--" + boundary.encode()
    return b"".join(mark + b"\r\n" + one + b"\r\n" for one in parts) + mark + end


def read(raw: bytes, content_type: str = CONTENT_TYPE) -> Form:
    reader = FormReader(content_type)
    reader.feed(raw)
    return reader.close()


def recording(sound: bytes = WAV, /, **fields: str | list[str]) -> bytes:
    """A form with a recording, a model and these fields; a list is sent as several fields."""
    parts = [part("file", sound, "a.wav", Content_Type="audio/wav")]
    for name, value in ({"model": "whisper-1"} | fields).items():
        if isinstance(value, list):
            parts += [part(name, one) for one in value]
        else:
            parts.append(part(name, value))
    return body(*parts)
