// Bytes of a simulated memory; pages are committed when they are first touched.

#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <new>

class Pages {
public:
    explicit Pages(uint64_t size) : size_(size) {
        void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<uint8_t*>(pages);
    }
    ~Pages() { munmap(data_, size_); }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;

    uint8_t* data() const { return data_; }
    uint64_t size() const { return size_; }

private:
    uint64_t size_;
    uint8_t* data_;
};
