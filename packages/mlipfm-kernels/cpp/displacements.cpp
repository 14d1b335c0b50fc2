#include "displacements.h"

#include <algorithm>

namespace mlipfm {
namespace {

struct Matrix {
  double m[9];
};
// The symmetric part of a strain, or nothing.
Matrix symmetric(const double *s, size_t system) {
  Matrix e{};
  if (s)
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < 3; j++) e.m[3 * i + j] = (s[9 * system + 3 * i + j] + s[9 * system + 3 * j + i]) / 2;
  return e;
}
void add_product(const double *v, const Matrix &e, double *to) {
  for (int j = 0; j < 3; j++) to[j] += v[0] * e.m[j] + v[1] * e.m[3 + j] + v[2] * e.m[6 + j];
}
void undeformed(const Displacements &of, const double *x, size_t a, size_t p, double *v) {
  const double *h = of.cell + 9 * of.system[a];
  const int64_t *n = of.shift + 3 * p;
  for (int c = 0; c < 3; c++) v[c] = x[3 * of.neighbor[p] + c] - x[3 * a + c];
  if (n[0] | n[1] | n[2])
    for (int c = 0; c < 3; c++) v[c] += double(n[0]) * h[c] + double(n[1]) * h[3 + c] + double(n[2]) * h[6 + c];
}

}  // namespace

template <class real>
void displacements(const Displacements &of, const double *x, const double *strain, const double *along_x, const double *along_strain, real *out) {
  const bool change = along_x || along_strain;
  for (size_t a = 0; a < of.atoms; a++) {
    const Matrix e = symmetric(strain, of.system[a]), turn = symmetric(along_strain, of.system[a]);
    for (size_t p = of.first[a]; p < (size_t)of.first[a + 1]; p++) {
      double d[3] = {0, 0, 0};
      if (!of.mask[p]) {
        if (!change) d[0] = of.far;
      } else {
        double v[3];
        undeformed(of, x, a, p, v);
        if (!change) {
          for (int c = 0; c < 3; c++) d[c] = v[c];
          if (strain) add_product(v, e, d);
        }
        if (along_strain) add_product(v, turn, d);
        if (along_x) {
          double w[3];
          for (int c = 0; c < 3; c++) { w[c] = along_x[3 * of.neighbor[p] + c] - along_x[3 * a + c]; d[c] += w[c]; }
          if (strain) add_product(w, e, d);
        }
      }
      for (int c = 0; c < 3; c++) out[3 * p + c] = real(d[c]);
    }
  }
}

template <class real>
void displacements_gradient(const Displacements &of, const double *x, const double *strain, const double *along_x, const double *along_strain,
                            const real *g, double *by_x, double *by_strain) {
  const bool change = along_x || along_strain;
  if (by_x) std::fill(by_x, by_x + 3 * of.atoms, 0.0);
  if (by_strain) std::fill(by_strain, by_strain + 9 * of.systems, 0.0);
  for (size_t a = 0; a < of.atoms; a++) {
    const Matrix e = symmetric(strain, of.system[a]), turn = symmetric(along_strain, of.system[a]);
    for (size_t p = of.first[a]; p < (size_t)of.first[a + 1]; p++) {
      if (!of.mask[p]) continue;
      const double own[3] = {double(g[3 * p]), double(g[3 * p + 1]), double(g[3 * p + 2])};
      if (by_x && (!change || along_strain)) {  // of a change only the strain's: the vectors are linear in the positions
        double back[3] = {0, 0, 0};
        if (!change) {
          for (int c = 0; c < 3; c++) back[c] = own[c];
          if (strain) add_product(own, e, back);
        } else {
          add_product(own, turn, back);
        }
        for (int c = 0; c < 3; c++) { by_x[3 * of.neighbor[p] + c] += back[c]; by_x[3 * a + c] -= back[c]; }
      }
      if (by_strain && (!change || along_x)) {
        double v[3];
        if (change)
          for (int c = 0; c < 3; c++) v[c] = along_x[3 * of.neighbor[p] + c] - along_x[3 * a + c];
        else
          undeformed(of, x, a, p, v);
        double *to = by_strain + 9 * of.system[a];
        for (int i = 0; i < 3; i++)
          for (int j = 0; j < 3; j++) to[3 * i + j] += (v[i] * own[j] + v[j] * own[i]) / 2;
      }
    }
  }
}

#define EACH(real) \
  template void displacements<real>(const Displacements &, const double *, const double *, const double *, const double *, real *); \
  template void displacements_gradient<real>(const Displacements &, const double *, const double *, const double *, const double *, const real *, double *, double *);
EACH(float)
EACH(double)

}  // namespace mlipfm
