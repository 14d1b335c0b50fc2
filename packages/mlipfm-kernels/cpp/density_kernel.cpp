// Energy and forces of the backbone `density`, one block of atoms at a time. Compiled for each instruction set (ISA) and precision (REAL).
//
// The density of neighbours A_cm = sum_j w_jc f_c(r_ij) Y_m(u_ij) has few radial functions: f_c = sum_n filter_cn R_n. Where w depends on the type
// of the neighbour alone (the first layer), the sum over neighbours is done before the channels exist,
//     a_nm = sum over neighbours of one type of R_n(r) Y_m(u),     A_cm = sum over types of sum_n (w_c filter_cn) a_nm,
// and the maps of channels that follow are multiplied into one matrix per type. The work per neighbour is then R (L + 1)^2 multiply-adds for the
// energy and twice that for the forces, whatever the number of channels.
//
// Where an atom has few neighbours of many types (molecules), the mixtures of each neighbour, G_qk = sum_n (mix w filter)_qn R_n(r_k), are summed
// instead: the work per type falls away and that per neighbour is higher.
//
// Layouts: an array [n][cap] has the neighbours in its lanes, [.][MP] the harmonics (padded), [.][C] the channels.
#ifndef REAL
#define REAL float
#endif
#ifndef ISA
#define ISA native
#endif
typedef REAL real;
#include "geometry.h"
#include "model.h"

namespace {
using mlipfm::List;
using mlipfm::Mode;
typedef mlipfm::Model<real> Model;
typedef mlipfm::Layer<real> Layer;
typedef mlipfm::Results<real> Results;
typedef mlipfm::Between<real> Between;

constexpr int BLOCK = 8;  // atoms at most
constexpr int FEW = 64;   // neighbours at most that are summed one by one

typedef double quad __attribute__((vector_size(32)));
typedef double quad_any __attribute__((vector_size(32), aligned(8), may_alias));

INLINE int up(int n) { return (n + W - 1) / W * W; }
INLINE int padded(int n) { return (n + 15) / 16 * 16; }

// Sizes of a model: known to the compiler (more than 0) for the smallest, which is there to be fast, else when it is loaded.
template <int degree, int channels = 0, int mixed = 0, int functions = 0> struct Sizes {
  static constexpr int L = degree, M = (L + 1) * (L + 1), MP = (M + W - 1) / W * W;
  static constexpr bool known = channels > 0;
  const int C, Q, R;
  explicit Sizes(const Model &m) : C(known ? channels : m.channels), Q(known ? mixed : m.mixed), R(known ? functions : m.functions) {}
  template <class... T> static inline __attribute__((always_inline)) void multiply(T... given) {
    if constexpr (known) product_inlined(given...);
    else product(given...);
  }
};
INLINE bool narrow(const Model &m) { return sizeof(real) == 4 && m.degree == 3 && m.layers == 1 && m.channels == 16 && m.mixed == 16 && m.functions == 9; }

// Memory of one thread. Pointers with [atom] are kept from the sums over neighbours to the gradient, for each atom of the block.
struct Work {
  int cap, runs, L, MP, R, C, Q;
  real *row[BLOCK];                                          // [cap][4] vectors to the neighbours, then the gradients by them
  real *ux[BLOCK], *uy[BLOCK], *uz[BLOCK], *inverse[BLOCK];  // [cap] directions and 1/r
  real *shortest[BLOCK];                                     // [cap] distance of the training data, see `trained`
  real *Y[BLOCK], *radial[BLOCK], *slope[BLOCK];             // [M][cap], [R][cap], [R][cap]
  real *weighted[BLOCK], *plain[BLOCK], *weight[BLOCK];      // [C][cap] of later layers: w f, f, w
  real *expansion[BLOCK];                                    // first layer [runs][R][MP], later layers [C][MP]
  real *mixed[BLOCK];                                        // [M][2 Q]
  int32_t *index[BLOCK];                                     // [cap]
  int *type[BLOCK], *start[BLOCK];                           // [runs], [runs + 1]
  real *each[BLOCK], *each_t[BLOCK];                         // [FEW][2 Q + C] what each neighbour adds, where they are few; [2 Q][FEW]
  int n[BLOCK], used[BLOCK];
  bool few[BLOCK];
  real *Yt;                                                  // [cap][MP]
  real *steep;                                               // [cap] slope of the repulsion
  real *dY, *dR, *dF, *dD;                                   // [M][cap], [R][cap], [C][cap], gradient of the expansion
  real *straight;                                            // [R padded] what comes back from the hidden layer
  real *dM, *dMt;                                            // [M][2 Q], [2 Q][MP]
  real *dEach, *dReach;                                      // [FEW][2 Q], [FEW][R padded]
  real *invariants, *hidden, *slope1, *second, *back, *d_invariants;  // [BLOCK][.]
};

template <class T> INLINE T *take(char *&at, size_t n) {
  T *p = (T *)at;
  at += (n * sizeof(T) + 63) / 64 * 64;
  return p;
}

static size_t plan(const Model &m, const List &list, Work &w, char *at) {
  char *const begin = at;
  w.runs = list.most_runs > 0 ? list.most_runs : 1;
  w.cap = up(list.longest + 1) + 2 * W;
  w.L = m.degree;
  const int M = (w.L + 1) * (w.L + 1), cap = w.cap;
  w.MP = up(M);
  w.R = m.functions; w.C = m.channels; w.Q = m.mixed;
  const int deep = m.layers > 1 ? w.C : 0, most = w.runs * w.R > deep ? w.runs * w.R : deep;
  for (int b = 0; b < BLOCK; b++) {
    w.row[b] = take<real>(at, (size_t)4 * cap);
    w.ux[b] = take<real>(at, cap); w.uy[b] = take<real>(at, cap); w.uz[b] = take<real>(at, cap); w.inverse[b] = take<real>(at, cap);
    w.shortest[b] = take<real>(at, m.shortest ? cap : 0);
    w.Y[b] = take<real>(at, (size_t)M * cap);
    w.radial[b] = take<real>(at, (size_t)w.R * cap); w.slope[b] = take<real>(at, (size_t)w.R * cap);
    w.weighted[b] = take<real>(at, (size_t)deep * cap); w.plain[b] = take<real>(at, (size_t)deep * cap); w.weight[b] = take<real>(at, (size_t)deep * cap);
    w.expansion[b] = take<real>(at, (size_t)most * w.MP);
    w.mixed[b] = take<real>(at, (size_t)M * 2 * w.Q);
    w.each[b] = take<real>(at, (size_t)FEW * (2 * w.Q + w.C)); w.each_t[b] = take<real>(at, (size_t)FEW * 2 * w.Q);
    w.index[b] = take<int32_t>(at, cap);
    w.type[b] = take<int>(at, w.runs); w.start[b] = take<int>(at, w.runs + 1);
  }
  w.Yt = take<real>(at, (size_t)cap * w.MP); w.steep = take<real>(at, cap);
  w.dY = take<real>(at, (size_t)w.MP * cap); w.dR = take<real>(at, (size_t)w.R * cap); w.dF = take<real>(at, (size_t)deep * cap);
  w.dD = take<real>(at, (size_t)most * w.MP);
  w.dM = take<real>(at, (size_t)M * 2 * w.Q); w.dMt = take<real>(at, (size_t)2 * w.Q * w.MP);
  w.dEach = take<real>(at, (size_t)FEW * 2 * w.Q);
  w.dReach = take<real>(at, (size_t)FEW * padded(w.R)); w.straight = take<real>(at, padded(w.R));
  const int X = (w.L + 1) * w.Q;
  w.invariants = take<real>(at, (size_t)BLOCK * X); w.d_invariants = take<real>(at, (size_t)BLOCK * X);
  w.hidden = take<real>(at, (size_t)BLOCK * w.C); w.slope1 = take<real>(at, (size_t)BLOCK * w.C);
  w.second = take<real>(at, (size_t)BLOCK * w.C); w.back = take<real>(at, (size_t)BLOCK * w.C);
  return size_t(at - begin);
}

typedef real row4 __attribute__((vector_size(4 * sizeof(real)), may_alias));
typedef real row4_any __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));

