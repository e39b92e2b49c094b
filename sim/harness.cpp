// Runs the Verilated SimulationTop without Python in the loop: the host's side of bus, weights and streams.
// Verilator writes the double underscore of Amaranth's stream ports as ___05F.
// Python (sim/engine.py) hands over whole sequences and calls run() now and then.
#include <cstdint>
#include <cstring>
#include <memory>
#include "Vtop.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

// xorshift32: repeatable idle and stall patterns.
struct Random {
    uint32_t state = 1;
    bool one_in_256(uint32_t share) {
        state ^= state << 13; state ^= state >> 17; state ^= state << 5;
        return (state & 0xFF) < share;
    }
};

struct Simulation {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vtop> top;
    uint64_t cycles = 0, words = 0, written = 0;
    // The sequence being streamed.
    const int16_t *inputs = nullptr;
    int16_t *outputs = nullptr;
    // For each step: cycle of its first input and of its last output element, weight words consumed till then.
    uint64_t *started = nullptr, *finished = nullptr, *words_till = nullptr;
    uint32_t steps = 0, n_inputs = 0, n_outputs = 0;
    uint32_t pause = 0;             // 0: inputs always offered; else cycles from an output to the next input
    uint32_t idle = 0, stall = 0;   // in 1/256, of input valid and output ready
    bool offered = false;           // valid waits for ready, and stays
    uint64_t sent = 0, received = 0;
    Random random;

    Simulation() {
        const char *arguments[] = {"simulation"};
        context->commandArgs(1, arguments);     // ram.v looks for +weights
        top.reset(new Vtop(context.get()));
        top->rst = 1;
        for (int i = 0; i < 4; i++) tick();
        top->rst = 0;
        tick();
        cycles = 0;
    }
    ~Simulation() { top->final(); }

    void tick() {
        words += top->word_taken;
        written += top->word_written;
        top->clk = 1; top->eval();
        top->clk = 0; top->eval();
        cycles++;
    }

    void write(uint32_t address, uint32_t value) {
        top->bus_address = address; top->bus_w_data = value; top->bus_write = 1;
        top->eval(); tick();
        top->bus_write = 0;
        top->eval();
    }

    uint32_t read(uint32_t address) {
        top->bus_address = address;
        top->eval(); tick(); tick(); tick();
        return top->bus_r_data;
    }

    void load(const uint8_t *bytes, uint32_t words, uint32_t width) {
        top->weight_write = 1;
        for (uint32_t i = 0; i < words; i++) {
            top->weight_address = i;
            std::memcpy(&top->weight_data, bytes + uint64_t(i) * width, width);
            top->eval(); tick();
        }
        top->weight_write = 0;
        top->eval();
    }

    bool may_offer() const {
        if (sent == uint64_t(steps) * n_inputs) return false;
        if (!pause || sent % n_inputs) return true;
        uint64_t step = sent / n_inputs;
        if (received < step * n_outputs) return false;
        return !step || cycles >= finished[step - 1] + pause;
    }

    // One cycle of streaming.
    void stream() {
        if (!offered) offered = may_offer() && !(idle && random.one_in_256(idle));
        top->input___05Fvalid = offered;
        // Junk while idle, so that nobody can read a payload that is not offered.
        top->input___05Fpayload = offered ? uint16_t(inputs[sent]) : uint16_t(0xDEAD);
        top->output___05Fready = !(stall && random.one_in_256(stall));
        top->eval();
        if (offered && top->input___05Fready) {
            if (sent % n_inputs == 0) started[sent / n_inputs] = cycles;
            sent++;
            offered = false;
        }
        if (top->output___05Fvalid && top->output___05Fready && received < uint64_t(steps) * n_outputs) {
            outputs[received++] = int16_t(top->output___05Fpayload);
            if (received % n_outputs == 0) {
                finished[received / n_outputs - 1] = cycles;
                words_till[received / n_outputs - 1] = words;
            }
        }
        tick();
    }
};

}  // namespace

extern "C" {

Simulation *simulation_new() { return new Simulation; }
void simulation_delete(Simulation *s) { delete s; }
void simulation_write(Simulation *s, uint32_t address, uint32_t value) { s->write(address, value); }
uint32_t simulation_read(Simulation *s, uint32_t address) { return s->read(address); }
uint64_t simulation_cycles(Simulation *s) { return s->cycles; }
uint64_t simulation_words(Simulation *s) { return s->words; }
uint64_t simulation_written(Simulation *s) { return s->written; }
void simulation_load(Simulation *s, const uint8_t *bytes, uint32_t words, uint32_t width) {
    s->load(bytes, words, width);
}

void simulation_memory(Simulation *s, uint32_t latency, uint32_t stall) {
    s->top->latency = latency; s->top->stall = stall;
}

void simulation_begin(Simulation *s, const int16_t *inputs, int16_t *outputs, uint64_t *started,
                      uint64_t *finished, uint64_t *words, uint32_t steps, uint32_t n_inputs,
                      uint32_t n_outputs, uint32_t pause, uint32_t idle, uint32_t stall, uint32_t seed) {
    s->inputs = inputs; s->outputs = outputs; s->started = started; s->finished = finished;
    s->words_till = words;
    s->steps = steps; s->n_inputs = n_inputs; s->n_outputs = n_outputs;
    s->pause = pause; s->idle = idle; s->stall = stall; s->random.state = seed | 1;
    s->sent = s->received = 0; s->offered = false;
}

// Streams for at most `cycles` cycles; returns the steps finished. With no steps left, the clock just runs on.
uint32_t simulation_run(Simulation *s, uint64_t cycles) {
    const uint64_t all = uint64_t(s->steps) * s->n_outputs;
    for (uint64_t end = s->cycles + cycles; s->cycles < end && (s->received < all || !all);) s->stream();
    s->top->input___05Fvalid = 0; s->top->output___05Fready = 0; s->top->eval();
    return s->n_outputs ? uint32_t(s->received / s->n_outputs) : 0;
}

}  // extern "C"
