// The SoC as a device: clock, main memory, both ends of the byte link, counters at every mark.
// A mark is what the timestamp log holds, with every counter beside it: both show the values of the
// cycle in which the log is written.
// Python calls the functions at the end through ctypes, many cycles at a time.
//
// On request every retirement is logged in the same way, a record for each cycle in which one of
// the counters RETIRED grew.
//
// BEAT (bytes), COUNTERS, RETIRED, SDRAM (1: main memory is the chip behind the controller's pins)
// and the model's class Vtop come from the build. Verilator writes a double underscore in a port's
// name as ___05F.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Trace = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using Trace = VerilatedVcdC;
#endif

namespace {

// Ports are integers or little-endian arrays of 32-bit words; both are copied as bytes.
template <typename Port> void set(Port& port, const uint8_t* bytes, size_t count) {
    std::memcpy(&port, bytes, count < sizeof(Port) ? count : sizeof(Port));
}
template <typename Port> void get(const Port& port, uint8_t* bytes, size_t count) {
    std::memset(bytes, 0, count);
    std::memcpy(bytes, &port, count < sizeof(Port) ? count : sizeof(Port));
}

}  // namespace

#if SDRAM
#include "sdram_port.h"
#else
#include "plain_port.h"
#endif

namespace {

struct Options {
    MemoryOptions memory;
    uint32_t link_cycles_per_byte;
    uint32_t stall_per_mille;
    uint64_t seed;
};

struct Mark {
    uint64_t cycle;
    uint32_t counters[COUNTERS];
};

struct Status {
    uint64_t cycle;
    uint32_t busy, error, error_queue, error_address;
};

constexpr int kRetired[] = {RETIRED -1};

// More than a memory needs to start.
constexpr uint32_t kStartCycles = 1000000;

enum Stop : uint32_t { kStopIdle = 1, kStopBytes = 2 };

struct Device {
    explicit Device(const Options& options)
        : options(options), context(new VerilatedContext), top(new Vtop(context.get())),
          memory(options.memory),
          random(options.seed * 0x9E3779B97F4A7C15u | 1) {
        reset();
    }
    ~Device() {
        close_trace();
        top->final();
    }

    void reset() {
        resetting = true;
        starting = cancelling = false;
        for (int i = 0; i < 4; ++i) tick();
        resetting = false;
        memory.reset();
        received.clear();
        sent.clear();
        for (uint32_t i = 0; i < kStartCycles && !memory.started(); ++i) {
            if (!memory.fault().empty()) break;
            tick();
        }
    }

    bool stalls() {
        if (!options.stall_per_mille) return false;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random >> 32) % 1000 < options.stall_per_mille;
    }

    // One cycle: look at the settled outputs, then set the inputs of the next cycle, which the
    // registers in front of the SoC take over at the edge. What was set for this cycle is in `now`.
    void tick() {
        Vtop& t = *top;
        if (!now.reset) sample();
        ++cycle;
        drive();
        t.clk = 1;
        t.eval();
        dump(0);
        t.clk = 0;
        t.eval();
        dump(1);
    }

    void append(std::vector<Mark>& log) {
        log.emplace_back();
        log.back().cycle = cycle;
        get(top->counters, reinterpret_cast<uint8_t*>(log.back().counters), 4 * COUNTERS);
    }

    bool retires() {
        uint32_t now[COUNTERS];
        get(top->counters, reinterpret_cast<uint8_t*>(now), sizeof now);
        bool grew = false;
        for (const int* index = kRetired; *index >= 0; ++index) {
            grew |= now[*index] > retired[*index];
            retired[*index] = now[*index];
        }
        return grew;
    }

    void sample() {
        Vtop& t = *top;
        if (t.mark) append(marks);
        if (logging && retires()) append(retirements);
        if (now.offer && t.rx___05Fready) {
            received.pop_front();
            receive_due = cycle + options.link_cycles_per_byte;
        }
        if (now.listen && t.tx___05Fvalid) {
            sent.push_back(t.tx___05Fpayload);
            send_due = cycle + options.link_cycles_per_byte;
        }
        if (now.start && t.direct___05Fstart___05Fready) starting = false;
        memory.sample(t, cycle, stalls());
    }

    void drive() {
        Vtop& t = *top;
        t.rst = now.reset = resetting;
        t.rx___05Fvalid = now.offer = !received.empty() && cycle >= receive_due && !stalls();
        if (now.offer) t.rx___05Fpayload = received.front();
        t.tx___05Fready = now.listen = cycle >= send_due && !stalls();
        memory.drive(t, cycle, stalls());
        t.direct___05Fstart___05Fvalid = now.start = starting;
        t.direct___05Fcancel = cancelling;
        cancelling = false;
    }

