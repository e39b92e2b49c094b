"""A simulated board behind a pseudo-terminal: it rests when nobody talks to it, and wakes at once."""

import os
import threading
import time

from amacrine.sim.terminal import QUIET_CHUNKS, Terminal, serve


class EchoBoard:
    """Answers what it was sent; counts how often it is run."""

    unsent = 0

    def __init__(self):
        self.answer, self.runs = b"", 0

    def send(self, data):
        self.answer += data

    def run(self, cycles):
        self.runs += 1
        answer, self.answer = self.answer, b""
        return answer


def test_an_idle_board_rests_until_somebody_sends():
    board, over = EchoBoard(), threading.Event()
    with Terminal() as terminal:
        thread = threading.Thread(target=serve, args=(board, terminal, over.is_set))
        thread.start()
        try:
            time.sleep(1)
            assert QUIET_CHUNKS <= board.runs <= QUIET_CHUNKS + 20
            client = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
            start = time.monotonic()
            os.write(client, b"hello")
            assert os.read(client, 5) == b"hello"
            assert time.monotonic() - start < 0.3
            os.close(client)
        finally:
            over.set()
            thread.join()
