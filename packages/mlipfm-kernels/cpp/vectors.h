// Short vectors, matrix products and a few functions on them. Compiled once per instruction set and precision: everything here is local to the
// file that includes it, and nothing of the standard library is used, so that no code for a newer processor leaks into another file.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif
constexpr int W = BYTES / int(sizeof(real));  // lanes
#define INLINE static inline __attribute__((always_inline))

typedef real vec __attribute__((vector_size(BYTES)));
typedef real vec_any __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
template <int size> struct Integer;
template <> struct Integer<4> { typedef int32_t type; };
template <> struct Integer<8> { typedef int64_t type; };
typedef Integer<sizeof(real)>::type whole;
typedef whole ivec __attribute__((vector_size(BYTES)));

INLINE vec load(const real *p) { return *(const vec_any *)p; }
INLINE void store(real *p, vec v) { *(vec_any *)p = v; }
INLINE vec all(real x) { return x - vec{}; }
INLINE vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
typedef int64_t words __attribute__((vector_size(BYTES)));
INLINE bool any(ivec mask) {
  const words q = (words)mask;
  int64_t bits = 0;
  for (int i = 0; i < BYTES / 8; i++) bits |= q[i];
  return bits != 0;
}
INLINE vec root(vec x) {
  vec out;
  for (int i = 0; i < W; i++) out[i] = sizeof(real) == 4 ? real(__builtin_sqrtf(float(x[i]))) : real(__builtin_sqrt(double(x[i])));
  return out;
}

// Polynomial c[0] + c[1] x + ... by Horner's rule.
template <int n> INLINE vec polynomial(vec x, const double (&c)[n]) {
  vec p = all(real(c[n - 1]));
#pragma GCC unroll 32
  for (int k = n - 2; k >= 0; k--) p = p * x + real(c[k]);
  return p;
}

// exp x to the last digits of `real`; x is clamped to where the result is a normal number. (t + big) - big rounds to a whole number: a compiler
// that is allowed to reorder sums (-ffast-math) deletes it, and forces are wrong by several per cent.
INLINE vec exponential(vec x) {
  constexpr bool single = sizeof(real) == 4;
  const real low = single ? real(-87) : real(-708), high = single ? real(88) : real(709);
  x = pick(x < low, all(low), pick(x > high, all(high), x));
  const vec t = x * real(1.44269504088896340736), big = all(single ? real(12582912) : real(6755399441055744.0));
  const vec rounded = t + big;
  const vec f = (t - (rounded - big)) * real(0.69314718055994530942);
  const double c[] = {1, 1, 1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720., 1 / 5040., 1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600.};
  vec p;
  if constexpr (single) {
    const double short_c[] = {1, 1, 1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720.};
    p = polynomial(f, short_c);
  } else {
    p = polynomial(f, c);
  }
  return (vec)((ivec)p + ((ivec)rounded << (single ? 23 : 52)));
}

