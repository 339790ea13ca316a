// Memory as a kernel sees it, from standard input and to standard output.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

// Memory of exactly this size at a multiple of 16: the address sanitizer sees a byte too far.
struct Memory {
  char *bytes;
  size_t size;
  explicit Memory(size_t wanted) : bytes(new (std::align_val_t(16)) char[wanted]), size(wanted) {
    std::memset(bytes, 0xff, wanted); // NaN in every format
  }
  Memory(const Memory &) = delete;
  ~Memory() { ::operator delete[](bytes, std::align_val_t(16)); }
  void read() {
    if (std::fread(bytes, 1, size, stdin) != size)
      std::abort();
  }
  void write() const {
    if (std::fwrite(bytes, 1, size, stdout) != size)
      std::abort();
  }
};