// Rows of x y z and a fourth number, one for each neighbour, to and from one vector for each of the three.
INLINE void load_rows(const real *row, vec &x, vec &y, vec &z) {
  if constexpr (W >= 4) {
    vec v[4];
    for (int k = 0; k < 4; k++)
      for (int group = 0; group < W / 4; group++) ((row4 *)&v[k])[group] = *(const row4_any *)(row + 4 * (4 * group + k));
    exchange_four(v);
    x = v[0]; y = v[1]; z = v[2];
  } else {
    for (int lane = 0; lane < W; lane++) { x[lane] = row[4 * lane]; y[lane] = row[4 * lane + 1]; z[lane] = row[4 * lane + 2]; }
  }
}
INLINE void store_rows(real *row, vec x, vec y, vec z) {
  if constexpr (W >= 4) {
    vec v[4] = {x, y, z, vec{}};
    exchange_four(v);
    for (int k = 0; k < 4; k++)
      for (int group = 0; group < W / 4; group++) *(row4_any *)(row + 4 * (4 * group + k)) = ((row4 *)&v[k])[group];
  } else {
    for (int lane = 0; lane < W; lane++) { row[4 * lane] = x[lane]; row[4 * lane + 1] = y[lane]; row[4 * lane + 2] = z[lane]; row[4 * lane + 3] = 0; }
  }
}

