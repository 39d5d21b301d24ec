"""Finding and replacing top-level keys in raw JSON, without writing the rest anew (PROTOCOL.md, "Splicing the model name").

Every other byte of a body stays as it came, and a duplicate key never steers: parsers silently take the last one, `"mod\\u0065l"`
included, so that two readers of one body could see two models. Two ways, both exact:

- **The walk.** A decoder gives the top level's keys and raw values in order. If walking these over the body, allowing blanks and
  one comma or colon where JSON has them, matches every byte to the end, then that walk is *a* parse of the body; JSON's grammar
  is unambiguous, so it is *the* parse. A dict's keys are distinct, hence no top-level key is there twice, each is written
  plainly, and the value spans are known. One decode (which skips at 3 GB/s) and one comparison.
- **The markers**, where the walk fails (some key is there twice or escaped, or the body is too dense for a dict): every place
  that looks like `"key":` gets its own number as a value, in front of the real one, and the number that a decoder then sees
  names the top-level one. With that one renamed, a decoder that still sees the key has found another: 400.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec

from gateway.errors import ClientError
from gateway.wire.sse import BOM, event_data

# A dict of three million raw values took 630 MB and 1.7 s, so that a body of nothing but members must not become one. A megabyte
# holds 100,000 members; above, commas bound their number. Real bodies of many megabytes are text or base64, with few of them.
DENSE_BYTES_MIN = 1_048_576
DENSE_COMMAS_MAX = 100_000
# Looked at one by one, only where the walk failed. A real body has tens; four million of them would take a second.
PLACES_MAX = 10_000

Span = tuple[int, int]

_BLANKS = re.compile(rb"[ \t\n\r]*")
_COLON = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_COMMA = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")
_CLOSE = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*")
_OPEN = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*\{[ \t\n\r]*")
# A key with one of these was written with an escape, and its text is no token as it stands.
_NOT_PLAIN = re.compile(r'["\\]')
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Member(NamedTuple):
    """A top-level value: its bytes, and where they begin."""

    value: bytes
    start: int

    @property
    def span(self) -> Span:
        return self.start, self.start + len(self.value)


def find_value(body: bytes, key: str) -> Span | None:
    """The span of the value of the top-level `key`, None if it is not there.

    Raises ClientError (invalid_request, param=key) if the key is there twice or spelled with escapes, or the body is no JSON
    object.
    """
    members = find_members(body)
    if members is None:
        return _find_by_markers(body, key)
    return members[key].span if key in members else None


def find_single_value(body: bytes, key: str) -> Span | None:
    """As `find_value`, cheaper for small bodies in which the key's letters stand once: an OpenAI chunk and its model."""
    name = b'"' + key.encode() + b'"'
    # One token that spells the key, and no escape that could spell it otherwise (see `reject_duplicates`): if a decoder sees the
    # key at the top level, that token is it.
    if body.count(name) != 1 or _ESCAPED_LETTER.search(body):
        return _find_by_markers(body, key)
    seen = _value_of(body, key)
    if seen is None:
        return None
    colon = _COLON.match(body, body.index(name) + len(name))
    assert colon is not None, "the decoder saw a key"
    return colon.end(), colon.end() + len(seen)


def replace_value(body: bytes, key: str, json_bytes: bytes) -> bytes:
    """`body` with another value at the top-level `key`; unchanged if the key is not there. Raises as `find_value`."""
    span = find_value(body, key)
    return body if span is None else body[: span[0]] + json_bytes + body[span[1] :]


def insert_first(body: bytes, key: str, json_bytes: bytes) -> bytes:
    """`body` with `"key":value` as its first member. The caller knows that `key` is not there yet."""
    opening = _OPEN.match(body)
    if opening is None:
        raise _not_an_object()
    comma = b"" if body.startswith(b"}", opening.end()) else b","
    at = body.index(b"{") + 1
    return body[:at] + b'"' + key.encode() + b'":' + json_bytes + comma + body[at:]


def reject_duplicates(body: bytes, keys: Iterable[str]) -> None:
    """Raises ClientError (param=key) if one of `keys` is twice at the top level, in any spelling, or there with escapes."""
    if find_members(body) is not None:
        return
    for key in keys:
        # A key is a string token that spells these letters. Without an escape it is the bytes `"key"`, and two tokens are two
        # places. With one, at least one letter or underscore (U+0041 to U+007A) is written \u0041 to \u007a: no short escape
        # stands for any of them. So one plain place and no such escape is one key at most, at whatever depth.
        if body.count(b'"' + key.encode() + b'"') > 1 or _ESCAPED_LETTER.search(body):
            _find_by_markers(body, key)


