import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import anyio
import psycopg
import pytest
from anyio.abc import ByteStream
from anyio.to_thread import run_sync as in_thread

from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.tcp_proxy import Direction, Ending, TcpProxy, open_tcp_proxy

Connection = psycopg.Connection[tuple[object, ...]]
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def echo_port() -> Generator[int]:
    """A peer in threads of its own, so that it sees what any other process would."""

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            peer = threading.Thread(target=echo, args=(connection,))
            peers.append(peer)
            peer.start()

    peers: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        server.join(5)
    for peer in peers:
        peer.join(5)
    assert not any(thread.is_alive() for thread in [server, *peers])


@pytest.fixture
def listening() -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


def accepted(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(5)
    return connection


def connect(dsn: str) -> Connection:
    return psycopg.connect(dsn, connect_timeout=10, autocommit=True)


def ask(connection: Connection) -> object:
    row = connection.execute("SELECT 1").fetchone()
    return None if row is None else row[0]


@asynccontextmanager
async def connected(proxy: TcpProxy) -> AsyncGenerator[ByteStream]:
    async with await anyio.connect_tcp(proxy.host, proxy.port) as stream:
        yield stream


async def receive_exactly(stream: ByteStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data


async def echoed(stream: ByteStream, data: bytes) -> bytes:
    await stream.send(data)
    return await receive_exactly(stream, len(data))


async def nothing_arrives(stream: ByteStream, seconds: float = 0.15) -> bool:
    with anyio.move_on_after(seconds):
        await stream.receive()
        return False
    return True


async def test_bytes_pass_unchanged_in_both_directions_and_are_counted(echo_port: int) -> None:
    data = bytes(range(256)) * 8192
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            assert await receive_exactly(stream, len(data)) == data
        statistics = proxy.statistics
        assert (statistics.accepted, statistics.open, statistics.failed) == (1, 1, 0)
        assert statistics.bytes_to_target == statistics.bytes_to_client == len(data)


async def test_a_side_that_closes_its_half_still_receives_the_rest(echo_port: int) -> None:
    async with open_tcp_proxy("localhost", echo_port) as proxy, connected(proxy) as stream:
        await stream.send(b"last words")
        await stream.send_eof()
        assert await receive_exactly(stream, 10) == b"last words"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


@pytest.mark.parametrize(("ending", "seen"), [("rst", anyio.BrokenResourceError), ("fin", anyio.EndOfStream)])
async def test_a_cut_ends_every_connection_and_the_next_one_works(
    echo_port: int, ending: Ending, seen: type[Exception]
) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy:
        async with connected(proxy) as first, connected(proxy) as second:
            await echoed(first, b"a")
            await echoed(second, b"b")
            assert await proxy.cut(ending) == 2
            assert proxy.statistics.open == 0
            for stream in (first, second):
                with anyio.fail_after(5), pytest.raises(seen):
                    await stream.receive()
        async with connected(proxy) as third:
            assert await echoed(third, b"c") == b"c"


async def test_a_reset_reaches_the_target_as_a_reset(listening: socket.socket) -> None:
    port: int = listening.getsockname()[1]
    async with open_tcp_proxy("127.0.0.1", port) as proxy, connected(proxy) as stream:
        with await in_thread(accepted, listening) as target:
            await stream.send(b"hello")
            assert await in_thread(target.recv, 5) == b"hello"
            await proxy.cut("rst")
            with pytest.raises(ConnectionResetError):
                await in_thread(target.recv, 1)


@pytest.mark.parametrize("direction", [None, "to_target", "to_client"])
async def test_a_stall_holds_bytes_back_and_resume_delivers_them(
    echo_port: int, direction: Direction | None
) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        await echoed(stream, b"before")
        proxy.stall(direction)
        await stream.send(b"during")
        assert await nothing_arrives(stream)
        # Only the stalled direction holds: what goes to the target passes when the answers alone are held.
        assert (proxy.statistics.bytes_to_target == 12) == (direction == "to_client")
        proxy.resume(direction)
        with anyio.fail_after(5):
            assert await receive_exactly(stream, 6) == b"during"


async def test_a_stalled_connection_is_half_open_the_end_of_a_peer_stays_unseen(
    listening: socket.socket,
) -> None:
    port: int = listening.getsockname()[1]
    async with open_tcp_proxy("127.0.0.1", port) as proxy, connected(proxy) as stream:
        with await in_thread(accepted, listening) as target:
            await in_thread(target.sendall, b"hello")
            assert await receive_exactly(stream, 5) == b"hello"
            proxy.stall()
        assert await nothing_arrives(stream)
        proxy.resume()
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_a_stalled_proxy_leaves_the_bytes_to_the_senders_window(echo_port: int) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        await echoed(stream, b"before")
        proxy.stall("to_target")
        with anyio.move_on_after(0.5) as sending:
            while True:
                await stream.send(b"x" * 65536)
        assert sending.cancelled_caught
        assert proxy.statistics.bytes_to_target == 6


async def test_a_delay_shifts_bytes_in_time_and_does_not_narrow_the_way(echo_port: int) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        await echoed(stream, b"warm")
        proxy.delay(0.3, "to_client")
        started = anyio.current_time()
        for number in range(20):
            await stream.send(bytes([number]) * 1000)
        assert await receive_exactly(stream, 20_000) == b"".join(bytes([n]) * 1000 for n in range(20))
        elapsed = anyio.current_time() - started
        # One after the other the twenty would take up to six seconds.
        assert 0.3 <= elapsed < 4.0
        proxy.delay(60)
        proxy.delay(0)
        with anyio.fail_after(20):
            await echoed(stream, b"quick")


async def test_a_throttle_bounds_the_rate_of_its_direction(echo_port: int) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        proxy.throttle(40_000, "to_client")
        started = anyio.current_time()
        await echoed(stream, b"x" * 20_000)
        # The pause after the last piece, of at most a twentieth of a second, is not waited for.
        assert anyio.current_time() - started >= 0.4
        proxy.throttle(None)
        with anyio.fail_after(2):
            await echoed(stream, b"x" * 200_000)


@pytest.mark.parametrize("direction", ["to_target", "to_client"])
async def test_corruption_changes_exactly_one_byte_at_the_place_that_was_named(
    echo_port: int, direction: Direction
) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        proxy.corrupt(direction, after_bytes=5, mask=0x01)
        assert await echoed(stream, b"aaaa") == b"aaaa"
        assert await echoed(stream, b"bbbb") == b"bcbb"
        assert await echoed(stream, b"cccc") == b"cccc"
        assert proxy.statistics.corrupted_bytes == 1


async def test_a_proxy_that_refuses_keeps_its_connections_and_its_port(echo_port: int) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy) as stream:
        await echoed(stream, b"before")
        port = proxy.port
        proxy.refuse()
        proxy.refuse()
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await in_thread(socket.create_connection, (proxy.host, port))
        assert await echoed(stream, b"still here") == b"still here"
        proxy.accept()
        proxy.accept()
        assert proxy.port == port
        async with connected(proxy) as next_stream:
            assert await echoed(next_stream, b"again") == b"again"


async def test_a_target_that_is_not_there_resets_the_client_and_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port: int = gone.getsockname()[1]
    async with open_tcp_proxy("127.0.0.1", port) as proxy, connected(proxy) as stream:
        with anyio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()
        assert proxy.statistics.failed == 1


async def test_leaving_ends_stalled_connections_tasks_and_the_port(echo_port: int) -> None:
    async with open_tcp_proxy("127.0.0.1", echo_port) as proxy:
        stream = await anyio.connect_tcp(proxy.host, proxy.port)
        await echoed(stream, b"x")
        proxy.stall()
        proxy.delay(3600)
    async with stream:
        with anyio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()
    with pytest.raises(ConnectionRefusedError):
        await in_thread(socket.create_connection, (proxy.host, proxy.port))


async def test_an_error_of_the_block_comes_out_as_it_is(echo_port: int) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_tcp_proxy("127.0.0.1", echo_port) as proxy, connected(proxy):
            raise ZeroDivisionError


def test_faults_that_mean_nothing_are_refused() -> None:
    async def main() -> None:
        async with open_tcp_proxy("127.0.0.1", 1) as proxy:
            with pytest.raises(ValueError, match="seconds"):
                proxy.delay(-1)
            with pytest.raises(ValueError, match="bytes_per_second"):
                proxy.throttle(0)
            with pytest.raises(ValueError, match="mask"):
                proxy.corrupt("to_client", mask=0)

    anyio.run(main)


async def test_a_psycopg_connection_is_cut_and_the_next_one_works(
    postgres_database: PostgresDatabase,
) -> None:
    server = postgres_database.server
    async with open_tcp_proxy(server.host, server.port) as proxy:
        dsn = server.dsn(postgres_database.name, host=proxy.host, port=proxy.port)
        with await in_thread(connect, dsn) as connection:
            assert await in_thread(ask, connection) == 1
            await proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                await in_thread(ask, connection)
        with await in_thread(connect, dsn) as connection:
            assert await in_thread(ask, connection) == 1


async def test_a_psycopg_query_waits_through_a_stall(postgres_database: PostgresDatabase) -> None:
    server = postgres_database.server
    answers: list[object] = []
    answered = anyio.Event()

    async def ask_and_note(connection: Connection) -> None:
        answers.append(await in_thread(ask, connection))
        answered.set()

    async with open_tcp_proxy(server.host, server.port) as proxy:
        dsn = server.dsn(postgres_database.name, host=proxy.host, port=proxy.port)
        with await in_thread(connect, dsn) as connection:
            async with anyio.create_task_group() as tasks:
                proxy.stall()
                tasks.start_soon(ask_and_note, connection)
                with anyio.move_on_after(0.2):
                    await answered.wait()
                assert answers == []
                proxy.resume()
                with anyio.fail_after(5):
                    await answered.wait()
    assert answers == [1]
