// One instruction set and precision of `mlipfm::Expansion` and `mlipfm::PairFunctions`. Functions of N are those of vectors, or with N = Dual their changes where the vectors change.
#include "products.h"

typedef REAL real;
#include "geometry.h"

namespace {
using Expansion = mlipfm::Expansion;
using PairFunctions = mlipfm::PairFunctions;
using Vectors = mlipfm::Vectors<real>;

// The neighbours of one atom within the cutoff, kind after kind; arrays [.][cap] have them in the lanes. Behind each array of numbers stand, `twin`
// numbers further, their changes.
struct Work {
  real *x, *y, *z, *ux, *uy, *uz, *inverse;
  real *Y, *Yt, *radial, *slope, *dY, *dR, *tile;
  int64_t *pair;
  int *start, *place;
  size_t cap, twin;
  int n;
};
size_t plan(const Expansion &e, Work &w, void *memory) {
  char *at = (char *)(((uintptr_t)memory + 63) / 64 * 64);
  w.cap = ((size_t)e.longest + W) / W * W + 2 * W;
  const size_t M = (e.degree + 1) * (e.degree + 1), MP = (M + W - 1) / W * W, R = e.functions;
  const size_t numbers = (7 + 2 * MP + 3 * R + M) * w.cap + R * MP;
  w.twin = (numbers * sizeof(real) + 63) / 64 * 64 / sizeof(real);
  real *a = (real *)at;
  auto take = [&](size_t n) { real *p = a; a += n; return p; };
  w.x = take(w.cap); w.y = take(w.cap); w.z = take(w.cap); w.ux = take(w.cap); w.uy = take(w.cap); w.uz = take(w.cap); w.inverse = take(w.cap);
  w.Y = take(M * w.cap); w.Yt = take(MP * w.cap); w.radial = take(R * w.cap); w.slope = take(R * w.cap); w.dY = take(MP * w.cap); w.dR = take(R * w.cap);
  w.tile = take(R * MP);
  at += 2 * w.twin * sizeof(real);
  w.pair = (int64_t *)at; at += w.cap * sizeof(int64_t);
  w.start = (int *)at; at += (e.kinds + 2) * sizeof(int);
  w.place = (int *)at; at += (e.kinds + 2) * sizeof(int);
  return size_t(at - (char *)memory) + 64;
}
size_t workspace(const Expansion &e) {
  Work w;
  return plan(e, w, (void *)64);
}

template <class N> INLINE N get(const real *p, size_t twin);
template <> inline __attribute__((always_inline)) vec get<vec>(const real *p, size_t) { return load(p); }
template <> inline __attribute__((always_inline)) Dual get<Dual>(const real *p, size_t twin) { return {load(p), load(p + twin)}; }
INLINE void put(real *p, size_t, vec x) { store(p, x); }
INLINE void put(real *p, size_t twin, Dual x) { store(p, x.at); store(p + twin, x.by); }
INLINE vec part(vec x, bool) { return x; }
INLINE vec part(Dual x, bool change) { return change ? x.by : x.at; }
INLINE vec times(vec a, vec b) { return a * b; }
INLINE Dual times(vec a, Dual b) { return {a * b.at, a * b.by}; }
template <class N> constexpr bool changes() { return sizeof(N) == sizeof(Dual); }
// c = a b, and with changes da b + a db behind it.
template <class N> INLINE void multiply(int R, int K, int columns, const real *a, int row, int col, const real *b, int ldb, real *c, int ldc, size_t twin) {
  product(R, K, columns, a, row, col, b, ldb, c, ldc, false);
  if constexpr (changes<N>()) {
    product(R, K, columns, a + twin, row, col, b, ldb, c + twin, ldc, false);
    product(R, K, columns, a, row, col, b + twin, ldb, c + twin, ldc, true);
  }
}

// Sorts the neighbours within the cutoff by kind; after the last come points at the cutoff, where everything is zero, to a whole vector.
template <class N> void gather(const Expansion &e, const Vectors &v, size_t atom, Work &w) {
  const real far2 = real(e.cutoff * e.cutoff);
  for (int t = 0; t <= e.kinds; t++) w.start[t] = 0;
  auto near = [&](int64_t p) {
    const real *d = v.d + 3 * p;
    return e.kind[p] >= 0 && d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < far2;
  };
  for (int64_t p = e.first[atom]; p < e.first[atom + 1]; p++) if (near(p)) w.start[e.kind[p] + 1]++;
  for (int t = 0; t < e.kinds; t++) { w.start[t + 1] += w.start[t]; w.place[t] = w.start[t]; }
  for (int64_t p = e.first[atom]; p < e.first[atom + 1]; p++) {
    if (!near(p)) continue;
    const int k = w.place[e.kind[p]]++;
    w.pair[k] = p;
    w.x[k] = v.d[3 * p]; w.y[k] = v.d[3 * p + 1]; w.z[k] = v.d[3 * p + 2];
    if constexpr (changes<N>()) { w.x[k + w.twin] = v.along[3 * p]; w.y[k + w.twin] = v.along[3 * p + 1]; w.z[k + w.twin] = v.along[3 * p + 2]; }
  }
  const int n = w.start[e.kinds];
  w.n = (n + W - 1) / W * W;
  for (int k = n; k < w.n; k++) {
    w.x[k] = real(e.cutoff); w.y[k] = w.z[k] = 0;
    w.x[k + w.twin] = w.y[k + w.twin] = w.z[k + w.twin] = 0;
  }
}
// `turned`: harmonics with the neighbours in the rows, for sums over them.
template <int L, class N> void geometry(const Expansion &e, Work &w, bool turned) {
  constexpr int M = (L + 1) * (L + 1), MP = (M + W - 1) / W * W;
  const size_t cap = w.cap, twin = w.twin;
  for (int k = 0; k < w.n; k += W) {
    N x = get<N>(w.x + k, twin), y = get<N>(w.y + k, twin), z = get<N>(w.z + k, twin);
    const N r = root(x * x + y * y + z * z), q = real(1) / r;
    x *= q; y *= q; z *= q;
    N Y[M];
    harmonics<L>(x, y, z, Y);
    if (turned) {
      for (int change = 0; change <= int(changes<N>()); change++)
        for (int begin = 0; begin < MP; begin += W) {
          vec rows[W];
          for (int lane = 0; lane < W; lane++) rows[lane] = begin + lane < M ? part(Y[begin + lane < M ? begin + lane : 0], change) : vec{};
          transpose(rows);
          for (int lane = 0; lane < W; lane++) store(w.Yt + change * twin + (size_t)(k + lane) * MP + begin, rows[lane]);
        }
    } else {
      put(w.inverse + k, twin, q); put(w.ux + k, twin, x); put(w.uy + k, twin, y); put(w.uz + k, twin, z);
      for (int m = 0; m < M; m++) put(w.Y + m * cap + k, twin, Y[m]);
    }
    radial_functions(r, q, e.cutoff, e.functions, [&](int n, N value, N slope) __attribute__((always_inline)) {
      put(w.radial + n * cap + k, twin, value);
      if (!turned) put(w.slope + n * cap + k, twin, slope);
    });
  }
}

template <int L, class N> void sums(const Expansion &e, const Vectors &v, real *out, size_t begin, size_t end, void *memory) {
  constexpr int M = (L + 1) * (L + 1), MP = (M + W - 1) / W * W;
  Work w;
  plan(e, w, memory);
  const int R = e.functions;
  const size_t row = e.atoms * M;
  const real factor = real(e.factor);
  for (size_t atom = begin; atom < end; atom++) {
    gather<N>(e, v, atom, w);
    geometry<L, N>(e, w, true);
    for (int t = 0; t < e.kinds; t++) {
      const int at = w.start[t], size = w.start[t + 1] - at;
      if (size) multiply<N>(R, size, MP, w.radial + at, int(w.cap), 1, w.Yt + (size_t)at * MP, MP, w.tile, MP, w.twin);
      const real *from = w.tile + (changes<N>() ? w.twin : 0);
      for (int n = 0; n < R; n++)
        for (int m = 0; m < M; m++) out[((size_t)t * R + n) * row + atom * M + m] = size ? factor * from[n * MP + m] : real(0);
    }
  }
}
template <int L, class N> void gradients(const Expansion &e, const Vectors &v, const real *g, real *out, size_t begin, size_t end, void *memory) {
  constexpr int M = (L + 1) * (L + 1), MP = (M + W - 1) / W * W;
  Work w;
  plan(e, w, memory);
  const int R = e.functions;
  const size_t row = e.atoms * M, cap = w.cap, twin = w.twin;
  const real factor = real(e.factor);
  for (size_t atom = begin; atom < end; atom++) {
    for (int64_t q = 3 * e.first[atom]; q < 3 * e.first[atom + 1]; q++) out[q] = 0;
    gather<N>(e, v, atom, w);
    geometry<L, N>(e, w, false);
    const int n = w.start[e.kinds];
    for (int t = 0; t < e.kinds; t++) {
      const int at = w.start[t], size = w.start[t + 1] - at;
      if (!size) continue;
      for (int k = 0; k < R; k++)
        for (int m = 0; m < M; m++) w.tile[k * MP + m] = factor * g[((size_t)t * R + k) * row + atom * M + m];
      // Whole vectors: what is written beyond this kind belongs to the next, which comes after; the last goes on to the end of the padding.
      const int lanes = ((w.start[t + 1] == n ? w.n : at + size) - at + W - 1) / W * W;
      for (size_t shift = 0; shift <= (changes<N>() ? twin : 0); shift += twin) {  // g itself does not change
        product(M, R, lanes, w.tile, 1, MP, w.radial + at + shift, int(cap), w.dY + at + shift, int(cap), false);
        product(R, M, lanes, w.tile, MP, 1, w.Y + at + shift, int(cap), w.dR + at + shift, int(cap), false);
      }
    }
    for (int k = 0; k < w.n; k += W) {
      const N x = get<N>(w.ux + k, twin), y = get<N>(w.uy + k, twin), z = get<N>(w.uz + k, twin), q = get<N>(w.inverse + k, twin);
      N radial = constant<N>(0), gx, gy, gz;
      for (int f = 0; f < R; f++) radial += get<N>(w.slope + f * cap + k, twin) * get<N>(w.dR + f * cap + k, twin);
      harmonics_gradient<L>([&](int m) __attribute__((always_inline)) { return get<N>(w.dY + m * cap + k, twin); }, x, y, z, gx, gy, gz);
      const N along = radial - q * (gx * x + gy * y + gz * z);  // the gradient of a harmonic is taken on the sphere
      const vec a = part(along * x + q * gx, true), b = part(along * y + q * gy, true), c = part(along * z + q * gz, true);
      for (int lane = 0; lane < W && k + lane < n; lane++) {
        real *to = out + 3 * w.pair[k + lane];
        to[0] = a[lane]; to[1] = b[lane]; to[2] = c[lane];
      }
    }
  }
}

// Vectors of up to W pairs, with points at the cutoff behind the last, and what the functions need of them.
template <class N> struct Lane3 { N x, y, z, r, q; };
template <class N> INLINE Lane3<N> lanes_of(const PairFunctions &f, const Vectors &v, size_t p, int count) {
  vec d[3], along[3];
  for (int c = 0; c < 3; c++)
    for (int lane = 0; lane < W; lane++) {
      d[c][lane] = lane < count ? v.d[3 * (p + lane) + c] : c ? real(0) : real(f.cutoff);
      along[c][lane] = changes<N>() && lane < count ? v.along[3 * (p + lane) + c] : real(0);
    }
  Lane3<N> l;
  if constexpr (changes<N>()) { l.x = {d[0], along[0]}; l.y = {d[1], along[1]}; l.z = {d[2], along[2]}; }
  else { l.x = d[0]; l.y = d[1]; l.z = d[2]; }
  l.r = root(l.x * l.x + l.y * l.y + l.z * l.z); l.q = real(1) / l.r;
  l.x *= l.q; l.y *= l.q; l.z *= l.q;
  return l;
}
template <int L, class N> void pair_sums(const PairFunctions &f, const Vectors &v, real *out, size_t begin, size_t end) {
  constexpr int M = (L + 1) * (L + 1);
  for (size_t p = begin; p < end; p += W) {
    const int count = end - p < W ? int(end - p) : W;
    auto write = [&](int row, N value) __attribute__((always_inline)) {
      const vec x = real(f.factor[row]) * part(value, true);
      real *to = out + (size_t)row * f.pairs + p;
      if (count == W) store(to, x);
      else for (int lane = 0; lane < count; lane++) to[lane] = x[lane];
    };
    const Lane3<N> l = lanes_of<N>(f, v, p, count);
    radial_functions(l.r, l.q, f.cutoff, f.functions, [&](int n, N value, N) __attribute__((always_inline)) { write(n, value); });
    N Y[M];
    harmonics<L>(l.x, l.y, l.z, Y);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) write(f.functions + m, Y[m]);
  }
}
template <int L, class N> void pair_gradients(const PairFunctions &f, const Vectors &v, const real *g, real *out, size_t begin, size_t end) {
  for (size_t p = begin; p < end; p += W) {
    const int count = end - p < W ? int(end - p) : W;
    auto read = [&](int row) __attribute__((always_inline)) {
      const real *from = g + (size_t)row * f.pairs + p;
      vec x = vec{};
      if (count == W) x = load(from);
      else for (int lane = 0; lane < count; lane++) x[lane] = from[lane];
      return real(f.factor[row]) * x;
    };
    const Lane3<N> l = lanes_of<N>(f, v, p, count);
    N radial = constant<N>(0), gx, gy, gz;
    radial_functions(l.r, l.q, f.cutoff, f.functions, [&](int n, N, N slope) __attribute__((always_inline)) { radial += times(read(n), slope); });
    harmonics_gradient<L>([&](int m) __attribute__((always_inline)) { return times(read(f.functions + m), constant<N>(1)); }, l.x, l.y, l.z, gx, gy, gz);
    const N along = radial - l.q * (gx * l.x + gy * l.y + gz * l.z);
    const vec to[3] = {part(along * l.x + l.q * gx, true), part(along * l.y + l.q * gy, true), part(along * l.z + l.q * gz, true)};
    for (int lane = 0; lane < count; lane++)
      for (int c = 0; c < 3; c++) out[3 * (p + lane) + c] = to[c][lane];
  }
}

