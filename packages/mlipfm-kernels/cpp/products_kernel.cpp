// One instruction set and precision of `products.h`.
#include "products.h"

typedef REAL real;
#include "vectors.h"

namespace {
using mlipfm::Pairs;
using Cubic = mlipfm::Cubic<real>;
using Operand = mlipfm::Operand<real>;
using Factors = mlipfm::Factors<real>;
using Gradients = mlipfm::Gradients<real>;

template <int V> INLINE void rows_of(const Operand &x, size_t columns, size_t column, vec (*to)[V]) {
  for (int i = 0; i < x.count; i++) for (int v = 0; v < V; v++) to[i][v] = load(x.rows + i * columns + column + v * W);
  for (int v = 0; v < V; v++) to[x.count][v] = all(1);
}
// V vectors of columns at a time: sums that do not wait for each other.
template <int V> INLINE void cubic_block(const Cubic &q, const Operand &x, const Operand &y, const Operand &z, real *out, size_t column) {
  vec a[mlipfm::MAX_ROWS][V], b[mlipfm::MAX_ROWS][V], c[mlipfm::MAX_ROWS][V];
  rows_of<V>(x, q.columns, column, a);
  rows_of<V>(y, q.columns, column, b);
  rows_of<V>(z, q.columns, column, c);
  for (int o = 0; o < q.outputs; o++) {
    vec sum[V] = {};
    for (int t = q.first[o]; t < q.first[o + 1]; t++) {
      const int32_t *k = q.term + 3 * t;
      const vec w = all(q.weight[t]);
      for (int v = 0; v < V; v++) sum[v] += w * a[k[0]][v] * (b[k[1]][v] * c[k[2]][v]);
    }
    for (int v = 0; v < V; v++) store(out + o * q.columns + column + v * W, sum[v]);
  }
}
INLINE real entry(const Operand &x, int row, size_t columns, size_t column) { return row < x.count ? x.rows[row * columns + column] : real(1); }
void cubic(const Cubic &q, const Operand &x, const Operand &y, const Operand &z, real *out, size_t begin, size_t end) {
  size_t column = begin;
  for (; column + 2 * W <= end; column += 2 * W) cubic_block<2>(q, x, y, z, out, column);
  for (; column < end; column++)
    for (int o = 0; o < q.outputs; o++) {
      real sum = 0;
      for (int t = q.first[o]; t < q.first[o + 1]; t++) {
        const int32_t *k = q.term + 3 * t;
        sum += q.weight[t] * entry(x, k[0], q.columns, column) * (entry(y, k[1], q.columns, column) * entry(z, k[2], q.columns, column));
      }
      out[o * q.columns + column] = sum;
    }
}

int padded(int rows) { return (rows + W - 1) / W * W; }
// Of the pairs of one atom: [pairs, C] each F, v.F, F s, its change, Y^T g, v.Y^T g, the gradients by F and by v.F; g and both W with C in front, and a tile.
struct Work {
  real *F, *v_F, *amplitude, *change, *slope, *turn, *by_F, *by_v, *g, *W, *v_W, *tile;
};
size_t workspace(const Pairs &p) {
  const size_t rows = padded(p.rows), functions = padded(p.functions), C = p.channels, longest = p.longest;
  return 64 + sizeof(real) * (8 * longest * C + (rows + 2 * functions) * C + (rows > functions ? rows : functions) * longest);
}
// w[n, C] -> [C, n padded with zeros]; rows of w are `stride` apart
void turned(const real *w, size_t stride, int n, int C, real *to) {
  const int Q = padded(n);
  for (int c = 0; c < C; c++) for (int m = 0; m < Q; m++) to[c * Q + m] = m < n ? w[m * stride + c] : real(0);
}
Work plan(const Pairs &p, const real *weights, const real *v_weights, void *memory) {
  real *at = (real *)(((uintptr_t)memory + 63) / 64 * 64);
  const size_t C = p.channels, block = p.longest * C;
  Work w{at, at + block, at + 2 * block, at + 3 * block, at + 4 * block, at + 5 * block, at + 6 * block, at + 7 * block, at + 8 * block, 0, 0, 0};
  w.W = w.g + padded(p.rows) * C;
  w.v_W = w.W + padded(p.functions) * C;
  w.tile = w.v_W + padded(p.functions) * C;
  turned(weights, C, p.functions, p.channels, w.W);
  if (v_weights) turned(v_weights, C, p.functions, p.channels, w.v_W);
  return w;
}
// to[n, pair] (+)= sum over c of x[pair, c] w[c, n]
void spread(const Pairs &p, size_t at, int count, const real *x, const real *w, int n, real *tile, real *to, bool add) {
  const int Q = padded(n);
  product(count, p.channels, Q, x, p.channels, 1, w, Q, tile, Q, false);
  for (int m = 0; m < n; m++)
    for (int k = 0; k < count; k++) to[m * p.pairs + at + k] = tile[k * Q + m] + (add ? to[m * p.pairs + at + k] : real(0));
}
// [pairs, C] (+)= x[n, pairs]^T w[n, C]
INLINE void by_pair(const Pairs &p, size_t at, int count, const real *x, int n, const real *w, size_t stride, real *to, bool add) {
  product(count, n, p.channels, x + at, 1, int(p.pairs), w, int(stride), to, p.channels, add);
}
// to[n, C] (+)= x[n, pairs] y[pairs, C]
INLINE void by_row(const Pairs &p, size_t at, int count, const real *x, int n, const real *y, real *to, size_t stride, bool add) {
  product(n, count, p.channels, x + at, int(p.pairs), 1, y, p.channels, to, int(stride), add);
}

void message(const Pairs &p, const Factors &of, real *out, size_t begin, size_t end, void *memory) {
  const Work w = plan(p, of.W, nullptr, memory);
  const size_t C = p.channels, stride = p.atoms * C;
  for (size_t a = begin; a < end; a++) {
    const size_t at = p.first[a];
    const int count = int(p.first[a + 1] - p.first[a]);
    by_pair(p, at, count, of.R, p.functions, of.W, C, w.F, false);
    for (int k = 0; k < count; k++)
      for (size_t c = 0; c < C; c += W) store(w.amplitude + k * C + c, load(w.F + k * C + c) * load(of.s + p.neighbor[at + k] * C + c));
    by_row(p, at, count, of.Y, p.rows, w.amplitude, out + a * C, stride, false);
  }
}

void gradient(const Pairs &p, const Factors &of, const real *g, const Gradients &by, size_t begin, size_t end, void *memory) {
  const Work w = plan(p, of.W, nullptr, memory);
  const size_t C = p.channels, stride = p.atoms * C;
  for (size_t a = begin; a < end; a++) {
    const size_t at = p.first[a];
    const int count = int(p.first[a + 1] - p.first[a]);
    by_pair(p, at, count, of.R, p.functions, of.W, C, w.F, false);
    by_pair(p, at, count, of.Y, p.rows, g + a * C, stride, w.slope, false);
    for (int k = 0; k < count; k++) {
      const size_t j = p.neighbor[at + k] * C;
      for (size_t c = 0; c < C; c += W) {
        const vec t = load(w.slope + k * C + c), f = load(w.F + k * C + c), s = load(of.s + j + c);
        store(w.by_F + k * C + c, t * s);
        store(w.amplitude + k * C + c, f * s);
        if (by.s) store(by.s + j + c, load(by.s + j + c) + t * f);
      }
    }
    if (by.R) spread(p, at, count, w.by_F, w.W, p.functions, w.tile, by.R, false);
    if (by.W) by_row(p, at, count, of.R, p.functions, w.by_F, by.W, C, true);
    if (by.Y) {
      turned(g + a * C, stride, p.rows, p.channels, w.g);
      spread(p, at, count, w.amplitude, w.g, p.rows, w.tile, by.Y, false);
    }
  }
}

void second(const Pairs &p, const Factors &of, const real *g, const Factors &v, real *by_g, const Gradients &by, size_t begin, size_t end,
            void *memory) {
  const Work w = plan(p, of.W, v.W, memory);
  const size_t C = p.channels, stride = p.atoms * C;
  for (size_t a = begin; a < end; a++) {
    const size_t at = p.first[a];
    const int count = int(p.first[a + 1] - p.first[a]);
    const real *ga = g + a * C;
    by_pair(p, at, count, of.R, p.functions, of.W, C, w.F, false);
    for (size_t q = 0; q < count * C; q++) w.v_F[q] = w.turn[q] = 0;
    if (v.R) by_pair(p, at, count, v.R, p.functions, of.W, C, w.v_F, true);
    if (v.W) by_pair(p, at, count, of.R, p.functions, v.W, C, w.v_F, true);
    if (v.Y) by_pair(p, at, count, v.Y, p.rows, ga, stride, w.turn, false);
    by_pair(p, at, count, of.Y, p.rows, ga, stride, w.slope, false);
    for (int k = 0; k < count; k++) {
      const size_t j = p.neighbor[at + k] * C;
      for (size_t c = 0, q = k * C; c < C; c += W, q += W) {
        const vec s = load(of.s + j + c), v_s = v.s ? load(v.s + j + c) : vec{}, F = load(w.F + q), v_F = load(w.v_F + q);
        const vec slope = load(w.slope + q), turn = load(w.turn + q);
        store(w.amplitude + q, F * s);
        store(w.change + q, v_F * s + F * v_s);
        store(w.by_F + q, turn * s + slope * v_s);
        store(w.by_v + q, slope * s);
        if (by.s) store(by.s + j + c, load(by.s + j + c) + (turn * F + slope * v_F));
      }
    }
    by_row(p, at, count, of.Y, p.rows, w.change, by_g + a * C, stride, false);
    if (v.Y) by_row(p, at, count, v.Y, p.rows, w.amplitude, by_g + a * C, stride, true);
    if (by.R) spread(p, at, count, w.by_F, w.W, p.functions, w.tile, by.R, false);
    if (by.R && v.W) spread(p, at, count, w.by_v, w.v_W, p.functions, w.tile, by.R, true);
    if (by.W) by_row(p, at, count, of.R, p.functions, w.by_F, by.W, C, true);
    if (by.W && v.R) by_row(p, at, count, v.R, p.functions, w.by_v, by.W, C, true);
    if (by.Y) {
      turned(ga, stride, p.rows, p.channels, w.g);
      spread(p, at, count, w.change, w.g, p.rows, w.tile, by.Y, false);
    }
  }
}
}  // namespace

#define JOIN2(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN2(a, b, c)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
extern "C" const mlipfm::Products<real> JOIN(mlipfm_products, ISA, REAL) = {TEXT(ISA), cubic, workspace, message, gradient, second};