// C[rows, V vectors of columns] (+)= A[rows, K] B[K, .]: A is read entry by entry with two strides, rows of B and C are contiguous. Where the rows
// are few, S partial sums are kept, so that a sum need not wait for the one before.
template <int R, int V, int S = 1> INLINE void tile(int K, const real *a, int row, int col, const real *b, int ldb, real *c, int ldc, bool add) {
  vec acc[S][R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      acc[0][r][v] = add ? load(c + (size_t)r * ldc + v * W) : vec{};
#pragma GCC unroll 4
      for (int s = 1; s < S; s++) acc[s][r][v] = vec{};
    }
  int k = 0;
#pragma GCC unroll 1
  for (; k + S <= K; k += S) {
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
      vec x[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) x[v] = load(b + (size_t)(k + s) * ldb + v * W);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vec y = all(a[(size_t)r * row + (size_t)(k + s) * col]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[s][r][v] += y * x[v];
      }
    }
  }
  if constexpr (S > 1) {
#pragma GCC unroll 1
    for (; k < K; k++)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[0][r][v] += a[(size_t)r * row + (size_t)k * col] * load(b + (size_t)k * ldb + v * W);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
#pragma GCC unroll 4
      for (int s = 1; s < S; s++) acc[0][r][v] += acc[s][r][v];
      store(c + (size_t)r * ldc + v * W, acc[0][r][v]);
    }
}
// Rows are shared out evenly over tiles: a tile of few rows waits for its own sums.
template <int V, int MOST> INLINE void strip(int R, int K, const real *a, int row, int col, const real *b, int ldb, real *c, int ldc, bool add) {
  for (int tiles = (R + MOST - 1) / MOST, r = 0; tiles > 0; tiles--) {
    const int left = R - r, rows = tiles == 1 ? left : tiles == 2 ? (left + 1) / 2 : tiles == 3 ? (left + 2) / 3 : MOST;  // no slow division
    const real *from = a + (size_t)r * row;
    real *to = c + (size_t)r * ldc;
    r += rows;
#define CASE(n) case n: if constexpr (n <= MOST) tile<n, V, n * V <= 2 ? 4 : n * V <= 4 ? 2 : 1>(K, from, row, col, b, ldb, to, ldc, add); break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) default: break; }
#undef CASE
  }
}
// N (a multiple of W) columns. Inlined where the compiler knows the sizes, else called.
INLINE void product_inlined(int R, int K, int N, const real *a, int row, int col, const real *b, int ldb, real *c, int ldc, bool add) {
  int n = 0;
  if (R <= 2)
    for (; n + 4 * W <= N; n += 4 * W) strip<4, 2>(R, K, a, row, col, b + n, ldb, c + n, ldc, add);
  for (; n + 2 * W <= N; n += 2 * W) strip<2, ROWS>(R, K, a, row, col, b + n, ldb, c + n, ldc, add);
  if (n < N) strip<1, 12>(R, K, a, row, col, b + n, ldb, c + n, ldc, add);
}
static __attribute__((noinline)) void product(int R, int K, int N, const real *a, int row, int col, const real *b, int ldb, real *c, int ldc, bool add) {
  product_inlined(R, K, N, a, row, col, b, ldb, c, ldc, add);
}

// W x W transpose in registers, by exchanging blocks of 1, 2, 4, ... entries.
template <size_t... I> struct Lanes {
  template <int S> static inline __attribute__((always_inline)) vec low(vec a, vec b) { return __builtin_shufflevector(a, b, int((I & S) ? W + I - S : I)...); }
  template <int S> static inline __attribute__((always_inline)) vec high(vec a, vec b) { return __builtin_shufflevector(a, b, int((I & S) ? W + I : I + S)...); }
  template <int S> static inline __attribute__((always_inline)) vec turn(vec a) { return __builtin_shufflevector(a, a, int((I + S) % W)...); }
};
template <size_t n, size_t... I> struct Count : Count<n - 1, n - 1, I...> {};
template <size_t... I> struct Count<0, I...> { typedef Lanes<I...> type; };
typedef Count<W>::type Lane;
template <int S> INLINE void exchange(vec *r) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
    if (!(i & S)) {
      const vec a = r[i], b = r[i + S];
      r[i] = Lane::template low<S>(a, b);
      r[i + S] = Lane::template high<S>(a, b);
    }
}
INLINE real sum(vec v) {
  if constexpr (W >= 16) v += Lane::template turn<8>(v);
  if constexpr (W >= 8) v += Lane::template turn<4>(v);
  if constexpr (W >= 4) v += Lane::template turn<2>(v);
  if constexpr (W >= 2) v += Lane::template turn<1>(v);
  return v[0];
}
// Transpose within every group of four lanes, of four vectors.
INLINE void exchange_four(vec *r) {
  if constexpr (W >= 4) {
    vec a[4] = {Lane::template low<1>(r[0], r[1]), Lane::template high<1>(r[0], r[1]), Lane::template low<1>(r[2], r[3]), Lane::template high<1>(r[2], r[3])};
    r[0] = Lane::template low<2>(a[0], a[2]); r[2] = Lane::template high<2>(a[0], a[2]);
    r[1] = Lane::template low<2>(a[1], a[3]); r[3] = Lane::template high<2>(a[1], a[3]);
  }
}
INLINE void transpose(vec *r) {
  if constexpr (W >= 2) exchange<1>(r);
  if constexpr (W >= 4) exchange<2>(r);
  if constexpr (W >= 8) exchange<4>(r);
  if constexpr (W >= 16) exchange<8>(r);
}
}  // namespace
