#include "dynamics.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mlipfm {
namespace {

constexpr double PI = 3.14159265358979323846;
enum Purpose : uint32_t { ATOMS = 1, KINETIC = 2, CELL = 3 };

// Philox 4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): random bits as a function of a counter and a key.
void philox(const uint32_t (&counter)[4], uint64_t key, uint32_t (&out)[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
    const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k1, uint32_t(a)};
    std::copy(next, next + 4, c);
    k0 += 0x9E3779B9; k1 += 0xBB67AE85;
  }
  std::copy(c, c + 4, out);
}
// One stream: uniform numbers in (0, 1) by their index.
class Stream {
 public:
  Stream(uint64_t seed, uint32_t purpose, uint32_t system, int64_t step)
      : seed_(seed), high_(uint32_t(uint64_t(step) >> 32) << 4 | purpose), low_(uint32_t(step)), system_(system) {}
  void pair(uint32_t index, double &a, double &b) const {
    uint32_t bits[4];
    philox({index, low_, high_, system_}, seed_, bits);
    a = (double((uint64_t(bits[0]) << 32 | bits[1]) >> 11) + 0.5) * 0x1p-53;
    b = (double((uint64_t(bits[2]) << 32 | bits[3]) >> 11) + 0.5) * 0x1p-53;
  }
  // Two independent standard normal numbers (Box and Muller).
  void normal(uint32_t index, double &a, double &b) const {
    double u, v;
    pair(index, u, v);
    const double r = std::sqrt(-2 * std::log(u));
    a = r * std::cos(2 * PI * v); b = r * std::sin(2 * PI * v);
  }
  // Sum of the squares of n standard normal numbers: twice a gamma variable, by rejection (Marsaglia and Tsang 2000).
  double squares(int n, uint32_t from) const {
    if (n <= 0) return 0;
    if (n == 1) { double a, b; normal(from, a, b); return a * a; }
    const double d = n / 2.0 - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    for (uint32_t k = from;; k += 2) {
      double x, unused, u, v;
      normal(k, x, unused);
      pair(k + 1, u, v);
      const double t = 1 + c * x;
      if (t <= 0) continue;
      const double g = t * t * t;
      if (std::log(u) < 0.5 * x * x + d - d * g + d * std::log(g)) return 2 * d * g;
    }
  }

 private:
  uint64_t seed_;
  uint32_t high_, low_, system_;
};

// Eigenvalues and -vectors (columns of v) of a symmetric 3 x 3 matrix, by Jacobi's rotations.
void eigen(const double *matrix, double *value, double (&v)[3][3]) {
  double a[3][3];
  for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) { a[i][k] = matrix[3 * i + k]; v[i][k] = i == k; }
  for (int sweep = 0; sweep < 50; sweep++) {
    const double off = std::abs(a[0][1]) + std::abs(a[0][2]) + std::abs(a[1][2]);
    if (off == 0) break;
    for (int p = 0; p < 2; p++)
      for (int q = p + 1; q < 3; q++) {
        if (a[p][q] == 0) continue;
        const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1)), c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < 3; k++) { const double x = a[k][p], y = a[k][q]; a[k][p] = c * x - s * y; a[k][q] = s * x + c * y; }
        for (int k = 0; k < 3; k++) { const double x = a[p][k], y = a[q][k]; a[p][k] = c * x - s * y; a[q][k] = s * x + c * y; }
        for (int k = 0; k < 3; k++) { const double x = v[k][p], y = v[k][q]; v[k][p] = c * x - s * y; v[k][q] = s * x + c * y; }
      }
  }
  for (int k = 0; k < 3; k++) value[k] = a[k][k];
}
// exp(A dt) and its integral from 0 to dt of a symmetric matrix.
void exponentials(const double *a, double dt, double *growth, double *path) {
  double value[3], v[3][3];
  eigen(a, value, v);
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 3; k++) {
      double g = 0, p = 0;
      for (int q = 0; q < 3; q++) {
        const double x = value[q] * dt, e = std::abs(x) < 1e-12 ? 1 : std::expm1(x) / x;
        g += v[i][q] * std::exp(x) * v[k][q];
        p += v[i][q] * dt * e * v[k][q];
      }
      growth[3 * i + k] = g; path[3 * i + k] = p;
    }
}
double volume(const double *h) {
  return std::abs(h[0] * (h[4] * h[8] - h[5] * h[7]) - h[1] * (h[3] * h[8] - h[5] * h[6]) + h[2] * (h[3] * h[7] - h[4] * h[6]));
}
// How many times more a cell (rows are its vectors) is stretched along one direction than along another, from `start` to `now`.
double stretch(const double *start, const double *now) {
  double inverse[9], f[9], squared[9], value[3], unused[3][3];
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 3; k++) {  // up to the factor 1 / determinant, which cancels
      const int a = (k + 1) % 3, b = (k + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
      inverse[3 * i + k] = start[3 * a + c] * start[3 * b + d] - start[3 * a + d] * start[3 * b + c];
    }
  for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) f[3 * i + k] = inverse[3 * i] * now[k] + inverse[3 * i + 1] * now[3 + k] + inverse[3 * i + 2] * now[6 + k];
  for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) squared[3 * i + k] = f[i] * f[k] + f[3 + i] * f[3 + k] + f[6 + i] * f[6 + k];
  eigen(squared, value, unused);
  const double largest = std::max({value[0], value[1], value[2]}), smallest = std::min({value[0], value[1], value[2]});
  return std::sqrt(largest / smallest);  // not a number for a cell that is not finite or flat
}
// The symmetric part, or the part that is a multiple of the unit matrix.
void allowed(bool full, const double *m, double *out) {
  const double third = (m[0] + m[4] + m[8]) / 3;
  for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) out[3 * i + k] = full ? (m[3 * i + k] + m[3 * k + i]) / 2 : (i == k ? third : 0);
}
}  // namespace

