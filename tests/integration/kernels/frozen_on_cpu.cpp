// Runs a kernel of src/native/kernels/frozen.cu on the CPU:
//     frozen_on_cpu KERNEL ROWS DIM THREADS EPS with|without < NUMBERS > NUMBERS
// Of a kernel that normalises there come in residual [rows, D], branch [rows, D] bf16 (`with` it), weight [D] and
// bias [D], and the residual goes out; of one that only rounds the input [rows, D] bf16 comes in. Then goes out
// the output [rows, D], and if that is e4m3, scales [rows] float32.
#include "cuda_on_cpu.h"
#include "memory.h"

#include KERNELS_ROWS
#include KERNELS_FROZEN

#include <string>

namespace {

bool has(const std::string &name, const char *part) { return name.find(part) != name.npos; }

} // namespace

int main(int count, char **arguments) {
  if (count != 7)
    return 2;
  const std::string kernel = arguments[1];
  const unsigned rows = std::stoul(arguments[2]), dim = std::stoul(arguments[3]);
  const unsigned threads = std::stoul(arguments[4]);
  const float eps = std::stof(arguments[5]);
  const bool with_branch = std::string(arguments[6]) == "with";
  const bool to_e4m3 = has(kernel, "e4m3"), normalises = has(kernel, "layer_norm");
  const size_t bytes = has(kernel, "float32") ? 4 : 2, numbers = size_t(rows) * dim;

  Memory residual(numbers * bytes), branch(numbers * 2), output(numbers * (to_e4m3 ? 1 : 2));
  Memory weight(dim * bytes), bias(dim * bytes), scales(rows * 4);
  const auto scale = reinterpret_cast<float *>(scales.bytes);
  residual.read();
  if (normalises) {
    if (with_branch)
      branch.read();
    weight.read();
    bias.read();
    const auto run = kernel == "add_layer_norm_bf16"           ? add_layer_norm_bf16
                     : kernel == "add_layer_norm_float32"      ? add_layer_norm_float32
                     : kernel == "add_layer_norm_bf16_e4m3"    ? add_layer_norm_bf16_e4m3
                     : kernel == "add_layer_norm_float32_e4m3" ? add_layer_norm_float32_e4m3
                                                               : nullptr;
    launch({rows, 1}, threads, [&] {
      run(residual.bytes, with_branch ? branch.bytes : nullptr, weight.bytes, bias.bytes,
          output.bytes, to_e4m3 ? scale : nullptr, dim, eps);
    });
    residual.write();
  } else {
    const auto run = kernel == "gelu_e4m3" ? gelu_e4m3 : round_e4m3;
    launch({rows, 1}, threads, [&] { run(residual.bytes, output.bytes, scale, dim); });
  }
  output.write();
  if (to_e4m3)
    scales.write();
}
