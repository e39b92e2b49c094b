"""Layers of several passes over one map, for the benches of the CNN engine: elements, jobs, and what must come out."""

import numpy as np
from conv_packing import random_convolution, taps


class Pass:
    """One convolution over a map, with the fields that the passes of its layer share."""

    def __init__(self, convolution, image, first):
        self.convolution, self.image, self.first = convolution, image, first
        self.kernels = convolution.kernels()
        self.words, self.held = convolution.psum_words(image)
        self.row_words = self.slots = 0

    def job(self, codec):
        """Its job for the scatter unit, packed."""
        fields = self.convolution.job()
        for name in ("y_taps", "x_taps"):
            fields[name] = fields[name][0] | fields[name][1] << 4
        return codec.pack(**fields, first=self.first, row_words=self.row_words, slots=self.slots)

    def elements(self, codec, rng):
        """The map's non-zero elements, row by row, packed; unused fields are junk."""
        _, height, _ = self.image.shape
        for y in range(height):
            for x, channel in zip(*np.nonzero(self.image[:, y].T), strict=True):
                yield codec.pack(x=x, channel=channel, value=self.image[channel, y, x], last=rng.randrange(2))
            yield codec.pack(row_end=1, last=y == height - 1, x=rng.randrange(1024), channel=rng.randrange(4096))


def random_image(np_rng, shape):
    image = np_rng.integers(-32768, 32768, shape)
    image[np_rng.random(shape) < np_rng.choice((0.2, 0.6, 0.95))] = 0
    return image


def random_layer(np_rng, params, passes):
    """Passes over one map that fit the engine."""
    while True:
        height = 1 if np_rng.random() < 0.2 else int(np_rng.integers(1, 10))
        shape = int(np_rng.integers(1, 10)), height, int(np_rng.integers(1, 14))
        image, layer, geometry = random_image(np_rng, shape), [], None
        for _ in range(passes):
            low = int(np_rng.integers(0, shape[0]))
            high = int(np_rng.integers(low + 1, shape[0] + 1))
            convolution = random_convolution(np_rng, params.macs, shape, low, high, geometry)
            geometry = convolution.geometry
            layer.append(Pass(convolution, image, not layer))
        if fits(np_rng, params, layer):
            return layer


def fits(np_rng, params, layer):
    """Gives a layer its row slots; whether that was possible."""
    first = layer[0].convolution
    row_words = max(each.words.shape[1] for each in layer)
    needed = min(taps(first.kernel[0], first.stride[0], 0) + 1, first.out_height * len(layer))
    slots = needed + needed % 2 + 2 * int(np_rng.integers(0, 3))
    for each in layer:
        each.row_words, each.slots = row_words, slots
    return slots // 2 * row_words <= params.psum_depth // 2 \
        and all(len(each.kernels) <= params.kernel_depth for each in layer)


def expected_reports(convolution, height):
    """Rows that are final, counted up: above the first input row one by one, then after each input row but the last."""
    above = convolution.final_rows(-1)
    return list(range(1, above + 1)) + [convolution.final_rows(y) for y in range(height - 1)]


def check_reports(convolution, height, finals):
    """Row ends of a pass: `finals` as sent, the last of them with `last`."""
    reports, expected = list(np.cumsum(finals)), expected_reports(convolution, height)
    assert reports[:len(expected)] == expected
    assert reports[-1] == convolution.out_height
    assert all(final > 0 for final in finals[len(expected):-1])
