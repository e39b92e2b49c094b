"""A simulated board behind a pseudo-terminal: it rests when nobody talks to it, and wakes when somebody does."""

import os

from amacrine.sim.terminal import QUIET_CHUNKS, Terminal, serve


class EchoBoard:
    """Answers what it was sent."""

    unsent = 0

    def __init__(self):
        self.answer = b""

    def send(self, data):
        self.answer += data

    def run(self, cycles):
        answer, self.answer = self.answer, b""
        return answer


def test_an_idle_board_rests_until_somebody_sends(monkeypatch):
    """After QUIET_CHUNKS without a byte each chunk is followed by a wait; a byte ends that."""
    with Terminal() as terminal:
        client = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
        chunks, waits = 0, []
        monkeypatch.setattr(terminal, "wait", lambda seconds: waits.append(chunks))

        def stop():
            nonlocal chunks
            if chunks == QUIET_CHUNKS + 3:
                os.write(client, b"hello")
            chunks += 1
            return chunks > 2 * QUIET_CHUNKS

        serve(EchoBoard(), terminal, stop)
        assert os.read(client, 5) == b"hello"
        os.close(client)
    assert waits == [QUIET_CHUNKS + 1, QUIET_CHUNKS + 2, QUIET_CHUNKS + 3]


def test_waiting_ends_with_the_first_byte():
    with Terminal() as terminal:
        client = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
        os.write(client, b"x")
        terminal.wait(3600)
        assert terminal.read() == b"x"
        os.close(client)