// The neighbours of atom i within the cutoff, run by run; after the last come points at the cutoff, where everything is zero, to a whole vector.
INLINE void gather(const Model &m, const List &list, int i, int b, Work &w) {
  real *row = w.row[b];
  int32_t *index = w.index[b];
  quad own = *(const quad_any *)(list.position + 4 * (size_t)i);
  own[3] = 0;
  const real far2 = real(m.cutoff * m.cutoff), edge = real(m.cutoff);
  int n = 0, used = 0, at = list.first_run[i] ? list.run_end[list.first_run[i] - 1] : 0;
  for (int run = list.first_run[i]; run < list.first_run[i + 1]; run++) {
    const int begin = n, end = list.run_end[run];
    for (; at < end; at++) {
      const int j = list.neighbor[at];
      const row4 d = __builtin_convertvector(*(const quad_any *)(list.position + 4 * (size_t)j) - own, row4);
      *(row4_any *)(row + 4 * (size_t)n) = d;
      index[n] = j;
      const row4 d2 = d * d;
      n += d2[0] + d2[1] + d2[2] < far2;
    }
    if (n == begin) continue;
    if (m.shortest) {
      const real shortest = real(m.shortest[int(list.position[4 * (size_t)i + 3]) * m.types + list.run_type[run]]);
      for (int k = begin; k < n; k++) w.shortest[b][k] = shortest;
    }
    w.type[b][used] = list.run_type[run];
    w.start[b][used++] = begin;
  }
  w.start[b][used] = n;
  for (const int whole = up(n); n < whole; n++) {
    *(row4_any *)(row + 4 * (size_t)n) = row4{edge, 0, 0, 0};
    index[n] = list.total;
    if (m.shortest) w.shortest[b][n] = 0;
  }
  w.n[b] = n; w.used[b] = used;
  w.few[b] = n <= FEW && w.start[b][used] < 5 * used;
}

// The distance that the model is given: r itself, and below the shortest distance a of the training data a (1 - (1 - nearest) x/(1 + x^4)^(1/4))
// with x = (1 - r/a)/(1 - nearest). Returns its derivative by r.
INLINE vec trained(vec &r, vec shortest, real nearest) {
  const ivec near = r < shortest;
  if (!any(near)) return all(1);
  const vec a = pick(near, shortest, all(1));
  const vec x = pick(near, (real(1) - r / a) * (real(1) / (real(1) - nearest)), vec{}), x2 = x * x;
  const vec square = root(real(1) + x2 * x2), fourth = root(square);
  r = pick(near, a * (real(1) - (real(1) - nearest) * x / fourth), r);
  return real(1) / (square * square * fourth);
}

// Directions, harmonics, radial functions and their slopes.
template <class S> INLINE void geometry(const S &z, const Model &m, int b, Work &w) {
  constexpr int M = S::M, MP = S::MP;
  const int cap = w.cap, R = z.R;
  for (int k = 0; k < w.n[b]; k += W) {
    vec x, y, z;
    load_rows(w.row[b] + 4 * (size_t)k, x, y, z);
    const vec r2 = x * x + y * y + z * z, r = root(r2), q = real(1) / r;
    store(w.inverse[b] + k, q);
    x *= q; y *= q; z *= q;
    store(w.ux[b] + k, x); store(w.uy[b] + k, y); store(w.uz[b] + k, z);
    vec Y[MP];
    harmonics<S::L>(x, y, z, Y);
#pragma GCC unroll 16
    for (int q_ = 0; q_ < M; q_++) store(w.Y[b] + (size_t)q_ * cap + k, Y[q_]);
    for (int q_ = M; q_ < MP; q_++) Y[q_] = vec{};
    for (int part = 0; part < MP; part += W) {
      transpose(Y + part);
#pragma GCC unroll 16
      for (int lane = 0; lane < W; lane++) store(w.Yt + (size_t)(k + lane) * MP + part, Y[part + lane]);
    }
    vec given = r, change = all(1);
    if (m.shortest) change = trained(given, load(w.shortest[b] + k), real(m.nearest));
    radial_functions(given, m.shortest ? real(1) / given : q, m.cutoff, R, [&](int n, vec value, vec slope) __attribute__((always_inline)) {
      store(w.radial[b] + (size_t)n * cap + k, value);
      store(w.slope[b] + (size_t)n * cap + k, slope * change);
    });
  }
}

INLINE void turned(const real *from, int width, int rows, int n, real *to, int cap) {  // [n][width] to [rows][cap]
  for (int k = 0; k < n; k += W)
    for (int part = 0; part < rows; part += W) {
      vec block[W];
      for (int lane = 0; lane < W; lane++) block[lane] = load(from + (size_t)(k + lane) * width + part);
      transpose(block);
      for (int lane = 0; lane < W && part + lane < rows; lane++) store(to + (size_t)(part + lane) * cap + k, block[lane]);
    }
}

