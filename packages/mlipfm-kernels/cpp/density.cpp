#include "density.h"
#include "instruction_sets.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define DECLARE(isa) \
  extern "C" const mlipfm::Kernel<float> mlipfm_kernel_##isa##_float; \
  extern "C" const mlipfm::Kernel<double> mlipfm_kernel_##isa##_double;
MLIPFM_EACH_ISA(DECLARE)

namespace mlipfm {
namespace {

template <class real> struct Choice { std::string name; const Kernel<real> *kernel; };

// The levels of the x86-64 psABI, asked of the processor and of the operating system (which must save the wide registers). The builtin of the
// compilers for this is not linked everywhere.
bool has(const std::string &isa) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool v2 = (c & bit_SSE4_2) && (c & bit_POPCNT);
  unsigned saved = 0, high = 0;
  if (c & bit_OSXSAVE) __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  const bool fma = (c & bit_FMA) && (c & bit_AVX);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) b = 0;
  const bool v3 = v2 && fma && (b & bit_AVX2) && (b & bit_BMI2) && (saved & 0x6) == 0x6;
  const unsigned wide = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ | bit_AVX512CD;
  const bool v4 = v3 && (b & wide) == wide && (saved & 0xe6) == 0xe6;
  return isa == "v2" ? v2 : isa == "v3" ? v3 : isa == "v4" ? v4 : true;
#else
  (void)isa;
  return true;
#endif
}

template <class real> std::vector<Choice<real>> kernels();
#define FLOAT(isa) {#isa, &mlipfm_kernel_##isa##_float},
#define DOUBLE(isa) {#isa, &mlipfm_kernel_##isa##_double},
template <> std::vector<Choice<float>> kernels() { return {MLIPFM_EACH_ISA(FLOAT)}; }
template <> std::vector<Choice<double>> kernels() { return {MLIPFM_EACH_ISA(DOUBLE)}; }

template <class real> const Kernel<real> *choose(const std::string &name) {
  for (const auto &choice : kernels<real>())
    if (has(choice.name) && (name.empty() || name == choice.name)) return choice.kernel;
  throw std::invalid_argument("this machine or this build has no instruction set " + name);
}

class Buffer {
 public:
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  void *need(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(64, size_);
      if (!data_) { size_ = 0; throw std::bad_alloc(); }
    }
    return data_;
  }

 private:
  void *data_ = nullptr;
  size_t size_ = 0;
};