void normals(uint64_t seed, uint32_t purpose, uint32_t system, int64_t step, int n, double *out) {
  const Stream stream(seed, purpose, system, step);
  for (int q = 0; q < n; q += 2) {
    double a, b;
    stream.normal(uint32_t(q / 2), a, b);
    out[q] = a;
    if (q + 1 < n) out[q + 1] = b;
  }
}

Stop Dynamics::forces(const Ensemble &e, Motion &m) {
  const bool npt = e.kind == Kind::NPT;
  Stop stop;
  if (npt) neighbors_.set_cells(m.cell);
  const Refusal refusal = neighbors_.update(m.position);
  if (refusal.kind) { stop.why = refusal.kind == Refusal::NOT_FINITE ? Stop::NOT_FINITE : Stop::MET; stop.refusal = refusal; return stop; }
  const size_t N = neighbors_.atoms;
  atom_energy_.resize(N); force_.resize(4 * N);
  if (npt) virial_.resize(6 * N);
  const double closest = evaluator_.evaluate(neighbors_.list(), threads_, {atom_energy_.data(), force_.data(), npt ? virial_.data() : nullptr, nullptr});
  if (closest < 0.01) {  // 0.1 Angstrom: the search for neighbours names the atoms
    stop.refusal = neighbors_.rebuild(m.position);
    if (stop.refusal.kind) { stop.why = Stop::MET; return stop; }
  }
  double worst = 0;
  for (size_t i = 0; i < N; i++)
    for (int k = 0; k < 3; k++) { m.force[3 * i + k] = force_[4 * i + k]; worst += 0 * force_[4 * i + k]; }
  for (int s = 0; s < systems(); s++) {
    double sum = 0;
    for (int i = begin(s); i < end(s); i++) sum += atom_energy_[i];
    m.energy[s] = sum;
    worst += 0 * sum;
    if (npt) {
      double v[6] = {0, 0, 0, 0, 0, 0};
      for (int i = begin(s); i < end(s); i++) for (int q = 0; q < 6; q++) v[q] += virial_[6 * (size_t)i + q];
      const double inverse = 1 / volume(m.cell + 9 * (size_t)s);
      const int place[9] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
      for (int q = 0; q < 9; q++) m.stress[9 * (size_t)s + q] = v[place[q]] * inverse;
    }
  }
  if (!(worst == 0)) stop.why = Stop::NOT_FINITE;
  return stop;
}

