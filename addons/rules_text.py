"""Changes to the text of a rules file that leave all else as it stands: comments, quotes, spaces, ends of lines.

A YAML library that writes a file writes all of it, in its own hand: even one that keeps comments puts `ollama:   {...}`
close together and breaks long lines anew. So a change is made in the text itself, at the characters that YAML's nodes
say; what comes of it is read again and must say just what was meant, and nothing else, or there is no change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

CLIENTS = "clients"
_EXAMPLE = re.compile(r"^#[ \t]*clients:[^\r\n]*(\r?\n#[^\r\n]*)*", re.MULTILINE)
"""Clients that are written out as a comment: the first real one stands best below."""


_HOW = "the client is written in a way that cannot be changed here, with an alias perhaps"


class CannotChange(ValueError):
    """The text is written in a way that nothing is changed in; the message says how."""


def with_key(text: str, client: str, digest: str) -> str:
    """The text of a sound rules file with one more key for a client, who need not be there yet. Raises CannotChange."""
    return _checked(text, _with_key(text, client, json.dumps(digest)), client, [*keys_in(text, client), digest])


def without_keys(text: str, client: str, gone: Callable[[str], bool]) -> str:
    """The text without those keys of a client that are `gone`, as far as it spells them. Raises CannotChange.

    The client stays, as one that nobody can be: its limits and its tags are for whoever gets the next key. Of `key` and
    `keys` what is empty then goes as well.
    """
    left = [kept for key in keys_in(text, client) if (kept := _kept(key, gone))]
    changed = text
    try:
        while (once := _without_one(changed, client, gone)) != changed:
            changed = once
    except yaml.YAMLError:
        raise CannotChange(_HOW) from None
    return _checked(text, changed, client, left)


def keys_in(text: str, client: str) -> list[str]:
    """A client's keys as the text spells them, with their variables; empty ones are none."""
    row = _row(_plain(_root(text)), client)
    found = [row.get("key"), *(keys if isinstance(keys := row.get("keys"), list) else [keys])]
    return [value for value in found if isinstance(value, str) and value]


def _with_key(text: str, client: str, digest: str) -> str:
    root = _root(text)
    clients = _pair(root, CLIENTS)
    if clients is None or _is_nothing(clients[1]):
        return _with_section(text, root, clients, client, digest)
    if not isinstance(clients[1], yaml.MappingNode):
        raise CannotChange("`clients` is no mapping")
    row = _pair(clients[1], client)
    if row is None:
        return _with_pair(text, clients[1], client, f"{{{_like(clients[1], 'key')}: {digest}}}")
    if not isinstance(row[1], yaml.MappingNode):
        raise CannotChange(f"the client {client} is no mapping")
    keys, key = _pair(row[1], "keys"), _pair(row[1], "key")
    if keys is not None:
        return _with_item(text, keys[1], digest)
    if key is None:
        return _with_pair(text, row[1], "key", digest)
    if not key[1].value:
        return _replaced(text, key[1], digest)
    return _with_pair(text, row[1], "keys", f"[{digest}]")


def _with_section(
    text: str, root: yaml.MappingNode, clients: tuple[yaml.Node, yaml.Node] | None, client: str, digest: str
) -> str:
    """The first client of a file."""
    inner = f"{client}: {{key: {digest}}}"
    end = _line_end(text)
    if root.flow_style:
        quoted = f"{_like(root, client)}: {{{_like(root, 'key')}: {digest}}}"
        if clients is not None:
            return _replaced(text, clients[1], f"{{{quoted}}}")
        return _with_pair(text, root, CLIENTS, f"{{{quoted}}}")
    margin = " " * root.start_mark.column
    if clients is not None:
        if isinstance(clients[1], yaml.MappingNode):
            return _replaced(text, clients[1], f"{{{inner}}}")
        if clients[1].value:  # null, spelled out
            return _replaced(text, clients[1], f"{{{inner}}}")
        return _inserted(text, _after_line(text, clients[0].end_mark.index), f"{end}{margin}  {inner}")
    section = f"{margin}clients:{end}{margin}  {inner}"
    example = _EXAMPLE.search(text)
    if example is not None:
        return _inserted(text, example.end(), f"{end}{section}")
    proxy = _pair(root, "proxy")
    return _inserted(text, _after_line(text, _end(text, proxy[1] if proxy else root)), f"{end}{end}{section}")


def _with_pair(text: str, mapping: yaml.MappingNode, key: str, value: str) -> str:
    """One more pair at the end of a mapping, in the mapping's own style."""
    pair = f"{_like(mapping, key)}: {value}"
    if not mapping.value:
        return _replaced(text, mapping, f"{{{pair}}}")
    last = _end(text, mapping.value[-1][1])
    if mapping.flow_style:
        return _inserted(text, last, f", {pair}")
    margin = " " * mapping.value[0][0].start_mark.column
    return _inserted(text, _after_line(text, last), f"{_line_end(text)}{margin}{pair}")


def _with_item(text: str, keys: yaml.Node, digest: str) -> str:
    if isinstance(keys, yaml.ScalarNode):
        spelled = text[keys.start_mark.index : keys.end_mark.index]
        return _replaced(text, keys, f"[{spelled}, {digest}]" if keys.value else f"[{digest}]")
    if not isinstance(keys, yaml.SequenceNode):
        raise CannotChange("`keys` is no list")
    if not keys.value:
        return _replaced(text, keys, f"[{digest}]")
    last = _end(text, keys.value[-1])
    if keys.flow_style:
        return _inserted(text, last, f", {digest}")
    margin = " " * keys.start_mark.column
    return _inserted(text, _after_line(text, last), f"{_line_end(text)}{margin}- {digest}")


