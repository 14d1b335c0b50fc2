// Vectors from atoms to their neighbours, and their derivatives.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace mlipfm {

// d[p] = (x[neighbor(p)] - x[a] + shift(p) h) (1 + e), row vectors, of the pairs [first[a], first[a + 1]) of atom a; h the cell and e the symmetric part of
// the strain of its system. Where `mask` is false it is (far, 0, 0).
struct Displacements {
  const int64_t *first, *neighbor, *shift;  // [atoms + 1], [pairs], [pairs, 3]
  const bool *mask;                         // [pairs]
  const int64_t *system;                    // [atoms]
  const double *cell;                       // [systems, 3, 3]
  size_t atoms, pairs, systems;
  double far;
};

// With `along_x` or `along_strain` (either may be null) the derivative as positions and strain go along these; without both the value.
template <class real>
void displacements(const Displacements &, const double *x, const double *strain, const double *along_x, const double *along_strain, real *out);
// Gradients of sum(g x d) by positions [atoms, 3] and strain [systems, 3, 3], each may be null, or their derivatives.
template <class real>
void displacements_gradient(const Displacements &, const double *x, const double *strain, const double *along_x, const double *along_strain,
                            const real *g, double *by_x, double *by_strain);

}  // namespace mlipfm
