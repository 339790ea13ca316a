// Kernels for the frozen teacher.
//
// One block works on one row, which is read once: each thread holds V vectors of it, V being 1 where rows are
// normalised, of at most 8192 numbers, and 2 where they are only rounded, of at most 16384. The launch has
// D / 8 / V threads, rounded up to whole warps; those beyond the row add nothing.

namespace {

// residual [rows, D] += branch [rows, D] bf16, unless that is null; then
// output [rows, D] bf16 = (residual - mean) / sqrt(variance + eps) * weight + bias over each row.
// The residual, weight [D] and bias [D] are of format `Number`. With TO_E4M3 the output is rounded
// further, to e4m3 with scales [rows]; else there are none.
template <typename Number, bool TO_E4M3>
__device__ void add_layer_norm(char *residual, const char *branch, const char *weight,
                               const char *bias, char *output, float *scales, unsigned dim,
                               float eps) {
  __shared__ float sums[WARP];
  __shared__ float squares[WARP];
  __shared__ float maxima[WARP];
  const unsigned first = threadIdx.x * HELD;
  const bool in_row = first < dim;
  const unsigned long long place = static_cast<unsigned long long>(blockIdx.x) * dim + first;

  float held[HELD] = {};
  if (in_row) {
    Number::load(residual + place * Number::BYTES, held);
    if (branch != nullptr) {
      float added[HELD];
      Bf16::load(branch + place * Bf16::BYTES, added);
      for (unsigned i = 0; i < HELD; ++i)
        held[i] = Number::rounded(held[i] + added[i]);
      Number::store(residual + place * Number::BYTES, held);
    }
  }

  const Two statistics = row_statistics(held, in_row, dim, eps, sums, squares);
  const float mean = statistics.one, scale = statistics.other;

  if (in_row) {
    float factors[HELD], offsets[HELD];
    Number::load(weight + first * Number::BYTES, factors);
    Number::load(bias + first * Number::BYTES, offsets);
    for (unsigned i = 0; i < HELD; ++i)
      held[i] = (held[i] - mean) * scale * factors[i] + offsets[i];
  }
  if (TO_E4M3) {
    for (unsigned i = 0; i < HELD; ++i)
      held[i] = in_row ? Bf16::rounded(held[i]) : 0.0f;
    store_e4m3<1>(&held, blockIdx.x, dim, output, scales, maxima);
  } else if (in_row) {
    Bf16::store(output + place * Bf16::BYTES, held);
  }
}

} // namespace

#define ADD_LAYER_NORM(NAME, NUMBER, TO_E4M3)                                                     \
  extern "C" __global__ void __launch_bounds__(1024)                                              \
      NAME(char *residual, const char *branch, const char *weight, const char *bias,              \
           char *output, float *scales, unsigned dim, float eps) {                                \
    add_layer_norm<NUMBER, TO_E4M3>(residual, branch, weight, bias, output, scales, dim, eps);    \
  }

ADD_LAYER_NORM(add_layer_norm_float32, Float32, false)
ADD_LAYER_NORM(add_layer_norm_bf16, Bf16, false)
ADD_LAYER_NORM(add_layer_norm_float32_e4m3, Float32, true)
ADD_LAYER_NORM(add_layer_norm_bf16_e4m3, Bf16, true)

extern "C" __global__ void __launch_bounds__(1024)
    gelu_e4m3(const char *input, char *output, float *scales, unsigned dim) {
  round_rows<Gelu>(input, nullptr, output, scales, dim);
}