double Dynamics::drift_energy(const Ensemble &e, const Motion &m, int s, double *velocity) const {
  double total = 0, energy = 0;
  for (int k = 0; k < 3; k++) velocity[k] = 0;
  const bool *counts = m.centre + 3 * (size_t)s;
  if (!(counts[0] || counts[1] || counts[2])) return 0;
  for (int i = begin(s); i < end(s); i++) {
    total += m.mass[i];
    for (int k = 0; k < 3; k++) velocity[k] += m.mass[i] * m.velocity[3 * (size_t)i + k];
  }
  for (int k = 0; k < 3; k++) {
    velocity[k] = counts[k] ? velocity[k] / total : 0;
    energy += 0.5 / e.acceleration * total * velocity[k] * velocity[k];
  }
  return energy;
}
double Dynamics::kinetic(const Ensemble &e, const Motion &m, int s) const {
  double sum = 0;
  for (int i = begin(s); i < end(s); i++) {
    const double *v = m.velocity + 3 * (size_t)i;
    sum += m.mass[i] * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
  }
  return 0.5 / e.acceleration * sum;
}
int Dynamics::freedom(const Motion &m, int s) const {
  int n = 0;
  for (size_t q = 3 * (size_t)begin(s); q < 3 * (size_t)end(s); q++) n += m.movable[q];
  for (int k = 0; k < 3; k++) n -= m.centre[3 * (size_t)s + k];
  return n;
}
void Dynamics::scale(const Ensemble &e, Motion &m, int s, double factor) {
  double v[3];
  drift_energy(e, m, s, v);
  for (int i = begin(s); i < end(s); i++)
    for (int k = 0; k < 3; k++) {
      double &x = m.velocity[3 * (size_t)i + k];
      x = factor * x + (1 - factor) * v[k];
    }
}

void Dynamics::kick(const Ensemble &e, Motion &m, double dt) {
  for (size_t i = 0; i < (size_t)neighbors_.atoms; i++) {
    const double f = dt * e.acceleration / m.mass[i];
    for (int k = 0; k < 3; k++) m.velocity[3 * i + k] += m.movable[3 * i + k] ? f * m.force[3 * i + k] : 0;
  }
}
void Dynamics::drift(Motion &m, double dt) {
  for (size_t q = 0; q < 3 * (size_t)neighbors_.atoms; q++) m.position[q] += dt * m.velocity[q];
}
void Dynamics::bath(const Ensemble &e, Motion &m) {
  const double keep = std::exp(-e.friction * e.dt);
  std::vector<double> noise;
  for (int s = 0; s < systems(); s++) {
    const int n = 3 * (end(s) - begin(s));
    noise.resize(n);
    normals(e.seed, ATOMS, s, m.step, n, noise.data());
    for (int i = begin(s); i < end(s); i++) {
      const double width = std::sqrt((1 - keep * keep) * e.boltzmann * e.temperature[s] * e.acceleration / m.mass[i]);
      for (int k = 0; k < 3; k++) {
        const size_t q = 3 * (size_t)i + k;
        m.velocity[q] = keep * m.velocity[q] + (m.movable[q] ? width * noise[3 * (size_t)(i - begin(s)) + k] : 0);
      }
    }
  }
}
void Dynamics::bussi(const Ensemble &e, Motion &m) {
  const double keep = std::exp(-e.dt / e.time);
  for (int s = 0; s < systems(); s++) {
    double v[3];
    const double before = kinetic(e, m, s) - drift_energy(e, m, s, v);
    const int n = freedom(m, s);
    const Stream stream(e.seed, KINETIC, s, m.step);
    double one, unused;
    stream.normal(0, one, unused);
    const double unit = e.boltzmann * e.temperature[s] / 2 * (1 - keep);
    const double root = std::sqrt(keep * before) + std::sqrt(unit) * one, after = root * root + unit * stream.squares(n - 1, 1);
    scale(e, m, s, std::sqrt(after / before));
    m.heat[s] += after - before;
  }
}
void Dynamics::nose_hoover(const Ensemble &e, Motion &m, double dt) {
  const int last = e.chain - 1;
  const double outer = 1 / (2 - std::cbrt(2.0)), weights[3] = {outer, 1 - 2 * outer, outer};
  for (int s = 0; s < systems(); s++) {
    double unused[3];
    double energy = kinetic(e, m, s) - drift_energy(e, m, s, unused), factor = 1;
    const double kt = e.boltzmann * e.temperature[s], n = freedom(m, s);
    double *x = m.chain_position + (size_t)s * e.chain, *v = m.chain_velocity + (size_t)s * e.chain;
    auto mass = [&](int k) { return kt * e.time * e.time * (k == 0 ? n : 1); };
    auto push = [&](int k, double h) {
      const double drive = k == 0 ? 2 * energy - n * kt : mass(k - 1) * v[k - 1] * v[k - 1] - kt;
      const double damp = k < last ? std::exp(-v[k + 1] * h / 4) : 1;
      v[k] = (v[k] * damp + h / 2 * drive / mass(k)) * damp;
    };
    for (const double weight : weights) {
      const double h = weight * dt;
      for (int k = last; k >= 0; k--) push(k, h);
      const double f = std::exp(-v[0] * h);
      factor *= f; energy *= f * f;
      for (int k = 0; k <= last; k++) x[k] += h * v[k];
      for (int k = 0; k <= last; k++) push(k, h);
    }
    scale(e, m, s, factor);
  }
}

