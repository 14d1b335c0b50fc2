// What backbones spend their time on: polynomials of the densities of atoms, messages of neighbours, and expansions of neighbours, each with its
// derivatives.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace mlipfm {

// out[o] = sum over terms t in [first[o], first[o + 1]) of weight[t] x[term[3t]] y[term[3t + 1]] z[term[3t + 2]], column by column. Arrays are row-major.
// Behind the last row of each operand stands a row of ones, for terms of lower degree.
constexpr int MAX_ROWS = 32;
template <class real> struct Operand {
  const real *rows;
  int count;
};
template <class real> struct Cubic {
  const int32_t *first, *term;
  const real *weight;
  int outputs;
  size_t columns;
};

// Pairs [first[a], first[a + 1]) are those of atom a, with the other atom `neighbor`.
struct Pairs {
  const int64_t *first, *neighbor;
  size_t pairs, atoms;
  int rows, functions, channels;  // M, R, C; C is a multiple of 16
  int longest;                    // pairs of any atom
};
// message[m, a, c] = sum over the pairs p of a of Y[m, p] F[p, c] s[neighbor(p), c] with F[p, c] = sum over n of R[n, p] W[n, c].
template <class real> struct Factors { const real *Y, *R, *W, *s; };
template <class real> struct Gradients { real *Y, *R, *W, *s; };  // each may be null; W and s are added to

template <class real> struct Products {
  const char *name;
  void (*cubic)(const Cubic<real> &, const Operand<real> &x, const Operand<real> &y, const Operand<real> &z, real *out, size_t begin, size_t end);
  size_t (*workspace)(const Pairs &);  // of `message`, `gradient` and `second`, bytes
  void (*message)(const Pairs &, const Factors<real> &, real *out, size_t begin, size_t end, void *work);
  // Gradients of sum(g x message) by the factors.
  void (*gradient)(const Pairs &, const Factors<real> &, const real *g, const Gradients<real> &, size_t begin, size_t end, void *work);
  // Gradients of sum(v.Y x by.Y + v.R x by.R + ...), `by` being what `gradient` gives, by g and by the factors. Each of v may be null.
  void (*second)(const Pairs &, const Factors<real> &, const real *g, const Factors<real> &v, real *by_g, const Gradients<real> &, size_t begin,
                 size_t end, void *work);
};

// a[t R + n, atom, m] = factor x sum over the pairs p of the atom whose other atom is of kind t of R_n(r) Y_m(d / r), with d[p] the vector of the pair.
struct Expansion {
  const int64_t *first;  // [atoms + 1]
  const int32_t *kind;   // [pairs] in [0, kinds), less than 0 for a pair that is none
  size_t pairs, atoms;
  int degree, functions, kinds;
  double cutoff, factor;
  int longest;           // pairs of any atom
};
template <class real> struct Vectors { const real *d, *along; };  // [pairs, 3]; `along` is null, or the direction of which the derivative is asked
// Radial functions [functions, pairs] and below them spherical harmonics [(degree + 1)^2, pairs] of the vectors of pairs, each row times its factor.
struct PairFunctions {
  size_t pairs;
  int degree, functions;
  double cutoff;
  const double *factor;  // [rows]
  int rows() const { return functions + (degree + 1) * (degree + 1); }
};
template <class real> struct Expansions {
  size_t (*workspace)(const Expansion &);
  // The expansion, or its derivative as d goes along `along`.
  void (*value)(const Expansion &, const Vectors<real> &, real *out, size_t begin, size_t end, void *work);
  // Gradient [pairs, 3] of sum(g x expansion) by d, or its derivative as d goes along `along`.
  void (*gradient)(const Expansion &, const Vectors<real> &, const real *g, real *out, size_t begin, size_t end, void *work);
  // The same of functions of pairs.
  void (*pair_value)(const PairFunctions &, const Vectors<real> &, real *out, size_t begin, size_t end);
  void (*pair_gradient)(const PairFunctions &, const Vectors<real> &, const real *g, real *out, size_t begin, size_t end);
};

}  // namespace mlipfm