// Sums over the neighbours: the expansion, and from it both mixtures and what goes straight to the hidden layer.
template <class S> INLINE void expand_first(const S &z, const Layer &layer, int type, int b, Work &w) {
  const int M = S::M, MP = S::MP, R = z.R, C = z.C, Q2 = 2 * z.Q, J = Q2 + C;
  real *hidden = w.hidden + (size_t)b * C;
  for (int c = 0; c < C; c += W) store(hidden + c, load(layer.bias + (size_t)type * C + c));
  for (int run = 0; run < w.used[b]; run++) {
    const int begin = w.start[b][run], size = w.start[b][run + 1] - begin, t = w.type[b][run];
    const real *maps = layer.maps + (size_t)t * R * J;
    real *a = w.expansion[b] + (size_t)run * R * MP;
    S::multiply(R, size, MP, w.radial[b] + begin, w.cap, 1, w.Yt + (size_t)begin * MP, MP, a, MP, false);
    S::multiply(M, R, Q2, a, 1, MP, maps, J, w.mixed[b], Q2, run > 0);
    S::multiply(1, R, C, a, 0, MP, maps + Q2, J, hidden, C, true);
  }
  if (!w.used[b]) for (int q = 0; q < M * Q2; q += W) store(w.mixed[b] + q, vec{});
}
template <class S> INLINE void expand_few(const S &z, const Layer &layer, int type, int b, Work &w) {
  const int M = S::M, R = z.R, C = z.C, Q2 = 2 * z.Q, J = Q2 + C, n = w.start[b][w.used[b]];
  real *each = w.each[b], *hidden = w.hidden + (size_t)b * C;
  for (int run = 0; run < w.used[b]; run++) {
    const int begin = w.start[b][run], size = w.start[b][run + 1] - begin, t = w.type[b][run];
    S::multiply(size, R, J, w.radial[b] + begin, 1, w.cap, layer.maps + (size_t)t * R * J, J, each + (size_t)begin * J, J, false);
  }
  for (int k = n; k < w.n[b]; k++)
    for (int q = 0; q < Q2; q += W) store(each + (size_t)k * J + q, vec{});
  S::multiply(M, n, Q2, w.Y[b], w.cap, 1, each, J, w.mixed[b], Q2, false);
  for (int c = 0; c < C; c += W) {
    vec sum = load(layer.bias + (size_t)type * C + c);
    for (int k = 0; k < n; k++) sum += load(each + (size_t)k * J + Q2 + c);
    store(hidden + c, sum);
  }
  turned(each, J, Q2, w.n[b], w.each_t[b], FEW);
}
INLINE void expand_later(const Model &m, const Layer &layer, const List &list, const real *weight, const real *scalar, int b, Work &w) {
  const int M = (w.L + 1) * (w.L + 1), MP = w.MP, C = w.C, Q2 = 2 * w.Q, n = w.n[b];
  const size_t cap = w.cap;
  product(C, w.R, n, layer.filter_t, w.R, 1, w.radial[b], w.cap, w.plain[b], w.cap, false);
  for (int k = 0; k < n; k += W)
    for (int c = 0; c < C; c += W) {
      vec rows[W];
      for (int lane = 0; lane < W; lane++) rows[lane] = load(weight + (size_t)list.source[w.index[b][k + lane]] * C + c);
      transpose(rows);
      for (int lane = 0; lane < W; lane++) {
        store(w.weight[b] + (c + lane) * cap + k, rows[lane]);
        store(w.weighted[b] + (c + lane) * cap + k, rows[lane] * load(w.plain[b] + (c + lane) * cap + k));
      }
    }
  product(C, n, MP, w.weighted[b], w.cap, 1, w.Yt, MP, w.expansion[b], MP, false);
  product(M, C, Q2, w.expansion[b], 1, MP, layer.mix, Q2, w.mixed[b], Q2, false);
  real *hidden = w.hidden + (size_t)b * C;
  for (int c = 0; c < C; c += W) store(hidden + c, load(layer.bias + c));
  product(1, C, C, w.expansion[b], 0, MP, layer.density, C, hidden, C, true);
  product(1, C, C, scalar, 0, 1, layer.own, C, hidden, C, true);
}

INLINE int degree_of(int k) { return k < 1 ? 0 : k < 4 ? 1 : k < 9 ? 2 : 3; }
template <class S> INLINE void invariants(const S &z, int b, Work &w) {
  const int Q = z.Q;
  for (int l = 0; l <= S::L; l++)
    for (int q = 0; q < Q; q += W) {
      vec s = vec{};
      for (int k = l * l; k < (l + 1) * (l + 1); k++) s += load(w.mixed[b] + (size_t)k * 2 * Q + q) * load(w.mixed[b] + (size_t)k * 2 * Q + Q + q);
      store(w.invariants + ((size_t)b * (S::L + 1) + l) * Q + q, s);
    }
}

// silu in place, and its derivative.
INLINE void activate(real *x, real *slope, int n) {
  for (int c = 0; c < n; c += W) {
    const vec p = load(x + c), s = real(1) / (real(1) + exponential(-p));
    store(x + c, p * s);
    store(slope + c, s * (real(1) + p * (real(1) - s)));
  }
}

