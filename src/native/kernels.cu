// Kernels for the frozen teacher, compiled at run time by NVRTC, without any header.
//
// One block works on one row of D numbers, D a multiple of 8 and at most 8192. Each thread holds 8
// neighbouring numbers of the row in registers, so the row is read once. The launch has D / 8
// threads, rounded up to whole warps; those beyond the row add nothing.

namespace {

constexpr unsigned WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
// Numbers that a thread holds.
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

__device__ unsigned packed(float low, float high) { return narrowed(low) | (narrowed(high) << 16); }

struct Bf16 {
  static constexpr unsigned BYTES = 2;
  static __device__ float rounded(float number) { return widened(narrowed(number)); }
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

__device__ float warp_sum(float number) {
  for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
    number += __shfl_xor_sync(WHOLE_WARP, number, distance);
  return number;
}

// The sum over the block, the same in every thread. `partial` has room for a number of each warp,
// and is not used again for another sum, so one barrier is enough.
__device__ float block_sum(float number, float *partial) {
  number = warp_sum(number);
  const unsigned lane = threadIdx.x % WARP;
  if (lane == 0)
    partial[threadIdx.x / WARP] = number;
  __syncthreads();
  return warp_sum(lane < blockDim.x / WARP ? partial[lane] : 0.0f);
}

// residual [rows, D] += branch [rows, D] bf16, unless that is null; then
// output [rows, D] bf16 = (residual - mean) / sqrt(variance + eps) * weight + bias over each row.
// The residual, weight [D] and bias [D] are of format `Number`.
template <typename Number>
__device__ void add_layer_norm(char *residual, const char *branch, const char *weight,
                               const char *bias, char *output, unsigned dim, float eps) {
  __shared__ float sums[WARP];
  __shared__ float squares[WARP];
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
  const float mean = block_sum(sum, sums) / static_cast<float>(dim);

  // Of the differences, not of the squares' sum: means may be far larger than deviations.
  float square = 0.0f;
  if (in_row)
    for (unsigned i = 0; i < HELD; ++i)
      square += (held[i] - mean) * (held[i] - mean);
  const float variance = block_sum(square, squares) / static_cast<float>(dim);
  const float scale = rsqrtf(variance + eps);

  if (in_row) {
    float factors[HELD], offsets[HELD];
    Number::load(weight + first * Number::BYTES, factors);
    Number::load(bias + first * Number::BYTES, offsets);
    for (unsigned i = 0; i < HELD; ++i)
      held[i] = (held[i] - mean) * scale * factors[i] + offsets[i];
    Bf16::store(output + place * Bf16::BYTES, held);
  }
}

} // namespace

extern "C" __global__ void __launch_bounds__(1024)
    add_layer_norm_float32(char *residual, const char *branch, const char *weight,
                           const char *bias, char *output, unsigned dim, float eps) {
  add_layer_norm<Float32>(residual, branch, weight, bias, output, dim, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    add_layer_norm_bf16(char *residual, const char *branch, const char *weight, const char *bias,
                        char *output, unsigned dim, float eps) {
  add_layer_norm<Bf16>(residual, branch, weight, bias, output, dim, eps);
}
