"""Random convolutions as passes of the CNN engine: packed as docs/convolution.md says, and computed by plain NumPy."""

from dataclasses import dataclass

import numpy as np


def taps(kernel, stride, parity):
    return len(range(parity, kernel, stride))


def kernel_order(kernel, stride):
    """Elements of a kernel's axis as they are stored: by parity, then ascending."""
    return [element for parity in range(stride) for element in range(parity, kernel, stride)]


@dataclass
class Convolution:
    """One pass: a convolution of channels low <= c < high of an input map, without bias.

    `weights` is [output channel][input channel - low][row][column]; depthwise, [output channel][row][column], and
    output channel i is that of input channel low + i. Pads are before the first row and column; those behind the last
    are what `out_height` and `out_width` make of them.
    """

    macs: int
    weights: np.ndarray
    low: int
    high: int
    stride: tuple[int, int]
    pads: tuple[int, int]
    out_height: int
    out_width: int
    q_shift: int
    depthwise: bool

    @property
    def geometry(self):
        """What the passes of a layer have in common."""
        return {"kernel": self.kernel, "stride": self.stride, "pads": self.pads,
                "out_height": self.out_height, "out_width": self.out_width}

    @property
    def q(self):
        return 1 << self.q_shift

    @property
    def cp(self):
        return self.macs // self.q

    @property
    def kernel(self):
        return self.weights.shape[-2:]

    @property
    def channels(self):
        return len(self.weights)

    @property
    def blocks(self):
        return -(-self.channels // self.cp)

    @property
    def run_blocks(self):
        return 1 if self.depthwise else self.blocks

    @property
    def out_words(self):
        return -(-self.out_width // self.q)

    def kernel_words_across(self, parity):
        """nw(p): words of partial sums that a run has at most."""
        count = taps(self.kernel[1], self.stride[1], parity)
        return (self.q - 1 + count - 1) // self.q + 1 if count else 0

    def job(self):
        """Fields of the pass that follow from the convolution."""
        columns = [self.kernel_words_across(parity) * self.run_blocks if parity < self.stride[1] else 0
                   for parity in range(2)]
        kernel_row = self.q * sum(columns)
        y_taps, x_taps = ([taps(self.kernel[axis], self.stride[axis], p) if p < self.stride[axis] else 0
                           for p in range(2)] for axis in range(2))
        return {
            "depthwise": self.depthwise, "stride_y": self.stride[0] - 1, "stride_x": self.stride[1] - 1,
            "q_shift": self.q_shift, "channel_low": self.low, "channel_high": self.high,
            "top": self.pads[0], "left": self.pads[1], "y_taps": y_taps, "kernel_last": self.kernel[0] - 1,
            "x_taps": x_taps, "out_height": self.out_height, "out_width": self.out_width, "out_words": self.out_words,
            "run_blocks": self.run_blocks, "channel_words": self.kernel[0] * kernel_row, "kernel_row": kernel_row,
            "column_0": columns[0], "column_1": columns[1], "column_parity": self.q * columns[0],
        }

    def lane_weights(self, channel, block, row, column):
        """Weights of input channel low + `channel` for the Cp output channels of a block, at a kernel element."""
        result = np.zeros(self.cp, np.int64)
        outputs = range(block * self.cp, min((block + 1) * self.cp, self.channels))
        for i, output in enumerate(outputs):
            if not self.depthwise:
                result[i] = self.weights[output, channel, row, column]
            elif output == channel:
                result[i] = self.weights[output, row, column]
        return result

    def kernels(self):
        """Kernel words as they are in the kernel buffer, P weights each."""
        words = []
        for channel in range(self.high - self.low):
            blocks = [channel // self.cp] if self.depthwise else range(self.blocks)
            for row in kernel_order(self.kernel[0], self.stride[0]):
                for parity in range(self.stride[1]):
                    for alignment in range(self.q):
                        words += self.aligned(channel, blocks, row, parity, alignment)
        return np.array(words).reshape(-1, self.macs)

    def aligned(self, channel, blocks, row, parity, alignment):
        """Kernel words of a channel's kernel row for one parity and alignment."""
        count, words = taps(self.kernel[1], self.stride[1], parity), []
        for i in range(self.kernel_words_across(parity)):
            for block in blocks:
                lanes = []
                for q in range(self.q):
                    j = (count - 1) - (i * self.q + q - alignment)
                    lanes += [self.lane_weights(channel, block, row, parity + self.stride[1] * j)
                              if 0 <= j < count else np.zeros(self.cp, np.int64)]
                words.append(np.concatenate(lanes))
        return words

    def outputs(self, image):
        """The sums by their definition, [channel][row][column]; the image is [channel][row][column]."""
        (height, width), (ky, kx), (sy, sx) = image.shape[1:], self.kernel, self.stride
        padded = np.zeros((self.high - self.low, self.out_height * sy + ky + height, self.out_width * sx + kx + width),
                          np.int64)
        padded[:, self.pads[0]:self.pads[0] + height, self.pads[1]:self.pads[1] + width] = image[self.low:self.high]
        sums = np.zeros((self.channels, self.out_height, self.out_width), np.int64)
        for row in range(ky):
            for column in range(kx):
                window = padded[:, row:row + sy * self.out_height:sy, column:column + sx * self.out_width:sx]
                if self.depthwise:
                    sums += self.weights[:, row, column, None, None] * window
                else:
                    sums += np.einsum("oc,cyx->oyx", self.weights[:, :, row, column], window)
        return sums

    def psum_words(self, image):
        """The sums as they lie in a row slot, [row][word][lane], and which lanes hold one."""
        sums, held = self.outputs(image), np.zeros((self.out_words * self.blocks, self.macs), bool)
        words = np.zeros((self.out_height, *held.shape), np.int64)
        for channel in range(self.channels):
            block, i = divmod(channel, self.cp)
            for column in range(self.out_width):
                w, q = divmod(column, self.q)
                at = block * self.out_words + w if self.depthwise else w * self.blocks + block
                words[:, at, q * self.cp + i] = sums[channel, :, column]
                held[at, q * self.cp + i] = True
        return words, held

    def cycles(self, image):
        """Multiply-accumulate cycles by definition: the words of partial sums that non-zero inputs meet."""
        total = 0
        for _, y, x in zip(*np.nonzero(image[self.low:self.high]), strict=True):
            rows = set(self.reached(y, 0)) & set(range(self.out_height))
            words = {output // self.q for output in self.reached(x, 1)} & set(range(self.out_words))
            total += len(rows) * len(words) * self.run_blocks
        return total

    def reached(self, position, axis):
        """Output positions that an input position adds to, if there were outputs everywhere."""
        stride, kernel = self.stride[axis], self.kernel[axis]
        padded = position + self.pads[axis]
        return [output for output in range(-kernel, padded + 1) if 0 <= padded - output * stride < kernel]

    def final_rows(self, y):
        """Output rows, from the first one on, that get nothing from input rows behind row `y`."""
        reach = self.kernel[0] - 1 - self.pads[0]
        return sum(output * self.stride[0] + reach <= y for output in range(self.out_height))


def random_convolution(np_rng, macs, shape, low, high, geometry=None):
    """A convolution of some channels of an input map; `shape` is (channels, rows, columns).

    With a `geometry` it is that of another one: kernel, stride, pads, out_height, out_width.
    """
    if geometry is None:
        ky = 1 if shape[1] == 1 and np_rng.random() < 0.8 else int(np_rng.integers(1, 8))
        geometry = {"kernel": (ky, int(np_rng.integers(1, 8))),
                    "stride": tuple(int(np_rng.integers(1, 3)) for _ in range(2))}
        geometry["pads"] = tuple(int(np_rng.integers(0, k + 2)) for k in geometry["kernel"])
        behind = [int(np_rng.integers(0, k + 2)) for k in geometry["kernel"]]
        outs = [(size + pad + after - k) // s + 1 for size, pad, after, k, s in
                zip(shape[1:], geometry["pads"], behind, geometry["kernel"], geometry["stride"], strict=True)]
        if min(outs) < 1:
            return random_convolution(np_rng, macs, shape, low, high)
        geometry |= {"out_height": outs[0], "out_width": outs[1]}
    geometry = dict(geometry)
    kernel = geometry.pop("kernel")
    q_shift, depthwise = int(np_rng.integers(3)), bool(np_rng.random() < 0.3)
    cp = macs >> q_shift
    outputs = high - low if depthwise else int(np_rng.integers(1, (cp if q_shift else 3 * cp) + 1))
    weights = np_rng.integers(-128, 128, (outputs, *(() if depthwise else (high - low,)), *kernel))
    weights[np_rng.random(weights.shape) < 0.1] = 0
    return Convolution(macs=macs, weights=weights, low=low, high=high, q_shift=q_shift, depthwise=depthwise, **geometry)
