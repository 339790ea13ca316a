// Kernels for the frozen teacher.
//
// One block works on one row, which is read once: each thread holds V vectors of it, V being 1 where rows are
// normalised, of at most 8192 numbers, and 2 where they are only rounded, of at most 16384. The launch has
// D / 8 / V threads, rounded up to whole warps; those beyond the row add nothing.
//
// Rows in e4m3 have a scale each: numbers are values times scale, and the largest is the largest of e4m3.

namespace {

// The largest number of e4m3, and what stands for the largest of a row of zeros.
constexpr float LARGEST = 448.0f, LEAST = 1e-12f;

// To the nearest number of e4m3, ties to even, none beyond the largest; a NaN stays one.
__device__ unsigned e4m3_of(float number) {
  const unsigned bits = __float_as_uint(number), sign = bits >> 24 & 0x80u;
  unsigned size = bits & 0x7fffffffu;
  if (size > 0x7f800000u)
    return sign | 0x7fu;
  // Below 2^-6 numbers are 2^-9 apart, as those of float32 are from 2^14 on.
  if (size < 0x3c800000u)
    return sign | (__float_as_uint(__uint_as_float(size) + 16384.0f) - 0x46800000u);
  size += 0x7ffffu + (size >> 20 & 1u);
  const unsigned rounded = (size >> 20) - (120u << 3);
  return sign | (rounded < 0x7eu ? rounded : 0x7eu);
}

// Two of them, the first in the lower byte.
__device__ unsigned e4m3_pair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return e4m3_of(first) | e4m3_of(second) << 8;
#endif
}

// Rounds a row of bf16 numbers of which this thread holds V times 8, those beyond it being 0, to e4m3:
// output [rows, D] and scales [rows] float32. The same numbers as from libtorch's operators.
template <unsigned V>
__device__ void store_e4m3(const float (*held)[HELD], unsigned dim, char *output, float *scales,
                           float *partial) {
  float largest = 0.0f;
  for (unsigned vector = 0; vector < V; ++vector)
    for (unsigned i = 0; i < HELD; ++i)
      largest = fmaxf(largest, fabsf(held[vector][i]));
  const float scale = fmaxf(block_reduce<Largest>(largest, partial), LEAST) / LARGEST;
  const float inverse = 1.0f / scale;
  if (threadIdx.x == 0)
    scales[blockIdx.x] = scale;
  for (unsigned vector = 0; vector < V; ++vector) {
    const unsigned first = (vector * blockDim.x + threadIdx.x) * HELD;
    if (first >= dim)
      break;
    unsigned pairs[HELD / 2];
    for (unsigned i = 0; i < HELD / 2; ++i)
      pairs[i] = e4m3_pair(held[vector][2 * i] * inverse, held[vector][2 * i + 1] * inverse);
    const unsigned long long place = static_cast<unsigned long long>(blockIdx.x) * dim + first;
    *reinterpret_cast<uint2 *>(output + place) =
        uint2{pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
  }
}

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

  float sum = 0.0f;
  for (unsigned i = 0; i < HELD; ++i)
    sum += held[i];
  const float mean = block_reduce<Sum>(sum, sums) / static_cast<float>(dim);

  // Of the differences, not of the squares' sum: means may be far larger than deviations.
  float square = 0.0f;
  if (in_row)
    for (unsigned i = 0; i < HELD; ++i)
      square += (held[i] - mean) * (held[i] - mean);
  const float variance = block_reduce<Sum>(square, squares) / static_cast<float>(dim);
  const float scale = rsqrtf(variance + eps);

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
    store_e4m3<1>(&held, dim, output, scales, maxima);
  } else if (in_row) {
    Bf16::store(output + place * Bf16::BYTES, held);
  }
}

struct AsItIs {
  static __device__ float of(float number) { return number; }
};

struct Gelu {
  static __device__ float of(float number) { return number * normal_below(number).one; }
};

// A function of input [rows, D] bf16, rounded to bf16, then to e4m3.
template <typename Function>
__device__ void round_rows(const char *input, char *output, float *scales, unsigned dim) {
  __shared__ float maxima[WARP];
  float held[2][HELD] = {};
  for (unsigned vector = 0; vector < 2; ++vector) {
    const unsigned first = (vector * blockDim.x + threadIdx.x) * HELD;
    if (first >= dim)
      break;
    const unsigned long long place = static_cast<unsigned long long>(blockIdx.x) * dim + first;
    Bf16::load(input + place * Bf16::BYTES, held[vector]);
    for (unsigned i = 0; i < HELD; ++i)
      held[vector][i] = Bf16::rounded(Function::of(held[vector][i]));
  }
  store_e4m3<2>(held, dim, output, scales, maxima);
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
    round_e4m3(const char *input, char *output, float *scales, unsigned dim) {
  round_rows<AsItIs>(input, output, scales, dim);
}

extern "C" __global__ void __launch_bounds__(1024)
    gelu_e4m3(const char *input, char *output, float *scales, unsigned dim) {
  round_rows<Gelu>(input, output, scales, dim);
}

// GELU of `vectors` times 8 bf16 numbers; the output may be the input.
extern "C" __global__ void __launch_bounds__(256)
    gelu(const char *input, char *output, unsigned vectors) {
  gelu_of(input, output, vectors);
}
