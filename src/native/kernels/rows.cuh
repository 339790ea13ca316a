// What all kernels share: numbers in registers, formats in memory, reductions over a row; and the kernels that both of the
// other files need. NVRTC compiles it before each of them, without any header.
//
// One block works on rows of D numbers, D a multiple of 8; each thread holds vectors of 8 neighbouring numbers.
// Rows in e4m3 have a scale each: numbers are values times scale, and the largest is the largest of e4m3.

namespace {

constexpr unsigned WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
// Neighbouring numbers that a thread holds.
constexpr unsigned HELD = 8;

// bf16 is the upper half of a float32.
__device__ float widened(unsigned bits) { return __uint_as_float(bits << 16); }

// To the nearest, ties to even; a NaN stays one.
__device__ unsigned narrowed(float number) {
  const unsigned bits = __float_as_uint(number);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return 0x7fc0u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ void unpack(unsigned pair, float *two) {
  two[0] = widened(pair & 0xffffu);
  two[1] = widened(pair >> 16);
}

__device__ unsigned packed(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return narrowed(low) | (narrowed(high) << 16);
#endif
}

struct Bf16 {
  static constexpr unsigned BYTES = 2;
  static __device__ float rounded(float number) { return widened(packed(number, 0.0f) & 0xffffu); }
  // Of all that a thread holds.
  static __device__ void round(float *held) {
    for (unsigned i = 0; i < HELD; i += 2)
      unpack(packed(held[i], held[i + 1]), held + i);
  }
  static __device__ void load(const void *from, float *held) {
    const uint4 four = *static_cast<const uint4 *>(from);
    unpack(four.x, held);
    unpack(four.y, held + 2);
    unpack(four.z, held + 4);
    unpack(four.w, held + 6);
  }
  static __device__ void store(void *to, const float *held) {
    *static_cast<uint4 *>(to) = uint4{packed(held[0], held[1]), packed(held[2], held[3]),
                                      packed(held[4], held[5]), packed(held[6], held[7])};
  }
};

struct Float32 {
  static constexpr unsigned BYTES = 4;
  static __device__ float rounded(float number) { return number; }
  static __device__ void load(const void *from, float *held) {
    const uint4 *fours = static_cast<const uint4 *>(from);
    for (unsigned half = 0; half < 2; ++half) {
      const uint4 four = fours[half];
      held[4 * half] = __uint_as_float(four.x);
      held[4 * half + 1] = __uint_as_float(four.y);
      held[4 * half + 2] = __uint_as_float(four.z);
      held[4 * half + 3] = __uint_as_float(four.w);
    }
  }
  static __device__ void store(void *to, const float *held) {
    uint4 *fours = static_cast<uint4 *>(to);
    for (unsigned half = 0; half < 2; ++half)
      fours[half] =
          uint4{__float_as_uint(held[4 * half]), __float_as_uint(held[4 * half + 1]),
                __float_as_uint(held[4 * half + 2]), __float_as_uint(held[4 * half + 3])};
  }
};

struct Sum {
  static __device__ float of(float one, float other) { return one + other; }
};

// Of numbers from 0 on.
struct Largest {
  static __device__ float of(float one, float other) { return fmaxf(one, other); }
};

template <typename Operation> __device__ float warp_reduce(float number) {
  for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
    number = Operation::of(number, __shfl_xor_sync(WHOLE_WARP, number, distance));
  return number;
}

// Over the block, the same in every thread. `partial` has room for a number of each warp, and is not
// used again for another reduction, so one barrier is enough.
template <typename Operation> __device__ float block_reduce(float number, float *partial) {
  number = warp_reduce<Operation>(number);
  const unsigned lane = threadIdx.x % WARP;
  if (lane == 0)
    partial[threadIdx.x / WARP] = number;
  __syncthreads();
  return warp_reduce<Operation>(lane < blockDim.x / WARP ? partial[lane] : 0.0f);
}

struct Two {
  float one, other;
};

// Mean and 1 / sqrt(variance + eps) of the row of which this thread holds a vector, zeros beyond it. `sums` and
// `squares` have room for a number of each warp.
__device__ Two row_statistics(const float *held, bool in_row, unsigned dim, float eps, float *sums,
                              float *squares) {
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
  return Two{mean, rsqrtf(variance + eps)};
}

// Both by the GPU's own instruction, to about two units of the last place; what is too small becomes zero.
__device__ float power_of_two(float number) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(number));
  return power;
#else
  return exp2f(number);
#endif
}