// Gradient of the invariants to that of the mixtures: harmonics in the lanes, or mixtures in them.
template <class S> INLINE void mixtures_back(const S &z, int b, Work &w) {
  const int M = S::M, MP = S::MP, Q = z.Q;
  for (int q = 0; q < Q; q += W) {
    for (int part = 0; part < MP; part += W) {
      vec one[W], two[W];
      for (int lane = 0; lane < W; lane++) {
        const int k = part + lane;
        if (k >= M) { one[lane] = vec{}; two[lane] = vec{}; continue; }
        const vec d = load(w.d_invariants + ((size_t)b * (S::L + 1) + degree_of(k)) * Q + q);
        one[lane] = d * load(w.mixed[b] + (size_t)k * 2 * Q + Q + q);
        two[lane] = d * load(w.mixed[b] + (size_t)k * 2 * Q + q);
      }
      transpose(one); transpose(two);
      for (int lane = 0; lane < W; lane++) {
        store(w.dMt + (size_t)(q + lane) * MP + part, one[lane]);
        store(w.dMt + (size_t)(Q + q + lane) * MP + part, two[lane]);
      }
    }
  }
}
template <class S> INLINE void mixtures_back_few(const S &z, int b, Work &w) {
  const int M = S::M, Q = z.Q;
  for (int k = 0; k < M; k++)
    for (int q = 0; q < Q; q += W) {
      const vec d = load(w.d_invariants + ((size_t)b * (S::L + 1) + degree_of(k)) * Q + q);
      store(w.dM + (size_t)k * 2 * Q + q, d * load(w.mixed[b] + (size_t)k * 2 * Q + Q + q));
      store(w.dM + (size_t)k * 2 * Q + Q + q, d * load(w.mixed[b] + (size_t)k * 2 * Q + q));
    }
}

// From the gradient of what was summed to those of the harmonics and of the radial functions of each neighbour.
template <class S> INLINE void contract_first(const S &z, const Layer &layer, int b, Work &w) {
  const int M = S::M, MP = S::MP, R = z.R, P = padded(R), C = z.C, Q2 = 2 * z.Q, J = Q2 + C;
  for (int run = 0; run < w.used[b]; run++) {
    const int begin = w.start[b][run], size = w.start[b][run + 1] - begin, t = w.type[b][run];
    real *d = w.dD;
    S::multiply(R, Q2, MP, layer.maps + (size_t)t * R * J, J, 1, w.dMt, MP, d, MP, false);
    S::multiply(1, C, P, w.back + (size_t)b * C, 0, 1, layer.maps_t + ((size_t)t * J + Q2) * P, P, w.straight, P, false);
    for (int n = 0; n < R; n++) d[n * MP] += w.straight[n];
    // Whole vectors: what is written beyond this run belongs to the next, which comes after; the last goes on to the end of the padding.
    const int lanes = up((run + 1 == w.used[b] ? w.n[b] : begin + size) - begin);
    S::multiply(M, R, lanes, d, 1, MP, w.radial[b] + begin, w.cap, w.dY + begin, w.cap, false);
    S::multiply(R, M, lanes, d, MP, 1, w.Y[b] + begin, w.cap, w.dR + begin, w.cap, false);
  }
}
template <class S> INLINE void contract_few(const S &z, const Layer &layer, int b, Work &w) {
  const int M = S::M, R = z.R, P = padded(R), C = z.C, Q2 = 2 * z.Q, J = Q2 + C, n = w.start[b][w.used[b]];
  S::multiply(M, Q2, w.n[b], w.dM, Q2, 1, w.each_t[b], FEW, w.dY, w.cap, false);
  S::multiply(n, M, Q2, w.Y[b], 1, w.cap, w.dM, Q2, w.dEach, Q2, false);
  for (int run = 0; run < w.used[b]; run++) {
    const int begin = w.start[b][run], end = w.start[b][run + 1];
    const real *maps_t = layer.maps_t + (size_t)w.type[b][run] * J * P;
    S::multiply(1, C, P, w.back + (size_t)b * C, 0, 1, maps_t + (size_t)Q2 * P, P, w.straight, P, false);
    for (int k = begin; k < end; k++)
      for (int r = 0; r < P; r += W) store(w.dReach + (size_t)k * P + r, load(w.straight + r));
    S::multiply(end - begin, Q2, P, w.dEach + (size_t)begin * Q2, Q2, 1, maps_t, P, w.dReach + (size_t)begin * P, P, true);
  }
  for (int k = n; k < w.n[b]; k++)
    for (int r = 0; r < P; r += W) store(w.dReach + (size_t)k * P + r, vec{});
  turned(w.dReach, P, R, w.n[b], w.dR, w.cap);
}
INLINE void contract_later(const Layer &layer, const List &list, real *d_weight, int b, Work &w) {
  const int M = (w.L + 1) * (w.L + 1), MP = w.MP, R = w.R, C = w.C, n = w.n[b];
  const size_t cap = w.cap;
  real *d = w.dD;
  product(C, 2 * w.Q, MP, layer.mix, 2 * w.Q, 1, w.dMt, MP, d, MP, false);
  product(1, C, C, w.back + (size_t)b * C, 0, 1, layer.density_t, C, w.dF, C, false);
  for (int c = 0; c < C; c++) d[c * MP] += w.dF[c];
  product(M, C, n, d, 1, MP, w.weighted[b], w.cap, w.dY, w.cap, false);
  product(C, M, n, d, MP, 1, w.Y[b], w.cap, w.dF, w.cap, false);
  for (int k = 0; k < n; k += W)
    for (int c = 0; c < C; c += W) {
      vec rows[W];
      for (int lane = 0; lane < W; lane++) {
        const vec f = load(w.dF + (c + lane) * cap + k);
        rows[lane] = f * load(w.plain[b] + (c + lane) * cap + k);
        store(w.dF + (c + lane) * cap + k, f * load(w.weight[b] + (c + lane) * cap + k));
      }
      transpose(rows);
      for (int lane = 0; lane < W; lane++) {
        const int j = w.index[b][k + lane];
        if (j == list.total) continue;
        real *to = d_weight + (size_t)list.source[j] * C + c;
        store(to, load(to) + rows[lane]);
      }
    }
  product(R, C, n, layer.filter, C, 1, w.dF, w.cap, w.dR, w.cap, false);
}

