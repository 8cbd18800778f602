"""A TCP proxy before PostgreSQL that misbehaves at random: it cuts, delays, half-closes, freezes and loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CHUNK = 65536


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: ChaosProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.losing = False
        """Drop what the server answers: statements arrive, their answers do not."""
        self._proxy = proxy

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one direction until it ends."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                await self._proxy.flowing.wait()
                if self.losing and writer is self.client:
                    continue
                writer.write(data)
                await writer.drain()

    def cut(self) -> None:
        """Breaks both ends at once, as a reset does."""
        for writer in (self.client, self.server):
            writer.transport.abort()

    def half_close(self) -> None:
        """Ends what goes to the server; its answers still pass."""
        with contextlib.suppress(OSError):
            self.server.write_eof()


class ChaosProxy:
    """Forwards connections to a server, on a thread of its own; a context manager."""

    def __init__(self, url: str) -> None:
        self._target = conninfo_to_dict(url)
        self.delay = 0.0
        """Seconds that each piece of data is held back."""
        self.links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chaos proxy", daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(10)
        parts = {**self._target, "host": "127.0.0.1", "port": self._port, "sslmode": "disable", "gssencmode": "disable"}
        self.url = make_conninfo(**parts)

    def __enter__(self) -> ChaosProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    # -- misbehaviour, from any thread ----------------------------------------------------------------------------------------

    def cut(self, rng: random.Random, share: float) -> int:
        """Breaks some of the connections; how many."""
        return self._upon(rng, share, Link.cut)

    def half_close(self, rng: random.Random, share: float) -> int:
        """Half-closes some."""
        return self._upon(rng, share, Link.half_close)

    def lose_answers(self, rng: random.Random, share: float) -> int:
        """Loses the answers of some from now on; whoever begins this breaks the connections later."""

        def lose(link: Link) -> None:
            link.losing = True

        return self._upon(rng, share, lose)

    def cut_losing(self) -> None:
        """Breaks those whose answers are lost."""

        def cut(link: Link) -> None:
            if link.losing:
                link.cut()

        self._upon(random.Random(0), 1.0, cut)

    def freeze(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._loop.call_soon_threadsafe(self.flowing.clear)

    def thaw(self) -> None:
        """Everything passes again."""
        self._loop.call_soon_threadsafe(self.flowing.set)

    def _upon(self, rng: random.Random, share: float, act: Callable[[Link], None]) -> int:
        async def apply() -> int:
            chosen = [link for link in list(self.links) if rng.random() < share]
            for link in chosen:
                act(link)
            return len(chosen)

        return asyncio.run_coroutine_threadsafe(apply(), self._loop).result(20)

    # -- the loop -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop, self.flowing = asyncio.Event(), asyncio.Event()
        self.flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self.flowing.set()
        for link in list(self.links):
            link.cut()
        await asyncio.sleep(0.05)  # the links end

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            from_server, server = await self._connect()
        except OSError:
            client.transport.abort()
            return
        link = Link(self, client, server)
        self.links.add(link)
        try:
            pumps = [asyncio.ensure_future(link.pump(reader, server)), asyncio.ensure_future(link.pump(from_server, client))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if pumps[0].done() and not pumps[1].done():
                await asyncio.wait([pumps[1]], timeout=1.0)  # the last answers
            for pump in pumps:
                pump.cancel()
        finally:
            self.links.discard(link)
            link.cut()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)