def find_members(body: bytes) -> dict[str, Member] | None:
    """The members of the top level, in order, proven to be plain and unique; None if they are not, or are too many to look.

    Raises ClientError if the body is no JSON object.
    """
    if is_dense(body):
        return None
    offset = len(BOM) if body.startswith(BOM) else 0
    raw = decode_object(_members, body[offset:] if offset else body)
    opening = _OPEN.match(body)
    assert opening is not None, "the decoder saw an object"
    at = opening.end()
    members: dict[str, Member] = {}
    for key, raw_value in raw.items():
        if members:
            comma = _COMMA.match(body, at)
            if comma is None:
                return None
            at = comma.end()
        name = b'"' + key.encode() + b'"'
        colon = _COLON.match(body, at + len(name))
        if colon is None or not body.startswith(name, at) or _NOT_PLAIN.search(key):
            return None
        value = bytes(raw_value)
        # The bytes, not only the length: test_a_body_that_lies_about_its_walk_is_not_believed.
        if not body.startswith(value, colon.end()):
            return None
        members[key] = Member(value, colon.end())
        at = colon.end() + len(value)
    closing = _CLOSE.match(body, at)
    return members if closing is not None and closing.end() == len(body) else None


def is_dense(body: bytes) -> bool:
    """Whether making an object of each member or item of this could cost many times its size."""
    return len(body) > DENSE_BYTES_MIN and body.count(b",") > DENSE_COMMAS_MAX


def rename_answer_model(body: bytes, public: str) -> bytes:
    """A whole answer, of either dialect, under the name that the client asked for; unchanged if it names no model plainly."""
    try:
        return replace_value(body, "model", msgspec.json.encode(public))
    except ClientError:
        return body  # the provider's fault, if anyone's; other rooms judge whether this is an answer at all


def rename_message_start(event: bytes, public: str) -> bytes:
    """A `message_start` event with another `message.model`; every other byte, and every other event, stays.

    Data on several lines is left alone: no provider sends it so, and a wrong name does no harm.
    """
    data = event_data(event)
    data_at = event.find(data) if data else -1
    if data_at < 0:
        return event
    try:
        message = find_value(data, "message")
        model = find_value(data[message[0] : message[1]], "model") if message else None
    except ClientError:
        return event
    if message is None or model is None:
        return event
    start = data_at + message[0]
    return event[: start + model[0]] + msgspec.json.encode(public) + event[start + model[1] :]


# --- the markers ---

_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")


@functools.cache
def _decoder_of(key: str) -> msgspec.json.Decoder[msgspec.Struct]:
    """Sees one key and skips all others. The keys are few and ours, never a client's, so that the cache stays small."""
    field = (key, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)
    return msgspec.json.Decoder(msgspec.defstruct(f"Only_{key}", [field]))


def _value_of(body: bytes, key: str) -> bytes | None:
    """The value that a decoder takes for `key`: the last, whatever its spelling."""
    value = getattr(decode_object(_decoder_of(key), body.removeprefix(BOM)), key)
    return None if value is msgspec.UNSET else bytes(value)


def _find_by_markers(body: bytes, key: str) -> Span | None:
    seen = _value_of(body, key)
    if seen is None:
        return None
    pattern = rb'"' + re.escape(key.encode()) + rb'"[ \t\n\r]*:[ \t\n\r]*'
    places = list(itertools.islice(re.finditer(pattern, body), PLACES_MAX + 1))
    if len(places) > PLACES_MAX:
        raise ClientError("invalid_request", f'The body has too many keys named "{key}".', param=key)
    place = _choose_place(body, key, places)
    if place is None:
        raise ClientError("invalid_request", f'Write the key plainly: "{key}" is spelled with escapes.', param=key)
    # One letter of the key becomes a ~, which no key of ours has.
    renamed = body[: place.start() + 1] + b"~" + body[place.start() + 2 :]
    if _value_of(renamed, key) is not None:
        raise ClientError("invalid_request", f'"{key}" is there more than once; write the key plainly and once.', param=key)
    return place.end(), place.end() + len(seen)


def _choose_place(body: bytes, key: str, places: list[re.Match[bytes]]) -> re.Match[bytes] | None:
    """The place that is the top-level key, provided that there is only one: the caller checks by renaming it."""
    if len(places) < 2:
        return places[0] if places else None
    pieces = []
    last = 0
    for number, place in enumerate(places):
        # `"key":7,"":` before the value: legal wherever a member is, and whatever the value is.
        pieces += [body[last : place.end()], b'%d,"":' % number]
        last = place.end()
    pieces.append(body[last:])
    marker = _value_of(b"".join(pieces), key)
    # An escaped key after the plain one shows its own value here: no number of ours, or a wrong one that renaming finds out.
    if marker is None or not marker.isdigit() or int(marker[:9]) >= len(places):
        return None
    return places[int(marker[:9])]


_T = TypeVar("_T")


def decode_object(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise _not_an_object() from None
    except msgspec.DecodeError as error:
        # The decoder's words name a position and never quote the body.
        raise ClientError("invalid_request", f"The body is not valid JSON: {_reason(error)}") from None
    except UnicodeDecodeError:
        raise ClientError("invalid_request", "The body is not valid JSON: a key is not UTF-8") from None
    except RecursionError:
        raise ClientError("invalid_request", "The body is not valid JSON: nested too deeply") from None


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def _not_an_object() -> ClientError:
    return ClientError("invalid_request", "The body must be a JSON object.")
