// Runs a kernel of src/native/kernels.cu on the CPU:
//     on_cpu float32|bf16 ROWS DIM THREADS EPS with|without < NUMBERS > NUMBERS
// In come residual [rows, D], branch [rows, D] bf16 (`with` it), weight [D] and bias [D]; out go the
// residual and the output [rows, D] bf16.
#include "cuda_on_cpu.h"

#include KERNELS

#include <cstdio>
#include <cstring>
#include <string>

namespace {

// Memory of exactly this size at a multiple of 16: the address sanitizer sees a byte too far.
struct Memory {
  char *bytes;
  size_t size;
  explicit Memory(size_t wanted) : bytes(new (std::align_val_t(16)) char[wanted]), size(wanted) {
    std::memset(bytes, 0xff, wanted); // NaN in either format
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

} // namespace

int main(int count, char **arguments) {
  if (count != 7)
    return 2;
  const bool bf16 = std::string(arguments[1]) == "bf16";
  const unsigned rows = std::stoul(arguments[2]), dim = std::stoul(arguments[3]);
  const unsigned threads = std::stoul(arguments[4]);
  const float eps = std::stof(arguments[5]);
  const bool with_branch = std::string(arguments[6]) == "with";
  const size_t bytes = bf16 ? 2 : 4, numbers = size_t(rows) * dim;

  Memory residual(numbers * bytes), branch(numbers * 2), output(numbers * 2);
  Memory weight(dim * bytes), bias(dim * bytes);
  residual.read();
  if (with_branch)
    branch.read();
  weight.read();
  bias.read();
  const auto kernel = bf16 ? add_layer_norm_bf16 : add_layer_norm_float32;
  launch(rows, threads, [&] {
    kernel(residual.bytes, with_branch ? branch.bytes : nullptr, weight.bytes, bias.bytes,
           output.bytes, dim, eps);
  });
  residual.write();
  output.write();
}
