// Runs the Verilated BoardTop: the far end of the serial line, and a stopwatch on the engine's streams.
// Python (sim/board.py) hands over bytes and asks for some thousands of cycles at a time.
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>
#include "Vtop.h"
#include "Vtop___024root.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

constexpr int FRACTION = 16;    // bits of a bit time behind the point

// 8N1, low bit first; times in clock cycles, with a fraction, since the start of the simulation.
struct Sender {
    std::deque<uint8_t> queue;
    uint64_t next = 0;
    uint32_t bits = 0, left = 0;

    bool level(uint64_t now, uint64_t bit_time) {
        if (!left && !queue.empty()) {
            bits = uint32_t(queue.front()) << 1 | 0x200;
            queue.pop_front();
            left = 10;
            next = (next + bit_time > now ? next : now) + bit_time;
        } else if (left && now >= next) {
            bits >>= 1;
            left--;
            if (left) next += bit_time;
            else return level(now, bit_time);
        }
        return left ? bits & 1 : true;
    }
};

struct Receiver {
    uint64_t sample = 0;
    uint32_t bits = 0, left = 0;
    bool before = true;

    // True when `byte` has arrived.
    bool level(bool line, uint64_t now, uint64_t bit_time, uint8_t &byte) {
        bool arrived = false;
        if (!left) {
            if (before && !line) { left = 9; sample = now + bit_time + bit_time / 2; bits = 0; }
        } else if (now >= sample) {
            if (left == 1) { arrived = line; byte = bits; }
            else bits = bits >> 1 | uint32_t(line) << 7;
            sample += bit_time;
            left--;
        }
        before = line;
        return arrived;
    }
};

struct Board {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vtop> top;
    uint64_t cycles = 0, words = 0, bit_time;
    Sender sender;
    Receiver receiver;
    uint64_t break_until = 0;
    std::vector<uint8_t> received;
    std::vector<uint64_t> times;    // cycle in which each received byte's stop bit came
    // Stopwatch: per step, the cycle of its first input and last output element, and the weight words till then.
    uint64_t *started = nullptr, *finished = nullptr, *words_till = nullptr;
    uint64_t steps = 0, n_inputs = 1, n_outputs = 1, inputs = 0, outputs = 0;

    explicit Board(double bit_cycles) : bit_time(uint64_t(bit_cycles * (1 << FRACTION))) {
        top.reset(new Vtop(context.get()));
        top->rx = 1;
        reset(4);
    }
    ~Board() { top->final(); }

    void reset(uint32_t length) {
        top->rst = 1;
        for (uint32_t i = 0; i < length; i++) tick();
        top->rst = 0;
    }

    void tick() {
        const uint64_t now = cycles << FRACTION;
        const bool sent = sender.level(now, bit_time);
        top->rx = cycles < break_until ? 0 : sent;
        top->clk = 1; top->eval();
        top->clk = 0; top->eval();
        words += top->word_taken;
        if (top->input_taken) {
            if (inputs % n_inputs == 0 && inputs / n_inputs < steps) started[inputs / n_inputs] = cycles;
            inputs++;
        }
        if (top->output_given) {
            outputs++;
            if (outputs % n_outputs == 0 && outputs / n_outputs <= steps) {
                finished[outputs / n_outputs - 1] = cycles;
                words_till[outputs / n_outputs - 1] = words;
            }
        }
        uint8_t byte;
        if (receiver.level(top->tx, now, bit_time, byte)) { received.push_back(byte); times.push_back(cycles); }
        cycles++;
    }
};

}  // namespace

extern "C" {

Board *board_new(double bit_cycles) { return new Board(bit_cycles); }
void board_delete(Board *b) { delete b; }
uint64_t board_cycles(Board *b) { return b->cycles; }
uint32_t board_violation(Board *b) { return b->top->violation; }
uint32_t board_lights(Board *b) {
    return b->top->active | b->top->busy << 1 | b->top->fault << 2 | b->top->initialised << 3;
}
void board_reset(Board *b, uint32_t length) { b->reset(length); }
// Puts words into the SDRAM chip, from address 0 on, as if they had been written: loading takes a line's whole time.
void board_preload(Board *b, const uint16_t *words, uint32_t count) {
    auto *root = b->top->rootp;
    for (uint32_t i = 0; i < count; i++) {
        root->top__DOT__sdram__DOT__chip__DOT__words[i] = words[i];
        root->top__DOT__sdram__DOT__chip__DOT__known[i / 32] |= 1u << i % 32;
    }
}
void board_break(Board *b, uint64_t length) { b->break_until = b->cycles + length; }
void board_send(Board *b, const uint8_t *bytes, uint32_t count) {
    b->sender.queue.insert(b->sender.queue.end(), bytes, bytes + count);
}
// Bytes that the sender still has to send.
uint64_t board_unsent(Board *b) { return b->sender.queue.size() + (b->sender.left != 0); }

void board_watch(Board *b, uint64_t *started, uint64_t *finished, uint64_t *words, uint64_t steps,
                 uint64_t n_inputs, uint64_t n_outputs) {
    b->started = started; b->finished = finished; b->words_till = words;
    b->steps = steps; b->n_inputs = n_inputs; b->n_outputs = n_outputs;
    b->inputs = b->outputs = 0;
}

// Runs for `cycles` cycles, or until `wanted` bytes were received (0: does not matter).
void board_run(Board *b, uint64_t cycles, uint64_t wanted) {
    for (uint64_t i = 0; i < cycles && !(wanted && b->received.size() >= wanted); i++) b->tick();
}

// Takes at most `room` received bytes, and when they came; returns their number.
uint32_t board_take(Board *b, uint8_t *bytes, uint64_t *times, uint32_t room) {
    const uint32_t count = b->received.size() < room ? b->received.size() : room;
    std::copy_n(b->received.begin(), count, bytes);
    std::copy_n(b->times.begin(), count, times);
    b->received.erase(b->received.begin(), b->received.begin() + count);
    b->times.erase(b->times.begin(), b->times.begin() + count);
    return count;
}

}  // extern "C"