// Screened nuclear repulsion (Ziegler, Biersack and Littmark 1985) under a squared envelope that ends at the sum of the covalent radii: half of
// the energy of a pair in eV, and its derivative by r. With `number` a vector of `real` where it is small, a double where atoms collide.
struct Repulsion { double end, length, front; };
INLINE double end_of(const Model &m, int a, int b) {
  const double end = m.radius[a] + m.radius[b];
  return end < m.cutoff ? end : m.cutoff;
}
static Repulsion repulsion_of(const Model &m, int a, int b) {
  return {end_of(m, a, b), 0.8854 * MLIPFM_BOHR / (m.charge[2 * a + 1] + m.charge[2 * b + 1]),
          0.5 * MLIPFM_COULOMB * m.charge[2 * a] * m.charge[2 * b]};
}
INLINE vec exponential_of(vec x) { return exponential(x); }
INLINE double exponential_of(double x) { return __builtin_exp(x); }
template <class number, class plain> INLINE number repulsion(const Repulsion &p, number r, number &slope) {
  const double amount[] = {0.18175, 0.50986, 0.28022, 0.02817}, decay[] = {3.1998, 0.94229, 0.4029, 0.20162};
  number phi = r - r, fall = r - r;
  for (int k = 0; k < 4; k++) {
    const number term = plain(amount[k]) * exponential_of(plain(-decay[k] / p.length) * r);
    phi += term; fall -= plain(decay[k] / p.length) * term;
  }
  const number x = plain(1 / p.end) * r, rest = plain(1) - x, rest2 = rest * rest;
  const number envelope = rest2 * rest * (plain(1) + x * (plain(3) + x * (plain(6) + x * (plain(10) + x * (plain(15) + x * plain(21))))));
  const number steep = plain(-168 / p.end) * (x * x * x * x * x * rest2);
  const number pair = plain(p.front) / r;
  slope = pair * envelope * ((fall - phi / r) * envelope + plain(2) * phi * steep);
  return pair * phi * envelope * envelope;
}

// The repulsion of the neighbours inside the covalent radii: its slope by r goes to w.steep, the energy is returned.
static double repel(const Model &m, const List &list, int i, int b, Work &w) {
  const int own_type = int(list.position[4 * (size_t)i + 3]);
  vec energy = vec{};
  double collided = 0;
  for (int run = 0; run < w.used[b]; run++) {
    const real end = real(end_of(m, own_type, w.type[b][run])), inner = real(0.4) * end;
    const int stop = run + 1 == w.used[b] ? w.n[b] : w.start[b][run + 1];
    for (int k = w.start[b][run]; k < stop; k += W) {
      const vec q = load(w.inverse[b] + k);
      ivec near = q * end > real(1);
      if (k + W > w.start[b][run + 1])
        for (int lane = w.start[b][run + 1] > k ? w.start[b][run + 1] - k : 0; lane < W; lane++) near[lane] = 0;  // of the next run
      vec slope = vec{};
      if (any(near)) {
        const Repulsion pair = repulsion_of(m, own_type, w.type[b][run]);
        const vec r = pick(near, real(1) / q, all(end));
        vec e = repulsion<vec, real>(pair, r, slope);
        if (sizeof(real) == 4 && any(r < inner)) {  // a collision: the energy is large, and float32 too coarse for it
          for (int lane = 0; lane < W; lane++) {
            if (!(r[lane] < inner)) continue;
            const double *p = list.position + 4 * (size_t)i, *o = list.position + 4 * (size_t)w.index[b][k + lane];
            const double d[3] = {o[0] - p[0], o[1] - p[1], o[2] - p[2]};
            double steep;
            collided += repulsion<double, double>(pair, __builtin_sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), steep);
            e[lane] = 0; slope[lane] = real(steep);
          }
        }
        energy += pick(near, e, vec{});
        slope = pick(near, slope, vec{});
      }
      store(w.steep + k, slope);
    }
  }
  return collided + sum(energy);
}

