#include "products.h"
#include "density.h"
#include "instruction_sets.h"
#include "threaded_products.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <unistd.h>

#define DECLARE(isa) \
  extern "C" const mlipfm::Products<float> mlipfm_products_##isa##_float; \
  extern "C" const mlipfm::Products<double> mlipfm_products_##isa##_double; \
  extern "C" const mlipfm::Expansions<float> mlipfm_expansions_##isa##_float; \
  extern "C" const mlipfm::Expansions<double> mlipfm_expansions_##isa##_double;
MLIPFM_EACH_ISA(DECLARE)

namespace mlipfm {
namespace {

template <class Table> const Table *find(const std::string &isa);
#define FLOAT_PRODUCTS(isa) if (name == #isa) return &mlipfm_products_##isa##_float;
#define DOUBLE_PRODUCTS(isa) if (name == #isa) return &mlipfm_products_##isa##_double;
#define FLOAT_EXPANSIONS(isa) if (name == #isa) return &mlipfm_expansions_##isa##_float;
#define DOUBLE_EXPANSIONS(isa) if (name == #isa) return &mlipfm_expansions_##isa##_double;
template <> const Products<float> *find(const std::string &name) { MLIPFM_EACH_ISA(FLOAT_PRODUCTS) return nullptr; }
template <> const Products<double> *find(const std::string &name) { MLIPFM_EACH_ISA(DOUBLE_PRODUCTS) return nullptr; }
template <> const Expansions<float> *find(const std::string &name) { MLIPFM_EACH_ISA(FLOAT_EXPANSIONS) return nullptr; }
template <> const Expansions<double> *find(const std::string &name) { MLIPFM_EACH_ISA(DOUBLE_EXPANSIONS) return nullptr; }

template <class Table> const Table &table(const std::string &name) {
  const auto have = instruction_sets();
  if (have.empty() || (!name.empty() && std::find(have.begin(), have.end(), name) == have.end()))
    throw std::invalid_argument("this machine or this build has no instruction set " + name);
  return *find<Table>(name.empty() ? have[0] : name);
}

// The threads of this process, kept between calls; those of a parent process do not exist after a fork. Never taken down: work may go on at exit.
std::mutex busy;
Threads &threads(int count) {
  static Threads *pool = nullptr;
  static pid_t owner = 0;
  if (pool && owner == getpid() && pool->count() >= count) return *pool;
  if (pool && owner == getpid()) delete pool;
  owner = getpid();
  return *(pool = new Threads(count));
}
// work(thread, begin, end) for `count` equal parts of `size`.
template <class Work> void shared(int count, size_t size, const Work &work) {
  if (count <= 1) return work(0, size_t(0), size);
  std::lock_guard<std::mutex> lock(busy);
  threads(count).run([&](int t) {
    if (t < count) work(t, size * t / count, size * (t + 1) / count);
  });
}

template <class Of> Of measured(Of p) {
  p.longest = 0;
  for (size_t a = 0; a < p.atoms; a++) {
    if (p.first[a + 1] < p.first[a]) throw std::invalid_argument("pairs must be sorted by their first atom");
    p.longest = std::max(p.longest, int(p.first[a + 1] - p.first[a]));
  }
  return p;
}
template <class real> struct Memory {  // of the threads; gradients that several of them add to are summed in the order of the threads
  Memory(int count, size_t bytes, size_t W, size_t s) : work(std::max(count, 1)), by_W(work.size()), by_s(work.size()) {
    for (size_t t = 0; t < work.size(); t++) {
      work[t].resize(bytes);
      if (t) { by_W[t].assign(W, 0); by_s[t].assign(s, 0); }
    }
  }
  Gradients<real> of(int t, Gradients<real> by) {
    if (t && by.W) by.W = by_W[t].data();
    if (t && by.s) by.s = by_s[t].data();
    return by;
  }
  void add(Gradients<real> by) const {
    for (size_t t = 1; t < work.size(); t++) {
      for (size_t q = 0; by.W && q < by_W[t].size(); q++) by.W[q] += by_W[t][q];
      for (size_t q = 0; by.s && q < by_s[t].size(); q++) by.s[q] += by_s[t][q];
    }
  }
  std::vector<std::vector<char>> work;
  std::vector<std::vector<real>> by_W, by_s;
};

}  // namespace

template <class real>
void cubic(const Cubic<real> &q, const Operand<real> &x, const Operand<real> &y, const Operand<real> &z, real *out, int count, const std::string &isa) {
  const auto &of = table<Products<real>>(isa);
  shared(count, q.columns, [&](int, size_t begin, size_t end) { of.cubic(q, x, y, z, out, begin, end); });
}
template <class real> void message(const Pairs &given, const Factors<real> &f, real *out, int count, const std::string &isa) {
  const auto &of = table<Products<real>>(isa);
  const Pairs p = measured(given);
  Memory<real> memory(count, of.workspace(p), 0, 0);
  shared(count, p.atoms, [&](int t, size_t begin, size_t end) { of.message(p, f, out, begin, end, memory.work[t].data()); });
}
template <class real>
void message_gradient(const Pairs &given, const Factors<real> &f, const real *g, const Gradients<real> &by, size_t scalars, int count, const std::string &isa) {
  const auto &of = table<Products<real>>(isa);
  const Pairs p = measured(given);
  Memory<real> memory(count, of.workspace(p), by.W ? (size_t)p.functions * p.channels : 0, by.s ? scalars : 0);
  shared(count, p.atoms, [&](int t, size_t begin, size_t end) { of.gradient(p, f, g, memory.of(t, by), begin, end, memory.work[t].data()); });
  memory.add(by);
}
template <class real>
void message_second(const Pairs &given, const Factors<real> &f, const real *g, const Factors<real> &v, real *by_g, const Gradients<real> &by, size_t scalars,
                    int count, const std::string &isa) {
  const auto &of = table<Products<real>>(isa);
  const Pairs p = measured(given);
  Memory<real> memory(count, of.workspace(p), by.W ? (size_t)p.functions * p.channels : 0, by.s ? scalars : 0);
  shared(count, p.atoms, [&](int t, size_t begin, size_t end) { of.second(p, f, g, v, by_g, memory.of(t, by), begin, end, memory.work[t].data()); });
  memory.add(by);
}

template <class real, class Call> void over_atoms(const Expansion &given, int count, const std::string &isa, const Call &call) {
  const auto &of = table<Expansions<real>>(isa);
  const Expansion e = measured(given);
  std::vector<std::vector<char>> work(std::max(count, 1), std::vector<char>(of.workspace(e)));
  shared(count, e.atoms, [&](int t, size_t begin, size_t end) { call(of, e, begin, end, work[t].data()); });
}
template <class real> void expansion(const Expansion &given, const Vectors<real> &v, real *out, int count, const std::string &isa) {
  over_atoms<real>(given, count, isa, [&](const auto &of, const Expansion &e, size_t begin, size_t end, void *work) { of.value(e, v, out, begin, end, work); });
}
template <class real> void expansion_gradient(const Expansion &given, const Vectors<real> &v, const real *g, real *out, int count, const std::string &isa) {
  over_atoms<real>(given, count, isa, [&](const auto &of, const Expansion &e, size_t begin, size_t end, void *work) { of.gradient(e, v, g, out, begin, end, work); });
}

template <class real> void pair_functions(const PairFunctions &f, const Vectors<real> &v, real *out, int count, const std::string &isa) {
  const auto &of = table<Expansions<real>>(isa);
  shared(count, f.pairs, [&](int, size_t begin, size_t end) { of.pair_value(f, v, out, begin, end); });
}
template <class real>
void pair_functions_gradient(const PairFunctions &f, const Vectors<real> &v, const real *g, real *out, int count, const std::string &isa) {
  const auto &of = table<Expansions<real>>(isa);
  shared(count, f.pairs, [&](int, size_t begin, size_t end) { of.pair_gradient(f, v, g, out, begin, end); });
}

#define EACH(real) \
  template void pair_functions<real>(const PairFunctions &, const Vectors<real> &, real *, int, const std::string &); \
  template void pair_functions_gradient<real>(const PairFunctions &, const Vectors<real> &, const real *, real *, int, const std::string &); \
  template void expansion<real>(const Expansion &, const Vectors<real> &, real *, int, const std::string &); \
  template void expansion_gradient<real>(const Expansion &, const Vectors<real> &, const real *, real *, int, const std::string &); \
  template void cubic<real>(const Cubic<real> &, const Operand<real> &, const Operand<real> &, const Operand<real> &, real *, int, const std::string &); \
  template void message<real>(const Pairs &, const Factors<real> &, real *, int, const std::string &); \
  template void message_gradient<real>(const Pairs &, const Factors<real> &, const real *, const Gradients<real> &, size_t, int, const std::string &); \
  template void message_second<real>(const Pairs &, const Factors<real> &, const real *, const Factors<real> &, real *, const Gradients<real> &, size_t, int, const std::string &);
EACH(float)
EACH(double)

}  // namespace mlipfm
