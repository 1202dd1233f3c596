// A board's netlist between its pins: oscillator and PLL, the serial line, the SDRAM chip.
// Python calls the functions at the end through ctypes, many cycles at a time.
//
// Time is counted in a unit of which the clocks' half periods, and the time that the chip's clock is
// later, are whole numbers. Nothing in the netlist takes time; what the pads and the board's wires take, out to the chip and back, is added
// to the chip's words on their way, which reach the pads' registers or miss them.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "Vtop.h"
#include "pages.h"
#include "sdram.h"
#include "verilated.h"

namespace {

struct Options {
    SdramSettings chip;
    uint64_t memory_size;
    uint32_t oscillator_half, core_half;  // units of time
    uint32_t turned;                      // that the chip's clock is behind the core's
    double unit_ns, baud, access_ns, hold_ns, trip_ns;
};

// The host's end of the serial line.
class SerialLine {
public:
    explicit SerialLine(double bit) : bit_(bit) {}

    std::deque<uint8_t> to_board, from_board;
    uint64_t broken = 0;  // bytes without a stop bit

    bool level(double now) {
        while (sending_ && now >= begun_ + kBits * bit_) {
            sending_ = false;
            if (!to_board.empty()) begin(begun_ + kBits * bit_);
        }
        if (!sending_) {
            if (to_board.empty()) return true;
            begin(now);
        }
        return frame_ >> unsigned((now - begun_) / bit_) & 1;
    }

    void sample(bool level, double now) {
        if (!receiving_) {
            if (level) return;
            receiving_ = true;
            middle_ = now + 1.5 * bit_;
            count_ = 0;
        } else if (now >= middle_) {
            middle_ += bit_;
            if (count_++ < 8) {
                byte_ = uint8_t(byte_ >> 1 | level << 7);
                return;
            }
            receiving_ = false;
            if (level) {
                from_board.push_back(byte_);
            } else {
                ++broken;
            }
        }
    }

private:
    static constexpr int kBits = 10;  // start, data, stop

    void begin(double now) {
        frame_ = 1u << 9 | to_board.front() << 1;
        to_board.pop_front();
        begun_ = now;
        sending_ = true;
    }

    double bit_, begun_ = 0, middle_ = 0;
    unsigned frame_ = 0;
    int count_ = 0;
    uint8_t byte_ = 0;
    bool sending_ = false, receiving_ = false;
};

struct Word {
    double begin, end;
    uint32_t value;
};

struct Board {
    explicit Board(const Options& options)
        : o(options), context(new VerilatedContext), top(new Vtop(context.get())),
          line(1e9 / options.baud / options.unit_ns), pages(options.memory_size),
          chip(options.chip, pages.data()), next_oscillator(options.oscillator_half),
          next_core(options.core_half), next_turned(options.core_half + options.turned) {
        top->rx = 1;
        top->eval();
    }
    ~Board() { top->final(); }

    // The next edge of any clock. Returns whether a cycle of the core has begun.
    bool edge() {
        Vtop& t = *top;
        const uint64_t now = std::min({next_oscillator, next_core, next_turned});
        bool begins = false;
        if (now == next_oscillator) {
            next_oscillator += o.oscillator_half;
            t.oscillator = !t.oscillator;
            if (t.oscillator) {
                t.rx = line.level(double(now));
            } else {
                line.sample(t.tx, double(now));
            }
        }
        if (now == next_core) {
            next_core += o.core_half;
            t.pll_clock = begins = !t.pll_clock;
            if (begins) t.dq = word(double(now));
        }
        if (now == next_turned) {
            next_turned += o.core_half;
            t.turned_clock = !t.turned_clock;
        }
        const bool clock = t.sdram_clk;
        t.eval();
        if (t.sdram_clk && !clock) tick(double(now));
        return begins;
    }

    // What the pads' registers catch: the chip's word, if it is there now, or anything.
    uint32_t word(double now) {
        while (!words.empty() && words.front().end <= now) words.pop_front();
        if (!words.empty() && words.front().begin <= now) return words.front().value;
        noise = noise * 1664525u + 1013904223u;
        return noise >> 16;
    }

    void tick(double now) {
        const Vtop& t = *top;
        chip.tick({t.cke, t.cs_n, t.ras_n, t.cas_n, t.we_n, t.ba, t.a, t.dqm,
                   t.dq__en != 0, t.dq__out});
        uint32_t value;
        if (chip.word(value)) {
            words.push_back({now + (o.access_ns + o.trip_ns) / o.unit_ns,
                             now + 2 * o.core_half + (o.hold_ns + o.trip_ns) / o.unit_ns, value});
        }
    }

    const std::string& fault() {
        if (broken.empty() && !chip.fault().empty()) {
            broken = "broke a rule of its SDRAM (" + chip.fault() + ")";
        } else if (broken.empty() && line.broken) {
            broken = "sent a byte without a stop bit";
        }
        return broken;
    }

    uint64_t step(uint64_t cycles, uint64_t bytes) {
        for (uint64_t done = 0; done < cycles; ++done) {
            if (!fault().empty() || (bytes && line.from_board.size() >= bytes)) return done;
            while (!edge()) {
            }
            ++cycle;
        }
        return cycles;
    }

    Options o;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vtop> top;
    SerialLine line;
    Pages pages;
    Sdram chip;
    std::deque<Word> words;
    std::string broken;
    uint64_t next_oscillator, next_core, next_turned, cycle = 0;
    uint32_t noise = 1;
};

}  // namespace

extern "C" {

Board* netlist_create(const Options* options) {
    try {
        return new Board(*options);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void netlist_destroy(Board* board) { delete board; }
const char* netlist_fault(Board* board) { return board->fault().c_str(); }
uint64_t netlist_cycle(Board* board) { return board->cycle; }
uint64_t netlist_step(Board* board, uint64_t cycles, uint64_t bytes) {
    return board->step(cycles, bytes);
}
void netlist_write(Board* board, const uint8_t* bytes, uint64_t count) {
    board->line.to_board.insert(board->line.to_board.end(), bytes, bytes + count);
}
uint64_t netlist_read(Board* board, uint8_t* bytes, uint64_t limit) {
    uint64_t count = 0;
    for (; count < limit && !board->line.from_board.empty(); ++count) {
        bytes[count] = board->line.from_board.front();
        board->line.from_board.pop_front();
    }
    return count;
}
}
