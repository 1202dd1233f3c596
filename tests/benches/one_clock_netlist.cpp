// A netlist with one clock and a serial line: functions for ctypes, many cycles at a time.
// Sender and receiver count whole cycles a bit.

#include <cstdint>
#include <deque>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

namespace {

struct Board {
    explicit Board(uint32_t bit) : bit(bit), context(new VerilatedContext),
                                   top(new Vtop(context.get())) {
        top->rx = 1;
        top->clk = 0;
        top->eval();
    }
    ~Board() { top->final(); }

    void cycle() {
        if (sending == 0 && !to_board.empty()) {
            frame = 1u << 9 | to_board.front() << 1;
            to_board.pop_front();
            sending = 10 * bit;
        }
        top->rx = sending == 0 || (frame >> ((10 * bit - sending) / bit) & 1);
        if (sending) --sending;
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
        receive(top->tx);
        ++now;
    }

    void receive(bool level) {
        if (receiving == 0) {
            if (!level) receiving = 10 * bit;
            return;
        }
        --receiving;
        const uint32_t passed = 10 * bit - receiving;
        if (passed % bit != bit / 2) return;
        const uint32_t number = passed / bit;
        if (number >= 1 && number <= 8) byte = uint8_t(byte >> 1 | level << 7);
        if (number == 9) {
            receiving = 0;
            if (level) from_board.push_back(byte); else ++broken;
        }
    }

    uint32_t bit;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vtop> top;
    std::deque<uint8_t> to_board, from_board;
    uint32_t sending = 0, receiving = 0, frame = 0;
    uint64_t now = 0, broken = 0;
    uint8_t byte = 0;
};

}  // namespace

extern "C" {

Board* board_create(uint32_t bit) { return new Board(bit); }
void board_destroy(Board* board) { delete board; }
uint64_t board_broken(Board* board) { return board->broken; }
uint64_t board_step(Board* board, uint64_t cycles, uint64_t bytes) {
    for (uint64_t done = 0; done < cycles; ++done) {
        if (bytes && board->from_board.size() >= bytes) return done;
        board->cycle();
    }
    return cycles;
}
void board_write(Board* board, const uint8_t* bytes, uint64_t count) {
    board->to_board.insert(board->to_board.end(), bytes, bytes + count);
}
uint64_t board_read(Board* board, uint8_t* bytes, uint64_t limit) {
    uint64_t count = 0;
    for (; count < limit && !board->from_board.empty(); ++count) {
        bytes[count] = board->from_board.front();
        board->from_board.pop_front();
    }
    return count;
}
}
