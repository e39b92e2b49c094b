// Runs a controller with its chip (sim/sdram_bench.py) without Python in the loop: fills the chip, offers bursts one
// after the other, takes all words at once, and compares each with what the chip was filled with.
#include <cstdint>
#include <memory>
#include "Vtop.h"
#include "Vtop___024root.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

// Content of a word: any function in which neighbours, rows and banks differ.
uint16_t content(uint32_t address) { return uint16_t((address * 2654435761u) >> 13); }

struct Bench {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vtop> top;
    uint64_t cycles = 0;

    Bench(uint32_t phase_ps, uint32_t loop_ps) {
        top.reset(new Vtop(context.get()));
        top->phase_ps = phase_ps; top->loop_ps = loop_ps;
        top->request___05Fvalid = 0; top->read_data___05Fready = 1;
        auto &words = top->rootp->top__DOT__sdram__DOT__chip__DOT__words;
        for (uint32_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) words[i] = content(i);
        top->rst = 1;
        for (int i = 0; i < 16; i++) tick();
        // After the initial block of the model, which knows no cell.
        auto &known = top->rootp->top__DOT__sdram__DOT__chip__DOT__known;
        for (uint32_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) known[i] = ~0u;
        top->rst = 0;
    }
    ~Bench() { top->final(); }

    void tick() {
        top->clk = 1; top->eval();
        top->clk = 0; top->eval();
        cycles++;
    }
};

}  // namespace

extern "C" {

Bench *bench_new(uint32_t phase_ps, uint32_t loop_ps) { return new Bench(phase_ps, loop_ps); }
void bench_delete(Bench *b) { delete b; }
uint32_t bench_violation(Bench *b) { return b->top->violation; }
uint32_t bench_refreshes(Bench *b) { return b->top->refreshes; }
uint32_t bench_activations(Bench *b) { return b->top->activations; }

// Reads bursts, each offered as soon as the one before was taken. Returns the words that were wrong; `cycles` is
// set to those from the first word's arrival to the last one's. Gives up after `limit` cycles without a word.
uint64_t bench_run(Bench *b, const uint32_t *addresses, const uint32_t *lengths, uint32_t bursts, uint32_t address_bits,
                   uint64_t limit, uint64_t *cycles) {
    uint64_t words = 0, received = 0, wrong = 0, first = 0, last = b->cycles;
    for (uint32_t i = 0; i < bursts; i++) words += lengths[i];
    uint32_t sent = 0, reading = 0, place = 0;
    const uint32_t mask = (uint32_t(1) << address_bits) - 1;
    Vtop *top = b->top.get();
    while (received < words && b->cycles - last < limit) {
        top->request___05Fvalid = sent < bursts;
        if (sent < bursts) top->request___05Fpayload = uint64_t(addresses[sent]) | uint64_t(lengths[sent]) << address_bits;
        top->eval();
        if (top->request___05Fvalid && top->request___05Fready) sent++;
        if (top->read_data___05Fvalid) {
            wrong += top->read_data___05Fpayload != content((addresses[reading] + place) & mask);
            if (++place == lengths[reading]) { place = 0; reading++; }
            if (!received++) first = b->cycles;
            last = b->cycles;
        }
        b->tick();
    }
    top->request___05Fvalid = 0;
    *cycles = last - first + 1;
    return wrong + (words - received);
}

}  // extern "C"