template <class real> class Density : public Evaluator {
 public:
  Density(const Arrays &given, const std::string &instructions) : kernel_(choose<real>(instructions)) {
    auto number = [&](const char *name) { return given.numbers.at(name); };
    m_.degree = int(number("degree")); m_.channels = int(number("channels")); m_.mixed = int(number("mixed"));
    m_.functions = int(number("functions")); m_.layers = int(number("layers")); m_.types = int(number("types"));
    m_.cutoff = number("cutoff"); m_.scale = number("scale");
    const size_t C = m_.channels, Q = m_.mixed, R = m_.functions, T = m_.types, X = (m_.degree + 1) * Q;
    if (m_.degree < 1 || m_.degree > 3 || C % 16 || Q % 16 || !C || !Q || m_.layers < 1 || m_.layers > MAX_LAYERS || R < 1 || T < 1)
      throw std::invalid_argument("the kernel has no model of these sizes");
    for (int l = 0; l < m_.layers; l++) {
      Layer<real> &y = m_.layer[l];
      y = Layer<real>{};
      const std::string p = "layer" + std::to_string(l) + ".";
      if (l == 0) {
        const size_t J = 2 * Q + C, P = (R + 15) / 16 * 16;
        y.maps = keep(given, p + "maps", T * R * J);
        real *turned = (real *)(store_.emplace_back(new Buffer))->need((T * J * P + 64) * sizeof(real));
        std::fill(turned, turned + T * J * P, real(0));
        for (size_t t = 0; t < T; t++)
          for (size_t r = 0; r < R; r++)
            for (size_t q = 0; q < J; q++) turned[(t * J + q) * P + r] = y.maps[(t * R + r) * J + q];
        y.maps_t = turned;
      } else {
        both(given, p + "species", C, C, y.species, y.species_t);
        both(given, p + "filter", R, C, y.filter, y.filter_t);
        both(given, p + "mix", C, 2 * Q, y.mix, y.mix_t);
        both(given, p + "density", C, C, y.density, y.density_t);
        both(given, p + "own", C, C, y.own, y.own_t);
      }
      both(given, p + "spectrum", X, C, y.spectrum, y.spectrum_t);
      both(given, p + "outer", C, C, y.outer, y.outer_t);
      y.bias = keep(given, p + "bias", (l ? 1 : T) * C);
      y.outer_bias = keep(given, p + "outer_bias", (l ? 1 : T) * C);
    }
    m_.head = m_.head_t = nullptr;
    if (m_.layers > 1) both(given, "head", C, C, m_.head, m_.head_t);
    m_.readout = keep(given, "readout", T * C);
    exact_ = given.values;
    m_.constant = exact(given, "constant", T);
    m_.charge = given.values.count("charge") ? exact(given, "charge", 2 * T) : nullptr;
    m_.radius = m_.charge ? exact(given, "radius", T) : nullptr;
    m_.shortest = given.values.count("shortest") ? exact(given, "shortest", T * T) : nullptr;
    m_.nearest = number("nearest");
  }
  double cutoff() const override { return m_.cutoff; }
  int channels() const override { return m_.channels; }
  const char *instructions() const override { return kernel_->name; }

  double evaluate(const List &list, Threads &threads, const Answer &answer) override {
    const int n = threads.count(), last = m_.layers - 1;
    const size_t C = m_.channels, N = list.atoms, forces = 4 * ((size_t)list.total + 1);
    if ((int)mine_.size() < n) { mine_ = std::vector<Buffer>(n); work_ = std::vector<Buffer>(n); weights_ = std::vector<Buffer>(n); closest_.resize(n); }
    const size_t bytes = kernel_->workspace(m_, list);
    Between<real> shared{};
    if (last) {
      real *at = (real *)between_.need((2 * last + 2) * N * C * sizeof(real));
      for (int l = 1; l <= last; l++) { shared.scalar[l] = at; at += N * C; shared.weight[l] = at; at += N * C; }
      shared.d_scalar = at; at += N * C;
      shared.d_weight_above = at;
    }
    real *feature = answer.feature ? (real *)feature_.need(N * C * sizeof(real)) : nullptr;
    double *const all = (double *)total_.need(forces * sizeof(double));
    auto part = [&](int t, size_t size) { return std::pair<size_t, size_t>(size * t / n, size * (t + 1) / n); };
    auto each = [&](int l, Mode mode, bool accumulate) {
      threads.run([&](int t) {
        double *force = t ? (double *)mine_[t].need(forces * sizeof(double)) : all;
        if (!accumulate) std::memset(force, 0, forces * sizeof(double));
        Between<real> between = shared;
        if (l > 0 && mode != FORWARD) {
          between.d_weight = (real *)weights_[t].need(N * C * sizeof(real));
          std::memset(between.d_weight, 0, N * C * sizeof(real));
        }
        Results<real> out{answer.energy, force, answer.virial, feature, 1e60};
        const auto [begin, end] = part(t, N);
        if (answer.virial && mode == LAST) std::memset(answer.virial + 6 * begin, 0, 6 * (end - begin) * sizeof(double));
        if (mode != FORWARD || l < last) kernel_->run(m_, list, l, mode, int(begin), int(end), out, between, work_[t].need(bytes));
        closest_[t] = out.closest;
      });
    };
    for (int l = 0; l < last; l++) each(l, FORWARD, true);
    each(last, LAST, false);
    for (int l = last; l-- > 0;) {
      real *sum = const_cast<real *>(shared.d_weight_above);
      threads.run([&](int t) {
        const auto [begin, end] = part(t, N * C);
        for (size_t q = begin; q < end; q++) {
          real s = 0;
          for (int o = 0; o < n; o++) s += ((const real *)weights_[o].need(0))[q];
          sum[q] = s;
        }
      });
      each(l, BACKWARD, true);
    }
    threads.run([&](int t) {  // forces of all threads, in their order
      const auto [begin, end] = part(t, forces);
      for (int o = 1; o < n; o++) {
        const double *from = (const double *)mine_[o].need(0);
        for (size_t q = begin; q < end; q++) all[q] += from[q];
      }
      if (feature) {
        const auto [first, stop] = part(t, N * C);
        for (size_t q = first; q < stop; q++) answer.feature[q] = feature[q];
      }
    });
    for (int g = list.atoms; g < list.total; g++)
      for (int k = 0; k < 3; k++) all[4 * (size_t)list.source[g] + k] += all[4 * (size_t)g + k];
    std::memcpy(answer.force, all, 4 * N * sizeof(double));
    return *std::min_element(closest_.begin(), closest_.begin() + n);
  }

 private:
  const real *keep(const Arrays &given, const std::string &name, size_t size) {
    const auto &from = find(given, name, size);
    void *memory = (store_.emplace_back(new Buffer))->need((size + 64) * sizeof(real));
    real *to = (real *)memory;
    for (size_t q = 0; q < size; q++) to[q] = real(from[q]);
    return to;
  }
  void both(const Arrays &given, const std::string &name, size_t rows, size_t columns, const real *&plain, const real *&turned) {
    plain = keep(given, name, rows * columns);
    real *to = (real *)(store_.emplace_back(new Buffer))->need((rows * columns + 64) * sizeof(real));
    for (size_t r = 0; r < rows; r++) for (size_t c = 0; c < columns; c++) to[c * rows + r] = plain[r * columns + c];
    turned = to;
  }
  const double *exact(const Arrays &given, const std::string &name, size_t size) {
    find(given, name, size);
    return exact_.at(name).data();
  }
  static const std::vector<double> &find(const Arrays &given, const std::string &name, size_t size) {
    const auto it = given.values.find(name);
    if (it == given.values.end() || it->second.size() != size)
      throw std::invalid_argument("weights " + name + " are missing or have another size than the model says");
    return it->second;
  }

  const Kernel<real> *kernel_;
  Model<real> m_{};
  std::vector<std::unique_ptr<Buffer>> store_;
  std::map<std::string, std::vector<double>> exact_;
  std::vector<Buffer> mine_, work_, weights_;
  Buffer between_, feature_, total_;
  std::vector<double> closest_;
};