def _without_one(text: str, client: str, gone: Callable[[str], bool]) -> str:
    """The text without the first key that is gone; the same text where there is none."""
    clients = _pair(_root(text), CLIENTS)
    row = _pair(clients[1], client) if clients is not None else None
    for name in ("key", "keys"):
        pair = _pair(row[1], name) if row is not None else None
        if row is None or pair is None:
            continue
        items = pair[1].value if isinstance(pair[1], yaml.SequenceNode) else [pair[1]]
        for place, item in enumerate(items):
            if not isinstance(item, yaml.ScalarNode) or (kept := _kept(item.value, gone)) == item.value:
                continue
            if kept:
                return _replaced(text, item, json.dumps(kept))
            if isinstance(pair[1], yaml.SequenceNode) and len(items) > 1:
                return _without_item(text, pair[1], place)
            return _without_pair(text, row, pair)
    return text


def _without_pair(text: str, row: tuple[yaml.Node, yaml.Node], pair: tuple[yaml.Node, yaml.Node]) -> str:
    """The text without a pair of a client's row. Comments on lines of their own stay."""
    pairs = row[1].value
    key, value = pair
    if isinstance(row[1], yaml.MappingNode) and row[1].flow_style:
        if len(pairs) == 1:
            return _replaced(text, row[1], "{}")
        return _without_member(
            text, [(one.start_mark.index, _end(text, other)) for one, other in pairs], pairs.index(pair)
        )
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        (last,) = value.value
        changed = _without_lines(text, last.start_mark.index, _end(text, last))
        changed = _without_lines(changed, key.start_mark.index, key.end_mark.index)
    else:
        changed = _without_lines(text, key.start_mark.index, _end(text, value))
    return changed if len(pairs) > 1 else _inserted(changed, text.index(":", row[0].end_mark.index) + 1, " {}")


def _without_item(text: str, keys: yaml.SequenceNode, place: int) -> str:
    """The text without one of several keys."""
    spans = [(item.start_mark.index, _end(text, item)) for item in keys.value]
    return _without_member(text, spans, place) if keys.flow_style else _without_lines(text, *spans[place])


def _without_member(text: str, spans: list[tuple[int, int]], place: int) -> str:
    """The text without one of several members between brackets or braces, and without its comma."""
    if place:
        return text[: spans[place - 1][1]] + text[spans[place][1] :]
    return text[: spans[0][0]] + text[spans[1][0] :]


def _without_lines(text: str, start: int, end: int) -> str:
    """The text without the lines from one place to another."""
    after = min(_after_line(text, end) + len(_line_end(text)), len(text))
    return text[: text.rfind("\n", 0, start) + 1] + text[after:]


def _kept(key: str, gone: Callable[[str], bool]) -> str:
    """What is left of a text with keys and commas between. What comes from a variable stays."""
    if "${" in key:
        return key
    parts = [part.strip() for part in key.split(",")]
    return ",".join(part for part in parts if part and not gone(part)) if any(map(gone, parts)) else key


# -- nodes and places


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise CannotChange("it is no mapping")
    return root


def _pair(mapping: yaml.Node, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = mapping.value if isinstance(mapping, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == key), None)


def _is_nothing(node: yaml.Node) -> bool:
    return not node.value or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"))


def _like(mapping: yaml.MappingNode, key: str) -> str:
    """A key as the others of the mapping are written: JSON wants quotes."""
    quoted = bool(mapping.value) and mapping.value[0][0].style == '"'
    return json.dumps(key) if quoted else key


def _end(text: str, node: yaml.Node) -> int:
    """Where a node ends. YAML has a block end only where the next thing begins, past blank lines and comments."""
    end = int(node.end_mark.index)
    if isinstance(node, yaml.ScalarNode):
        return len(text[:end].rstrip()) if node.style in ("|", ">") else end
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return end
    last = node.value[-1]
    return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)


def _after_line(text: str, place: int) -> int:
    """The end of the line on which a place is, its comment included, without the line's own end."""
    found = re.compile(r"[^\r\n]*").match(text, place)
    assert found is not None
    return found.end()


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _inserted(text: str, place: int, new: str) -> str:
    return text[:place] + new + text[place:]


def _replaced(text: str, node: yaml.Node, new: str) -> str:
    end = _end(text, node) if isinstance(node, yaml.ScalarNode) else node.end_mark.index
    return text[: node.start_mark.index] + new + text[end:]


# -- what a text says


def _plain(node: yaml.Node) -> Any:
    match node:
        case yaml.MappingNode():
            return {key.value: _plain(value) for key, value in node.value}
        case yaml.SequenceNode():
            return [_plain(item) for item in node.value]
        case _:
            return node.value


def _row(plain: Any, client: str) -> dict[str, Any]:
    clients = plain.get(CLIENTS)
    row = clients.get(client) if isinstance(clients, dict) else None
    return row if isinstance(row, dict) else {}


def _checked(before: str, after: str, client: str, keys: list[str]) -> str:
    """The changed text, where it has these keys for the client and is otherwise what it was."""
    try:
        sound = keys_in(after, client) == keys and _rest(before, client) == _rest(after, client)
    except yaml.YAMLError:
        sound = False
    if not sound:
        raise CannotChange(_HOW)
    return after


def _rest(text: str, client: str) -> Any:
    """All that a text says but for the keys of one client."""
    plain = _plain(_root(text))
    row = _row(plain, client)
    row.pop("key", None)
    row.pop("keys", None)
    clients = plain.get(CLIENTS)
    if isinstance(clients, dict) and not row:
        clients.pop(client, None)
    if not plain.get(CLIENTS) or plain[CLIENTS] in ("~", "null"):
        plain.pop(CLIENTS, None)
    return plain
