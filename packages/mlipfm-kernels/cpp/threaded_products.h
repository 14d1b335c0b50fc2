// `products.h` by several threads, with the instruction set of a name ("" for the best).
#pragma once
#include <string>
#include "products.h"

namespace mlipfm {

template <class real>
void cubic(const Cubic<real> &, const Operand<real> &x, const Operand<real> &y, const Operand<real> &z, real *out, int threads, const std::string &instructions);
template <class real> void message(const Pairs &, const Factors<real> &, real *out, int threads, const std::string &instructions);
// `scalars`: numbers in s. Gradients by W and s are added to what is there.
template <class real>
void message_gradient(const Pairs &, const Factors<real> &, const real *g, const Gradients<real> &, size_t scalars, int threads, const std::string &instructions);
template <class real>
void message_second(const Pairs &, const Factors<real> &, const real *g, const Factors<real> &v, real *by_g, const Gradients<real> &, size_t scalars,
                    int threads, const std::string &instructions);
template <class real> void expansion(const Expansion &, const Vectors<real> &, real *out, int threads, const std::string &instructions);
template <class real> void expansion_gradient(const Expansion &, const Vectors<real> &, const real *g, real *out, int threads, const std::string &instructions);
template <class real> void pair_functions(const PairFunctions &, const Vectors<real> &, real *out, int threads, const std::string &instructions);
template <class real>
void pair_functions_gradient(const PairFunctions &, const Vectors<real> &, const real *g, real *out, int threads, const std::string &instructions);

}  // namespace mlipfm