// From the gradients by harmonics and radial functions to forces and virial. `last`: the repulsion, which has no layers, is added here once.
template <class S> INLINE void push(const S &z, const Model &m, const List &list, int i, int b, bool last, Results &out, Work &w) {
  constexpr int L = S::L;
  const int cap = w.cap, R = z.R;
  const bool repels = last && m.charge;
  const real scale = real(m.scale);
  vec fx = vec{}, fy = vec{}, fz = vec{}, v0 = vec{}, v1 = vec{}, v2 = vec{}, v3 = vec{}, v4 = vec{}, v5 = vec{}, nearest = all(real(1e18));
  if (repels) out.energy[i] += repel(m, list, i, b, w);
  for (int k = 0; k < w.n[b]; k += W) {
    const vec x = load(w.ux[b] + k), y = load(w.uy[b] + k), z = load(w.uz[b] + k), q = load(w.inverse[b] + k), r = real(1) / q;
    vec radial = vec{};
    for (int n = 0; n < R; n++) radial += load(w.slope[b] + (size_t)n * cap + k) * load(w.dR + (size_t)n * cap + k);
    vec gx, gy, gz;
    harmonics_gradient<L>([&](int k_) __attribute__((always_inline)) { return load(w.dY + (size_t)k_ * cap + k); }, x, y, z, gx, gy, gz);
    // The gradient of a harmonic is taken on the sphere.
    vec along = scale * (radial - q * (gx * x + gy * y + gz * z));
    const vec across = scale * q;
    if (repels) along += load(w.steep + k);
    gx = along * x + across * gx; gy = along * y + across * gy; gz = along * z + across * gz;
    fx += gx; fy += gy; fz += gz;
    nearest = pick(r < nearest, r, nearest);
    const vec dx = x * r, dy = y * r, dz = z * r;
    v0 += dx * gx; v1 += dy * gy; v2 += dz * gz; v3 += dy * gz; v4 += dx * gz; v5 += dx * gy;
    store_rows(w.row[b] + 4 * (size_t)k, gx, gy, gz);
  }
  for (int k = 0; k < w.n[b]; k++) {
    quad_any *to = (quad_any *)(out.force + 4 * (size_t)w.index[b][k]);
    *to -= __builtin_convertvector(*(const row4_any *)(w.row[b] + 4 * (size_t)k), quad);
  }
  double *own = out.force + 4 * (size_t)i;
  own[0] += sum(fx); own[1] += sum(fy); own[2] += sum(fz);
  if (out.virial) {
    double *v = out.virial + 6 * (size_t)i;
    v[0] += sum(v0); v[1] += sum(v1); v[2] += sum(v2); v[3] += sum(v3); v[4] += sum(v4); v[5] += sum(v5);
  }
  double close = 1e18;
  for (int lane = 0; lane < W; lane++) if (nearest[lane] < close) close = nearest[lane];
  if (close * close < out.closest) out.closest = close * close;
}

INLINE void add(real *to, const real *from, int n) {
  for (int c = 0; c < n; c += W) store(to + c, load(to + c) + load(from + c));
}
INLINE void times(real *to, const real *from, int n) {
  for (int c = 0; c < n; c += W) store(to + c, load(to + c) * load(from + c));
}

static int block(const Model &m) { return m.channels <= 16 ? 4 : BLOCK; }

