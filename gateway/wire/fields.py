"""What a request of either dialect is read by: its top level in raw values, and the few of them that steer billing and routing.

The body is decoded once, at its top level; what is acted on is then read from the raw values, each by itself, so that an odd
shape in one of them costs only that one. Everything raises ClientError (invalid_request, `param` names the field).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from gateway.errors import ClientError
from gateway.wire import splice

DEPTH_MAX = 200
# Counting depth exactly costs as much as ten decodes, so that it is done where it is cheap. Beyond, the decoder's own guard
# (some 900 levels) refuses; nothing in this house recurses over values that it does not act on, and the upstream has a limit too.
_DEPTH_COUNTED_BYTES_MAX = 16_384
# Above any model's; what is stored and multiplied stays an ordinary integer.
_COUNT_MAX = 2**31 - 1

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_MODEL_LENGTH_MAX = 128
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")

_string = msgspec.json.Decoder(str)
_integer = msgspec.json.Decoder(int)

# What decoding somebody's bytes may raise; RecursionError because they may be nested without end.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Top = msgspec.json.Decoder[msgspec.Struct]


def top_of(*names: str) -> Top:
    """A decoder of these fields alone, for bodies that are too dense to be taken apart whole."""
    return msgspec.json.Decoder(
        msgspec.defstruct("Top", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in names])
    )


def read_top(body: bytes, top: Top, steering_keys: Iterable[str]) -> Mapping[str, bytes]:
    """The top level's raw values, with each steering key known to be there once at most and written plainly."""
    if not body:
        raise ClientError("invalid_request", "The body is empty; send a JSON object.")
    members = splice.find_members(body)
    if members is not None:
        fields = {key: member.value for key, member in members.items()}
    else:
        decoded = splice.decode_object(top, body)
        splice.reject_duplicates(body, steering_keys)
        fields = {key: bytes(raw) for key, raw in msgspec.structs.asdict(decoded).items() if raw is not msgspec.UNSET}
    _reject_depth(body)
    return fields


def read_model(fields: Mapping[str, bytes]) -> str:
    if "model" not in fields:
        raise refusal("model", "model is required.")
    try:
        model = _string.decode(fields["model"])
    except UNREADABLE:
        raise refusal("model", "model must be a string.") from None
    if not _MODEL.fullmatch(model):
        raise refusal("model", f"model is not a model id: {model[:_MODEL_LENGTH_MAX]!r}")
    return model


def read_count(fields: Mapping[str, bytes], name: str, most: int = _COUNT_MAX) -> int | None:
    """A whole number from 1 to `most`; None if the field is not there."""
    if name not in fields:
        return None
    try:
        count = _integer.decode(fields[name])
    except UNREADABLE:
        count = 0
    if count < 1:
        raise refusal(name, f"{name} must be a whole number of at least 1.")
    if count > most:
        raise refusal(name, f"{name} must be at most {most}.")
    return count


def read_stream(fields: Mapping[str, bytes]) -> bool:
    stream = fields.get("stream", b"null")
    if stream not in (b"true", b"false", b"null"):
        raise refusal("stream", "stream must be true or false.")
    return stream == b"true"


def require_messages(fields: Mapping[str, bytes]) -> None:
    if not fields.get("messages", b"").startswith(b"["):
        raise refusal("messages", "messages is required and must be a list.")


def refusal(param: str, message: str) -> ClientError:
    return ClientError("invalid_request", message, param=param)


def _reject_depth(body: bytes) -> None:
    """Refuses a small body that is nested too deeply; it is known to be JSON. See `_DEPTH_COUNTED_BYTES_MAX`."""
    if len(body) > _DEPTH_COUNTED_BYTES_MAX or body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    # Every other piece between unescaped quotes is outside of strings.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside.translate(_BRACES_TO_BRACKETS, _NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level off
    if brackets:
        raise ClientError("invalid_request", f"The body is nested more than {DEPTH_MAX} levels deep.")