double Dynamics::cell_mass(const Ensemble &e, int s) const {
  return (3.0 * (end(s) - begin(s)) + 3) * e.boltzmann * e.temperature[s] * e.time * e.time / 3;
}
void Dynamics::npt_kick_cell(const Ensemble &e, Motion &m, double dt) {
  for (int s = 0; s < systems(); s++) {
    double kin[9] = {0}, change[9];
    for (int i = begin(s); i < end(s); i++) {
      const double *v = m.velocity + 3 * (size_t)i, f = m.mass[i] / e.acceleration;
      for (int a = 0; a < 3; a++) for (int b = 0; b < 3; b++) kin[3 * a + b] += f * v[a] * v[b];
    }
    const double V = volume(m.cell + 9 * (size_t)s), share = (kin[0] + kin[4] + kin[8]) / (3.0 * (end(s) - begin(s))) - e.pressure[s] * V;
    for (int q = 0; q < 9; q++) kin[q] += -V * m.stress[9 * (size_t)s + q] + (q % 4 == 0 ? share : 0);
    allowed(e.full, kin, change);
    for (int q = 0; q < 9; q++) m.cell_velocity[9 * (size_t)s + q] += dt / cell_mass(e, s) * change[q];
  }
}
void Dynamics::npt_kick(const Ensemble &e, Motion &m, double dt) {
  for (int s = 0; s < systems(); s++) {
    const double *rate = m.cell_velocity + 9 * (size_t)s, trace = (rate[0] + rate[4] + rate[8]) / (3.0 * (end(s) - begin(s)));
    double negative[9], decay[9], impulse[9];
    for (int q = 0; q < 9; q++) negative[q] = -rate[q] - (q % 4 == 0 ? trace : 0);
    exponentials(negative, dt, decay, impulse);
    for (int i = begin(s); i < end(s); i++) {
      double *v = m.velocity + 3 * (size_t)i, next[3];
      const double *f = m.force + 3 * (size_t)i, a = e.acceleration / m.mass[i];
      for (int k = 0; k < 3; k++) {
        next[k] = 0;
        for (int q = 0; q < 3; q++) next[k] += v[q] * decay[3 * q + k] + a * f[q] * impulse[3 * q + k];
      }
      std::copy(next, next + 3, v);
    }
  }
}
void Dynamics::npt_drift(Motion &m, double dt) {
  for (int s = 0; s < systems(); s++) {
    double growth[9], path[9], next[9];
    exponentials(m.cell_velocity + 9 * (size_t)s, dt, growth, path);
    for (int i = begin(s); i < end(s); i++) {
      double *x = m.position + 3 * (size_t)i, to[3];
      const double *v = m.velocity + 3 * (size_t)i;
      for (int k = 0; k < 3; k++) {
        to[k] = 0;
        for (int q = 0; q < 3; q++) to[k] += x[q] * growth[3 * q + k] + v[q] * path[3 * q + k];
      }
      std::copy(to, to + 3, x);
    }
    double *h = m.cell + 9 * (size_t)s;
    for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) {
      next[3 * i + k] = 0;
      for (int q = 0; q < 3; q++) next[3 * i + k] += h[3 * i + q] * growth[3 * q + k];
    }
    std::copy(next, next + 9, h);
  }
}
void Dynamics::npt_baths(const Ensemble &e, Motion &m) {
  std::vector<double> before(systems());
  auto energy = [&](int s) {
    double sum = 0;
    for (int q = 0; q < 9; q++) sum += m.cell_velocity[9 * (size_t)s + q] * m.cell_velocity[9 * (size_t)s + q];
    return kinetic(e, m, s) + cell_mass(e, s) * sum / 2;
  };
  for (int s = 0; s < systems(); s++) before[s] = energy(s);
  bath(e, m);
  const double keep = std::exp(-e.dt / e.time);
  for (int s = 0; s < systems(); s++) {
    double drawn[9], part[9];
    normals(e.seed, CELL, s, m.step, 9, drawn);
    allowed(e.full, drawn, part);
    const double width = std::sqrt((1 - keep * keep) * e.boltzmann * e.temperature[s] / cell_mass(e, s));
    for (int q = 0; q < 9; q++) m.cell_velocity[9 * (size_t)s + q] = keep * m.cell_velocity[9 * (size_t)s + q] + width * part[q];
    m.heat[s] += energy(s) - before[s];
  }
}