template <class S> static void layer_of(const Model &m, const List &list, int l, Mode mode, int begin, int end, Results &out, Between &between, Work &w) {
  const Layer &layer = m.layer[l];
  const S z(m);
  const int C = z.C, X = (S::L + 1) * z.Q, size = block(m);
  const bool first = S::known || l == 0, last = S::known || l == m.layers - 1;
  for (int i0 = begin; i0 < end; i0 += size) {
    const int count = end - i0 < size ? end - i0 : size;
    int type[BLOCK];
    for (int b = 0; b < count; b++) {
      const int i = i0 + b;
      type[b] = int(list.position[4 * (size_t)i + 3]);
      gather(m, list, i, b, w);
      geometry(z, m, b, w);
      if (!first) w.few[b] = false;
      if (w.few[b]) expand_few(z, layer, type[b], b, w);
      else if (first) expand_first(z, layer, type[b], b, w);
      else expand_later(m, layer, list, between.weight[l], between.scalar[l] + (size_t)i * C, b, w);
      invariants(z, b, w);
    }
    S::multiply(count, X, C, w.invariants, X, 1, layer.spectrum, C, w.hidden, C, true);
    activate(w.hidden, w.slope1, count * C);
    for (int b = 0; b < count && (mode != mlipfm::BACKWARD); b++) {
      const real *bias = layer.outer_bias + (first ? (size_t)type[b] * C : 0);
      for (int c = 0; c < C; c += W) store(w.second + (size_t)b * C + c, load(bias + c));
    }
    if (mode == mlipfm::FORWARD) {
      S::multiply(count, C, C, w.hidden, C, 1, layer.outer, C, w.second, C, true);
      real *next = between.scalar[l + 1] + (size_t)i0 * C;
      for (int c = 0; c < count * C; c += W) store(next + c, load(w.second + c));
      if (!first) add(next, between.scalar[l] + (size_t)i0 * C, count * C);
      S::multiply(count, C, C, next, C, 1, m.layer[l + 1].species, C, between.weight[l + 1] + (size_t)i0 * C, C, false);
      continue;
    }
    if (mode == mlipfm::LAST) {
      S::multiply(count, C, C, w.hidden, C, 1, layer.outer, C, w.second, C, true);
      if (!first) S::multiply(count, C, C, between.scalar[l] + (size_t)i0 * C, C, 1, m.head, C, w.second, C, true);
      for (int b = 0; b < count; b++) {
        const real *readout = m.readout + (size_t)type[b] * C;
        vec e = vec{};
        for (int c = 0; c < C; c += W) {
          const vec p = load(w.second + (size_t)b * C + c), s = real(1) / (real(1) + exponential(-p)), o = load(readout + c);
          e += o * (p * s);
          if (out.feature) store(out.feature + (size_t)(i0 + b) * C + c, p * s);
          store(w.second + (size_t)b * C + c, o * (s * (real(1) + p * (real(1) - s))));
        }
        out.energy[i0 + b] = m.scale * double(sum(e)) + m.constant[type[b]];
      }
      S::multiply(count, C, C, w.second, C, 1, layer.outer_t, C, w.back, C, false);
    } else {  // the gradient by the scalars that this layer made: of itself and of the weights made from them
      real *d = between.d_scalar + (size_t)i0 * C;
      S::multiply(count, C, C, between.d_weight_above + (size_t)i0 * C, C, 1, m.layer[l + 1].species_t, C, d, C, true);
      S::multiply(count, C, C, d, C, 1, layer.outer_t, C, w.back, C, false);
    }
    times(w.back, w.slope1, count * C);  // gradient before the first activation
    if (!first) {
      real *d = between.d_scalar + (size_t)i0 * C;
      if (last) S::multiply(count, C, C, w.second, C, 1, m.head_t, C, d, C, false);
      S::multiply(count, C, C, w.back, C, 1, layer.own_t, C, d, C, true);
    }
    S::multiply(count, C, X, w.back, C, 1, layer.spectrum_t, X, w.d_invariants, X, false);
    for (int b = 0; b < count; b++) {
      if (w.few[b]) {
        mixtures_back_few(z, b, w);
        contract_few(z, layer, b, w);
        push(z, m, list, i0 + b, b, mode == mlipfm::LAST, out, w);
        continue;
      }
      mixtures_back(z, b, w);
      if (first) contract_first(z, layer, b, w);
      else contract_later(layer, list, between.d_weight, b, w);
      push(z, m, list, i0 + b, b, mode == mlipfm::LAST, out, w);
    }
  }
}

static size_t workspace(const Model &m, const List &list) {
  Work w;
  return plan(m, list, w, (char *)0) + 64;
}
static void run(const Model &m, const List &list, int l, Mode mode, int begin, int end, Results &out, Between &between, void *memory) {
  Work w;
  plan(m, list, w, (char *)(((uintptr_t)memory + 63) / 64 * 64));
  if (narrow(m)) layer_of<Sizes<3, 16, 16, 9>>(m, list, l, mode, begin, end, out, between, w);
  else if (m.degree == 3) layer_of<Sizes<3>>(m, list, l, mode, begin, end, out, between, w);
  else if (m.degree == 2) layer_of<Sizes<2>>(m, list, l, mode, begin, end, out, between, w);
  else layer_of<Sizes<1>>(m, list, l, mode, begin, end, out, between, w);
}
// Twelve sums that do not wait for each other, in registers.
static double peak(long n) {
  vec a = all(1), b = all(1), c = all(1), d = all(1), e = all(1), f = all(1), g = all(1), h = all(1), i = all(1), j = all(1), k = all(1), l = all(1);
  vec x = all(real(0.999999)), y = all(real(1e-7));
  for (long t = 0; t < n; t++) {
    a = a * x + y; b = b * x + y; c = c * x + y; d = d * x + y; e = e * x + y; f = f * x + y;
    g = g * x + y; h = h * x + y; i = i * x + y; j = j * x + y; k = k * x + y; l = l * x + y;
#if defined(__x86_64__)
    __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f));
    __asm__ volatile("" : "+x"(g), "+x"(h), "+x"(i), "+x"(j), "+x"(k), "+x"(l));
#else
    __asm__ volatile("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d), "+w"(e), "+w"(f));
    __asm__ volatile("" : "+w"(g), "+w"(h), "+w"(i), "+w"(j), "+w"(k), "+w"(l));
#endif
  }
  return sum(a + b + c + d + e + f + g + h + i + j + k + l);
}
}  // namespace

#define JOIN2(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN2(a, b, c)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
extern "C" const mlipfm::Kernel<real> JOIN(mlipfm_kernel, ISA, REAL) = {TEXT(ISA), W, block, workspace, run, peak};