class Springs : public Evaluator {
 public:
  Springs(double stiffness, std::vector<double> places) : stiffness_(stiffness), places_(std::move(places)) {}
  double cutoff() const override { return 0; }
  int channels() const override { return 0; }
  const char *instructions() const override { return "none"; }
  double evaluate(const List &list, Threads &, const Answer &answer) override {
    for (int i = 0; i < list.atoms; i++) {
      answer.energy[i] = 0;
      for (int k = 0; k < 3; k++) {
        const double off = stiffness_ ? list.position[4 * (size_t)i + k] - places_[3 * (size_t)i + k] : 0;
        answer.energy[i] += stiffness_ / 2 * off * off;
        answer.force[4 * (size_t)i + k] = -stiffness_ * off;
      }
      if (answer.virial) std::fill(answer.virial + 6 * (size_t)i, answer.virial + 6 * (size_t)i + 6, 0.0);
    }
    return 1;
  }

 private:
  double stiffness_;
  std::vector<double> places_;
};

}  // namespace

std::unique_ptr<Evaluator> make_springs(double stiffness, std::vector<double> places) { return std::make_unique<Springs>(stiffness, std::move(places)); }
std::unique_ptr<Evaluator> make_density(const Arrays &given, bool single, const std::string &instructions) {
  if (single) return std::make_unique<Density<float>>(given, instructions);
  return std::make_unique<Density<double>>(given, instructions);
}
std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const auto &choice : kernels<float>()) if (has(choice.name)) names.push_back(choice.name);
  return names;
}
double peak(bool single, const std::string &instructions, long repeats) {
  return single ? choose<float>(instructions)->peak(repeats) : choose<double>(instructions)->peak(repeats);
}

}  // namespace mlipfm