    uint64_t step(uint64_t cycles, uint32_t stop, uint64_t bytes) {
        for (uint64_t done = 0; done < cycles; ++done) {
            if (!memory.fault().empty()) return done;
            if ((stop & kStopBytes) && sent.size() >= bytes) return done;
            if ((stop & kStopIdle) && !top->direct___05Fbusy) return done;
            tick();
        }
        return cycles;
    }

    // The contents of main memory, with every write that the SoC has handed over.
    uint8_t* contents() {
        for (uint32_t i = 0; memory.settling(i); ++i) tick();
        return memory.data();
    }

    // Returns whether the core has taken the start within so many cycles; then it shows busy.
    bool start(uint32_t base, uint64_t cycles) {
        top->direct___05Fstart___05Fpayload = base;
        starting = true;
        for (uint64_t i = 0; i < cycles && starting; ++i) tick();
        if (!starting) return true;
        // The last cycle's inputs still hold the start: let it pass before taking it back.
        const bool late = top->direct___05Fstart___05Fready;
        starting = false;
        tick();
        return late;
    }

    void dump(int half) {
#if VM_TRACE
        if (trace) trace->dump(2 * cycle + half);
#else
        (void)half;
#endif
    }

    bool open_trace(const char* path) {
#if VM_TRACE
        context->traceEverOn(true);
        trace = std::make_unique<Trace>();
        top->trace(trace.get(), 99);
        trace->open(path);
        return trace->isOpen();
#else
        (void)path;
        return false;
#endif
    }

    void close_trace() {
#if VM_TRACE
        if (trace) trace->close();
        trace.reset();
#endif
    }

    Options options;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<Vtop> top;
    MemoryPort memory;
    std::deque<uint8_t> received, sent;
    std::vector<Mark> marks, retirements;
    uint32_t retired[COUNTERS] = {};
    uint64_t cycle = 0, receive_due = 0, send_due = 0, random;
    bool resetting = false, starting = false, cancelling = false, logging = false;
    struct {
        bool reset = true, offer = false, listen = false, start = false;
    } now;  // inputs of the current cycle
#if VM_TRACE
    std::unique_ptr<Trace> trace;
#endif
};

}  // namespace

extern "C" {

Device* device_create(const Options* options) {
    try {
        return new Device(*options);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void device_destroy(Device* device) { delete device; }
void device_reset(Device* device) { device->reset(); }
uint8_t* device_memory(Device* device) { return device->contents(); }
const char* device_fault(Device* device) { return device->memory.fault().c_str(); }
uint64_t device_step(Device* device, uint64_t cycles, uint32_t stop, uint64_t bytes) {
    return device->step(cycles, stop, bytes);
}
uint32_t device_start(Device* device, uint32_t base, uint64_t cycles) {
    return device->start(base, cycles);
}
void device_cancel(Device* device) {
    device->cancelling = true;
    device->tick();
    device->tick();
}
void device_watchdog(Device* device, uint32_t cycles) {
    device->top->direct___05Fwatchdog = cycles;
}
void device_status(Device* device, Status* status) {
    const Vtop& t = *device->top;
    *status = {device->cycle, t.direct___05Fbusy, t.direct___05Ferror, t.direct___05Ferror_queue,
               t.direct___05Ferror_address};
}
void device_counters(Device* device, uint32_t* values) {
    get(device->top->counters, reinterpret_cast<uint8_t*>(values), 4 * COUNTERS);
}
void device_link_write(Device* device, const uint8_t* bytes, uint64_t count) {
    device->received.insert(device->received.end(), bytes, bytes + count);
}
uint64_t device_link_read(Device* device, uint8_t* bytes, uint64_t limit) {
    uint64_t count = 0;
    for (; count < limit && !device->sent.empty(); ++count) {
        bytes[count] = device->sent.front();
        device->sent.pop_front();
    }
    return count;
}
uint64_t device_link_unsent(Device* device) { return device->received.size(); }
uint64_t device_marks(Device* device, const Mark** marks) {
    *marks = device->marks.data();
    return device->marks.size();
}
uint32_t device_counter_count() { return COUNTERS; }
void device_clear_marks(Device* device) { device->marks.clear(); }
void device_log(Device* device, uint32_t on) {
    device->logging = on;
    device->retirements.clear();
    std::memset(device->retired, 0, sizeof device->retired);
}
uint64_t device_retirements(Device* device, const Mark** retirements) {
    *retirements = device->retirements.data();
    return device->retirements.size();
}
uint32_t device_trace(Device* device, const char* path) {
    device->close_trace();
    return path ? device->open_trace(path) : 1;
}
}
