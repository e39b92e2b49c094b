"""One file a board: clocks, pins, memory, link, generator parameters."""