__device__ float reciprocal(float number) {
#ifdef __CUDA_ARCH__
  float found;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(number));
  return found;
#else
  return 1.0f / number;
#endif
}

// The share of a normal distribution below `number`, and its density there times `number`: GELU is the first
// times `number`, its derivative their sum. Below zero the share is computed itself and not as what is left
// of one (Abramowitz & Stegun 1964, 7.1.26: to 1.5e-7).
__device__ Two normal_below(float number) {
  const float density = power_of_two(-0.72134752044448170f * number * number);
  const float t = reciprocal(1.0f + 0.3275911f * 0.70710678118654752f * fabsf(number));
  const float series =
      t * (0.254829592f +
           t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float beyond = 0.5f * series * density;
  return Two{number < 0.0f ? beyond : 1.0f - beyond, number * density * 0.39894228040143268f};
}

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

// Rounds this row of bf16 numbers, of which this thread holds V times 8, those beyond it being 0, to e4m3:
// output [rows, D] and scales [rows] float32. The same numbers as from libtorch's operators.
template <unsigned V>
__device__ void store_e4m3(const float (*held)[HELD], unsigned row, unsigned dim, char *output,
                           float *scales, float *partial) {
  float largest = 0.0f;
  for (unsigned vector = 0; vector < V; ++vector)
    for (unsigned i = 0; i < HELD; ++i)
      largest = fmaxf(largest, fabsf(held[vector][i]));
  const float scale = fmaxf(block_reduce<Largest>(largest, partial), LEAST) / LARGEST;
  const float inverse = 1.0f / scale;
  if (threadIdx.x == 0)
    scales[row] = scale;
  for (unsigned vector = 0; vector < V; ++vector) {
    const unsigned first = (vector * blockDim.x + threadIdx.x) * HELD;
    if (first >= dim)
      break;
    unsigned pairs[HELD / 2];
    for (unsigned i = 0; i < HELD / 2; ++i)
      pairs[i] = e4m3_pair(held[vector][2 * i] * inverse, held[vector][2 * i + 1] * inverse);
    const unsigned long long place = static_cast<unsigned long long>(row) * dim + first;
    *reinterpret_cast<uint2 *>(output + place) =
        uint2{pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
  }
}

struct AsItIs {
  static __device__ float of(float number) { return number; }
};

struct Gelu {
  static __device__ float of(float number) { return number * normal_below(number).one; }
};

// A function of input [rows, D] bf16, rounded to bf16, which goes to `plain` unless that is null, then to e4m3.
template <typename Function>
__device__ void round_rows(const char *input, char *plain, char *output, float *scales,
                           unsigned dim) {
  __shared__ float maxima[WARP];
  float held[2][HELD] = {};
  for (unsigned vector = 0; vector < 2; ++vector) {
    const unsigned first = (vector * blockDim.x + threadIdx.x) * HELD;
    if (first >= dim)
      break;
    const unsigned long long place = static_cast<unsigned long long>(blockIdx.x) * dim + first;
    Bf16::load(input + place * Bf16::BYTES, held[vector]);
    for (unsigned i = 0; i < HELD; ++i)
      held[vector][i] = Function::of(held[vector][i]);
    Bf16::round(held[vector]);
    if (plain != nullptr)
      Bf16::store(plain + place * Bf16::BYTES, held[vector]);
  }
  store_e4m3<2>(held, blockIdx.x, dim, output, scales, maxima);
}

} // namespace

// GELU of `vectors` times 8 bf16 numbers; the output may be the input.
extern "C" __global__ void __launch_bounds__(256)
    gelu(const char *input, char *output, unsigned vectors) {
  const unsigned long long vector =
      static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (vector >= vectors)
    return;
  float held[HELD];
  Bf16::load(input + vector * HELD * Bf16::BYTES, held);
  for (unsigned i = 0; i < HELD; ++i)
    held[i] *= normal_below(held[i]).one;
  Bf16::store(output + vector * HELD * Bf16::BYTES, held);
}

// input [rows, D] bf16 in e4m3. A block for each row.
extern "C" __global__ void __launch_bounds__(1024)
    round_e4m3(const char *input, char *output, float *scales, unsigned dim) {
  round_rows<AsItIs>(input, nullptr, output, scales, dim);
}