#define EACH_DEGREE(of, name, ...) \
  (v.along ? (of.degree == 3 ? name<3, Dual>(__VA_ARGS__) : of.degree == 2 ? name<2, Dual>(__VA_ARGS__) : name<1, Dual>(__VA_ARGS__)) \
           : (of.degree == 3 ? name<3, vec>(__VA_ARGS__) : of.degree == 2 ? name<2, vec>(__VA_ARGS__) : name<1, vec>(__VA_ARGS__)))
void value(const Expansion &e, const Vectors &v, real *out, size_t begin, size_t end, void *memory) {
  EACH_DEGREE(e, sums, e, v, out, begin, end, memory);
}
void gradient(const Expansion &e, const Vectors &v, const real *g, real *out, size_t begin, size_t end, void *memory) {
  EACH_DEGREE(e, gradients, e, v, g, out, begin, end, memory);
}
void pair_value(const PairFunctions &f, const Vectors &v, real *out, size_t begin, size_t end) { EACH_DEGREE(f, pair_sums, f, v, out, begin, end); }
void pair_gradient(const PairFunctions &f, const Vectors &v, const real *g, real *out, size_t begin, size_t end) {
  EACH_DEGREE(f, pair_gradients, f, v, g, out, begin, end);
}
}  // namespace

#define JOIN2(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN2(a, b, c)
extern "C" const mlipfm::Expansions<real> JOIN(mlipfm_expansions, ISA, REAL) = {workspace, value, gradient, pair_value, pair_gradient};
