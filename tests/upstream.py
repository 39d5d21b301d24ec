"""A scripted upstream: a real server on loopback that speaks the Anthropic protocol, and OpenAI's on …/chat/completions, and does
exactly what a test tells it.

    async with ScriptedUpstream() as up:
        up.script(scripts.answer(Reply(text=("Hi",), usage=Usage(input_tokens=9, output_tokens=2))))
        ...send a request to up.url + "/v1/messages"...
        assert up.journal[0].header("x-api-key") == "secret"
        assert up.journal[0].billed == Billed("claude-sonnet-5-5", Usage(input_tokens=9, output_tokens=2))

What answers a request, in this order: the first rule of `up.when(test, script)` that fits; the next of the queue
`up.script(...)`; `up.default` (an ordinary answer, for count_tokens and models too). A script is any function
`async def script(exchange: Exchange)`; the ready-made ones are in tests/upstreams/scripts.py, what they say in replies.py.

The journal has one `Seen` per request, in order of arrival, also of those that were cut. `seen.billed` is what a provider
would charge for it so far (None: nothing): compare it with the ledger. It is raw asyncio rather than a framework, because half
of what it must do (cut, reset, lie about lengths) a framework prevents.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType

from tests.upstreams import scripts
from tests.upstreams.exchange import Billed, Exchange, Script, Seen

__all__ = ["Billed", "Exchange", "Script", "ScriptedUpstream", "Seen", "contains", "path_is"]

HEAD_BYTES_MAX = 2**20

Test = Callable[[Seen], bool]


def contains(marker: bytes) -> Test:
    """For `when`: requests whose body contains `marker`."""
    return lambda seen: marker in seen.body


def path_is(path: str) -> Test:
    """For `when`: requests to exactly this path."""
    return lambda seen: seen.path == path


class ScriptedUpstream:
    def __init__(self, default: Script | None = None) -> None:
        self.journal: list[Seen] = []
        self.default: Script = default or scripts.ordinary()
        self.errors: list[Exception] = []  # of scripts; raised when the server closes
        self.connections = 0
        self._queue: deque[Script] = deque()
        self._rules: list[tuple[Test, Script]] = []
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL, as a configuration names it."""
        return f"http://127.0.0.1:{self.port}"

    def script(self, *queued: Script) -> None:
        """Queue: each request (of any path) takes one; when it is empty, `default` answers."""
        self._queue.extend(queued)

    def when(self, test: Test, script: Script) -> None:
        """Every request that fits `test` is answered by `script`, whatever is queued. Earlier rules win."""
        self._rules.append((test, script))

    async def arrived(self, count: int) -> Seen:
        """Wait (at most 5 s) until `count` requests have come in all; the last of them."""
        async with asyncio.timeout(5), self._arrived:
            await self._arrived.wait_for(lambda: len(self.journal) >= count)
        return self.journal[count - 1]

    async def __aenter__(self) -> ScriptedUpstream:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=HEAD_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        await self.stop()
        if exc is None and self.errors:
            raise self.errors[0]

    async def stop(self) -> None:
        """Stop listening and reset every connection; entering the context again listens on the same port."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(self.connections, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed: the journal knows
        except asyncio.CancelledError:
            writer.transport.abort()  # stop(); swallowed, or asyncio would log it
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep:
            seen = await self._read_request(connection, reader)
            exchange = Exchange(seen, writer)
            script = asyncio.ensure_future(self._answer(exchange))
            # Our clients do not pipeline, so the only thing that can come meanwhile is the end of the connection.
            watch = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait((script, watch), return_when=asyncio.FIRST_COMPLETED)
                if script.done():
                    script.result()
                else:
                    seen.gone.set()
            except ConnectionError:
                seen.gone.set()
            except Exception as exc:
                self.errors.append(exc)
            finally:
                for task in (script, watch):
                    task.cancel()
                await asyncio.gather(script, watch, return_exceptions=True)
            keep = exchange.keep and not reader.at_eof()

    async def _answer(self, exchange: Exchange) -> None:
        await self._choose(exchange.seen)(exchange)
        exchange.seen.finished = True

    async def _read_request(self, connection: int, reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.split("\r\n")[:-2]
        method, target, _ = request_line.split(" ")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        body = await reader.readexactly(int(dict(headers).get("content-length", "0")))
        seen = Seen(len(self.journal) + 1, connection, method, target, headers, body)
        async with self._arrived:
            self.journal.append(seen)
            self._arrived.notify_all()
        return seen

    def _choose(self, seen: Seen) -> Script:
        for test, script in self._rules:
            if test(seen):
                return script
        return self._queue.popleft() if self._queue else self.default