void Dynamics::step(const Ensemble &e, Motion &m, Stop &stop) {
  const double dt = e.dt;
  switch (e.kind) {
    case Kind::NPT:
      npt_kick_cell(e, m, dt / 2); npt_kick(e, m, dt / 2); npt_drift(m, dt / 2);
      npt_baths(e, m);
      npt_drift(m, dt / 2);
      stop = forces(e, m);
      if (stop.why) return;
      npt_kick(e, m, dt / 2); npt_kick_cell(e, m, dt / 2);
      m.step++;
      return;
    case Kind::LANGEVIN:
      kick(e, m, dt / 2); drift(m, dt / 2); bath(e, m); drift(m, dt / 2);
      stop = forces(e, m);
      if (stop.why) return;
      kick(e, m, dt / 2);
      m.step++;
      return;
    default:
      if (e.kind == Kind::NOSE_HOOVER) nose_hoover(e, m, dt / 2);
      kick(e, m, dt / 2); drift(m, dt);
      stop = forces(e, m);
      if (stop.why) return;
      kick(e, m, dt / 2);
      m.step++;
      if (e.kind == Kind::NOSE_HOOVER) nose_hoover(e, m, dt / 2);
      if (e.kind == Kind::BUSSI) bussi(e, m);
  }
}

Stop Dynamics::run(const Ensemble &e, Motion &m, int64_t until) {
  const size_t N = 3 * (size_t)neighbors_.atoms, S = systems();
  struct Part { double *at; size_t size; };
  std::vector<Part> parts = {{m.position, N}, {m.velocity, N}, {m.force, N}, {m.energy, S}};
  if (m.heat) parts.push_back({m.heat, S});
  if (e.kind == Kind::NOSE_HOOVER) { parts.push_back({m.chain_position, S * e.chain}); parts.push_back({m.chain_velocity, S * e.chain}); }
  if (e.kind == Kind::NPT) { parts.push_back({m.cell, 9 * S}); parts.push_back({m.stress, 9 * S}); parts.push_back({m.cell_velocity, 9 * S}); }
  size_t size = 0;
  for (const Part &p : parts) size += p.size;
  saved_.resize(size);
  while (m.step < until) {
    double *to = saved_.data();
    for (const Part &p : parts) to = std::copy(p.at, p.at + p.size, to);
    const int64_t before = m.step;
    Stop stop;
    step(e, m, stop);
    for (int s = 0; s < int(S) && !stop.why; s++) {
      double unused[3];
      const double kelvin = 2 * (kinetic(e, m, s) - drift_energy(e, m, s, unused)) / (std::max(1, freedom(m, s)) * e.boltzmann);
      if (!(kelvin <= e.hottest)) { stop.why = std::isfinite(kelvin) ? Stop::HOT : Stop::NOT_FINITE; stop.system = s; stop.value = kelvin; }
      if (e.kind == Kind::NPT) {
        const double *start = e.start.data() + 9 * (size_t)s, *now = m.cell + 9 * (size_t)s, ratio = volume(now) / volume(start);
        const double shape = e.full ? stretch(start, now) : 1;
        if (!(ratio <= e.expansion)) { stop.why = Stop::BURST; stop.system = s; stop.value = ratio; }
        if (ratio < 1 / e.expansion) { stop.why = Stop::COLLAPSED; stop.system = s; stop.value = ratio; }
        if (!(shape <= e.expansion)) { stop.why = Stop::SHEARED; stop.system = s; stop.value = shape; }
      }
    }
    if (stop.why) {
      const double *from = saved_.data();
      for (const Part &p : parts) { std::copy(from, from + p.size, p.at); from += p.size; }
      m.step = before;
      return stop;
    }
  }
  return {};
}

}  // namespace mlipfm
