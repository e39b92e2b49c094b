"""Feature maps as docs/convolution.md lays them down, in plain NumPy: planes, and what the decoder sends."""

import numpy as np

WORD_CHANNELS = 16
DENSITIES = ("zero", "full", "pixel", "sparse", "half")


def random_slab(rng, shape, density):
    """Activations (rows, columns, channels), so many of them not zero as one of `DENSITIES` says."""
    slab = rng.integers(1, 32768, shape) * rng.choice((-1, 1), shape)
    if density == "pixel":
        mask = np.zeros(shape, bool)
        mask[tuple(rng.integers(shape))] = True
    else:
        mask = rng.random(shape) < {"zero": 0.0, "full": 1.0, "sparse": 0.05, "half": 0.5}[density]
    return np.where(mask, slab, 0)


def pack(slab):
    """Map words and non-zero values of a slab."""
    words = -(-slab.shape[2] // WORD_CHANNELS)
    flags = np.zeros((*slab.shape[:2], words * WORD_CHANNELS), np.int64)
    flags[:, :, :slab.shape[2]] = slab != 0
    maps = flags.reshape(-1, WORD_CHANNELS) @ (1 << np.arange(WORD_CHANNELS))
    return maps.tolist(), slab[slab != 0].tolist()


def written_values(writes):
    """Address and value of all that payloads of value_write_layout, one or two values each, write."""
    written = []
    for pair in writes:
        written.append((pair["address"], pair["value"]))
        if pair["two"]:
            written.append((pair["address"] + 1, pair["next_value"]))
    return written


def unpack(maps, values, shape):
    """Inverse of `pack`."""
    flags = np.array(maps)[:, None] >> np.arange(WORD_CHANNELS) & 1
    flags = flags.reshape(*shape[:2], -1)
    assert not flags[:, :, shape[2]:].any(), "bits beyond the last channel"
    slab = np.zeros(shape, np.int64)
    slab[flags[:, :, :shape[2]] == 1] = values
    return slab


def chunks(slab, lanes):
    """The slab in chunks: dictionaries with a list of values, `used` and `last`."""
    rows = []
    for position in slab.reshape(-1, slab.shape[2]):
        for first in range(0, len(position), lanes):
            part = position[first:first + lanes].tolist()
            rows.append({"values": part, "used": (1 << len(part)) - 1, "last": first + lanes >= len(position)})
    return rows


def decoded(slabs, first_channels):
    """What the decoder sends of a map: dictionaries like FEATURE; a row end has its own two fields only."""
    items, height = [], len(slabs[0])
    for row in range(height):
        for slab, first in zip(slabs, first_channels, strict=True):
            for (x, channel), value in np.ndenumerate(slab[row]):
                if value:
                    items.append({"row_end": 0, "x": x, "channel": first + channel, "value": int(value)})
        items.append({"row_end": 1, "last": int(row == height - 1)})
    return items
