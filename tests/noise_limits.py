"""How much noise the driver survives: `python tests/noise_limits.py` prints the table of docs/driver.md.

Not a test: the rates at which it gives up are measured, not promised. A program of NSNet2's size is loaded into a
device in Python, then 500 vectors of 161 elements go through it. Bytes are flipped, dropped and doubled with a third
of the rate each, in both directions.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from mock_device import MockDevice, Noise
from test_device import Case

from amacrine.sw.device import Device
from amacrine.sw.errors import DeviceError

WEIGHT_BYTES, STEPS, SIZE = 2_700_000, 500, 161


def measure(rate: float, seed: int) -> str:
    rng = np.random.default_rng(seed)
    program = replace(Case(steps=1).program, n_inputs=SIZE, n_outputs=SIZE,
                      weights=rng.integers(-128, 128, (WEIGHT_BYTES // 8, 8), np.int8))
    inputs = rng.integers(-32768, 32768, (STEPS, SIZE), np.int16)
    noise = Noise(rate / 3, rate / 3, rate / 3)
    with MockDevice(memory_words=1 << 21, to_device=noise, to_host=noise, seed=seed) as board:
        start = time.perf_counter()
        try:
            with Device.open(board.port) as device:
                device.load(program)
                loaded = time.perf_counter()
                outputs = device.run(inputs).outputs
                seconds = loaded - start, time.perf_counter() - loaded
                seen = device.statistics
        except DeviceError as error:
            return f"gives up: {error}"
    assert np.array_equal(outputs, inputs) and np.array_equal(
        board.memory[: WEIGHT_BYTES // 2], program.weights.reshape(-1).view("<u2"))
    return (f"{seen.repeated / seen.requests:6.1%} repeated, {seen.timeouts:4} time-outs; "
            f"loading {seconds[0]:5.1f} s, {STEPS / seconds[1]:6.0f} frames a second")


if __name__ == "__main__":
    for byte_error_rate in (0, 1e-6, 1e-5, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 1e-3):
        for number in range(3):
            print(f"{byte_error_rate:.0e}  {measure(byte_error_rate, number)}", flush=True)
