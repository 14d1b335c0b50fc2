#include "neighbors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mlipfm {
namespace {

// As in mlipfm_interfaces.neighbors: no two atoms of any matter are nearer, no three within half an Angstrom of a fourth.
constexpr double MIN_DISTANCE = 0.1, CROWD_RADIUS = 0.5, MAX_DENSITY = 2.0;
constexpr int CROWD = 3, MAX_NEIGHBORS = 5000;
constexpr long MAX_POINTS = 400'000'000;

void cross(const double *a, const double *b, double *c) {
  c[0] = a[1] * b[2] - a[2] * b[1]; c[1] = a[2] * b[0] - a[0] * b[2]; c[2] = a[0] * b[1] - a[1] * b[0];
}
double dot(const double *a, const double *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Vectors of open axes are replaced by unit vectors normal to the others, so that the matrix has an inverse.
void complete(double *cell, const int *periodic) {
  for (int k = 0; k < 3; k++)
    if (!periodic[k]) cell[3 * k] = cell[3 * k + 1] = cell[3 * k + 2] = 0;
  for (int k = 0; k < 3; k++) {
    if (periodic[k]) continue;
    const double *a = cell + 3 * ((k + 1) % 3), *b = cell + 3 * ((k + 2) % 3);
    double n[3];
    cross(a, b, n);
    if (dot(n, n) < 1e-20) {  // at most one of the two is there yet
      const double *one = dot(a, a) > 0 ? a : b;
      double axis[3] = {0, 0, 0};
      if (dot(one, one) > 0) {
        int small = 0;
        for (int c = 1; c < 3; c++) if (std::abs(one[c]) < std::abs(one[small])) small = c;
        axis[small] = 1;
        cross(one, axis, n);
      } else {
        n[0] = k == 0; n[1] = k == 1; n[2] = k == 2;
      }
    }
    const double length = std::sqrt(dot(n, n));
    for (int c = 0; c < 3; c++) cell[3 * k + c] = n[c] / length;
  }
}
void invert(const double *a, double *b) {
  double c[9];
  cross(a + 3, a + 6, c); cross(a + 6, a, c + 3); cross(a, a + 3, c + 6);
  const double d = 1 / dot(a, c);
  for (int i = 0; i < 3; i++) for (int k = 0; k < 3; k++) b[3 * i + k] = c[3 * k + i] * d;
}
}  // namespace

Neighbors::Neighbors(std::vector<int> f, std::vector<int> types, std::vector<double> c, std::vector<int> p, double cutoff, double skin)
    : first(std::move(f)), periodic(std::move(p)), atoms(first.back()), types_(std::move(types)), cutoff_(cutoff), skin_(skin) {
  set_cells(c.data());
}

void Neighbors::set_cells(const double *c) {
  const size_t systems = first.size() - 1;
  cells.assign(c, c + 9 * systems);
  inverse_.resize(9 * systems);
  for (size_t s = 0; s < systems; s++) {
    complete(&cells[9 * s], &periodic[3 * s]);
    invert(&cells[9 * s], &inverse_[9 * s]);
  }
}

void Neighbors::set_types(const std::vector<int> &types) {
  types_ = types;
  reference.clear();
}

List Neighbors::list() const {
  return {atoms, total, position_.data(), source.data(), first_run_.data(), run_end_.data(), run_type_.data(), neighbor_.data(), longest_, most_runs_};
}

// A pair beyond cutoff + skin then is beyond the cutoff now, if the deformation F of its cell shortens no vector by more than a factor s and no atom
// has moved by more than u against the deformed lattice: s (cutoff + skin) - 2 u >= cutoff.
bool Neighbors::stale(const double *x) const {
  if (reference.empty()) return true;
  for (size_t s = 0; s + 1 < first.size(); s++) {
    const double *h = &cells[9 * s], *h0 = &reference_cells[9 * s];
    double deform[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, change = 0;
    const bool moved_cell = std::memcmp(h, h0, 9 * sizeof(double)) != 0;
    if (moved_cell) {
      double inverse[9];
      invert(h0, inverse);
      for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
          deform[3 * i + k] = inverse[3 * i] * h[k] + inverse[3 * i + 1] * h[3 + k] + inverse[3 * i + 2] * h[6 + k];
          const double off = deform[3 * i + k] - (i == k);
          change += off * off;
        }
    }
    const double most = ((1 - std::sqrt(change)) * (cutoff_ + skin_) - cutoff_) / 2;
    if (!(most >= 0)) return true;
    const double bound = most * most;  // compared so that a position that is not a number is found when the neighbours are collected
    if (!moved_cell) {
      for (int q = 3 * first[s]; q < 3 * first[s + 1]; q += 3) {
        const double a = x[q] - reference[q], b = x[q + 1] - reference[q + 1], c = x[q + 2] - reference[q + 2];
        if (!(a * a + b * b + c * c <= bound)) return true;
      }
    } else {
      const double *o = &reference[3 * (size_t)first[s]], *n = &x[3 * (size_t)first[s]];  // moved together: a shift of all is none
      for (int q = 3 * first[s]; q < 3 * first[s + 1]; q += 3) {
        const double d0 = reference[q] - o[0], d1 = reference[q + 1] - o[1], d2 = reference[q + 2] - o[2];
        double u = 0;
        for (int k = 0; k < 3; k++) {
          const double off = x[q + k] - n[k] - (d0 * deform[k] + d1 * deform[3 + k] + d2 * deform[6 + k]);
          u += off * off;
        }
        if (!(u <= bound)) return true;
      }
    }
  }
  return false;
}

void Neighbors::place(const double *x) {
  double *P = position_.data();
  for (size_t s = 0; s + 1 < first.size(); s++) {
    const double *h = &cells[9 * s];
    for (int i = first[s]; i < first[s + 1]; i++) {
      const int32_t *n = &wrap_[3 * (size_t)i];
      double *p = P + 4 * (size_t)i;
      const double *q = x + 3 * (size_t)i;
      if (n[0] | n[1] | n[2])
        for (int k = 0; k < 3; k++) p[k] = q[k] + (n[0] * h[k] + n[1] * h[3 + k] + n[2] * h[6 + k]);
      else
        for (int k = 0; k < 3; k++) p[k] = q[k];
    }
  }
  for (int g = atoms; g < total; g++) {
    const double *h = &cells[9 * (size_t)system_of_ghost_[g - atoms]], *q = P + 4 * (size_t)source[g];
    const int32_t *n = &shift_[3 * (size_t)(g - atoms)];
    double *p = P + 4 * (size_t)g;
    for (int k = 0; k < 3; k++) p[k] = q[k] + (n[0] * h[k] + n[1] * h[3 + k] + n[2] * h[6 + k]);
  }
}

Refusal Neighbors::update(const double *x) {
  if (stale(x)) return rebuild(x);
  place(x);
  return {};
}

Refusal Neighbors::restore(const double *x, const double *then) {
  const std::vector<double> now = cells;
  set_cells(then);
  const Refusal refusal = rebuild(x);
  set_cells(now.data());
  return refusal;
}

Refusal Neighbors::rebuild(const double *x) {
  for (int i = 0; i < 3 * atoms; i++)
    if (!(std::abs(x[i]) < 1e12)) return {Refusal::NOT_FINITE, i / 3, 0, x[i]};
  builds++;
  reference.clear();
  source.resize(atoms);
  for (int i = 0; i < atoms; i++) source[i] = i;
  shift_.clear(); system_of_ghost_.clear(); run_end_.clear(); run_type_.clear(); neighbor_.clear();
  wrap_.assign(3 * (size_t)atoms, 0);
  first_run_.assign((size_t)atoms + 1, 0);
  longest_ = most_runs_ = 0;
  for (size_t s = 0; s + 1 < first.size(); s++) {
    const Refusal refusal = collect(int(s), x);
    if (refusal.kind) return refusal;
  }
  total = int(source.size());
  source.push_back(0);
  position_.assign(4 * ((size_t)total + 1), 0.0);
  for (int p = 0; p < total; p++) position_[4 * (size_t)p + 3] = types_[source[p]];
  place(x);
  reference.assign(x, x + 3 * (size_t)atoms);
  reference_cells = cells;
  return {};
}

Refusal Neighbors::collect(int s, const double *x) {
  const int a = first[s], b = first[s + 1];
  const double *h = &cells[9 * (size_t)s], *inverse = &inverse_[9 * (size_t)s], reach = cutoff_ + skin_;
  const int *open = &periodic[3 * (size_t)s];
  const bool any = open[0] || open[1] || open[2];
  if (a == b || cutoff_ <= 0) return {};  // no atoms, or none that see each other
  std::vector<double> point;   // of this system: atoms, wrapped into the cell, then their images
  std::vector<int> id;
  point.reserve(3 * (size_t)(b - a)); id.reserve(b - a);
  double low[3] = {1e300, 1e300, 1e300}, high[3] = {-1e300, -1e300, -1e300};
  std::vector<double> fraction(any ? 3 * (size_t)(b - a) : 0);
  for (int i = a; i < b; i++) {
    double p[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
    if (any) {
      double *f = &fraction[3 * (size_t)(i - a)];
      for (int k = 0; k < 3; k++) {
        f[k] = p[0] * inverse[k] + p[1] * inverse[3 + k] + p[2] * inverse[6 + k];
        if (open[k]) {
          const double n = -std::floor(f[k]);
          if (std::abs(n) > 1e9) return {Refusal::NOT_FINITE, i, 0, p[k]};
          wrap_[3 * (size_t)i + k] = int32_t(n);
          f[k] += n;
        }
      }
      const int32_t *n = &wrap_[3 * (size_t)i];
      for (int k = 0; k < 3; k++) p[k] += n[0] * h[k] + n[1] * h[3 + k] + n[2] * h[6 + k];
    }
    point.insert(point.end(), p, p + 3);
    id.push_back(i);
    for (int k = 0; k < 3; k++) { low[k] = std::min(low[k], p[k]); high[k] = std::max(high[k], p[k]); }
  }
  if (any) {
    double volume[3];
    cross(h + 3, h + 6, volume);
    if (open[0] && open[1] && open[2] && (b - a) > MAX_DENSITY * std::abs(dot(h, volume)))
      return {Refusal::CROWDED_CELL, s, 0, (b - a) / std::abs(dot(h, volume))};
    double margin[3];
    for (int k = 0; k < 3; k++) margin[k] = reach * std::sqrt(inverse[k] * inverse[k] + inverse[3 + k] * inverse[3 + k] + inverse[6 + k] * inverse[6 + k]);
    double flow[3] = {1e300, 1e300, 1e300}, fhigh[3] = {-1e300, -1e300, -1e300};
    for (int i = 0; i < b - a; i++)
      for (int k = 0; k < 3; k++) { flow[k] = std::min(flow[k], fraction[3 * (size_t)i + k]); fhigh[k] = std::max(fhigh[k], fraction[3 * (size_t)i + k]); }
    for (int i = a; i < b; i++) {
      const double *f = &fraction[3 * (size_t)(i - a)], *p = &point[3 * (size_t)(i - a)];
      const double own[3] = {p[0], p[1], p[2]};  // `point` grows below
      int from[3], to[3];
      for (int k = 0; k < 3; k++) {
        from[k] = open[k] ? int(std::ceil(flow[k] - margin[k] - f[k])) : 0;
        to[k] = open[k] ? int(std::floor(fhigh[k] + margin[k] - f[k])) : 0;
      }
      if (double(to[0] - from[0] + 1) * (to[1] - from[1] + 1) * (to[2] - from[2] + 1) * (b - a) > double(MAX_POINTS)) return {Refusal::TOO_MANY, i, 0, 0};
      for (int u = from[0]; u <= to[0]; u++) for (int v = from[1]; v <= to[1]; v++) for (int w = from[2]; w <= to[2]; w++) {
        if (!u && !v && !w) continue;
        double q[3];
        bool near = true;
        for (int k = 0; k < 3; k++) {
          q[k] = own[k] + (u * h[k] + v * h[3 + k] + w * h[6 + k]);
          near = near && q[k] > low[k] - reach && q[k] < high[k] + reach;
        }
        if (!near) continue;
        id.push_back(int(source.size()));
        source.push_back(i);
        system_of_ghost_.push_back(s);
        const int32_t n[3] = {u, v, w};
        shift_.insert(shift_.end(), n, n + 3);
        point.insert(point.end(), q, q + 3);
      }
    }
  }
  const int n = int(id.size());
  double box_low[3] = {1e300, 1e300, 1e300}, box_high[3] = {-1e300, -1e300, -1e300};
  for (int j = 0; j < n; j++) for (int k = 0; k < 3; k++) { box_low[k] = std::min(box_low[k], point[3 * (size_t)j + k]); box_high[k] = std::max(box_high[k], point[3 * (size_t)j + k]); }
  // Cells of half the reach, sorted by counting; few points need none.
  int grid[3];
  double per[3];
  for (int k = 0; k < 3; k++) {
    const double size = box_high[k] - box_low[k];
    grid[k] = n <= 64 ? 1 : int(std::max(1.0, std::min(512.0, 2 * size / reach + 1)));
    per[k] = grid[k] / (size + 1e-9);
  }
  while (double(grid[0]) * grid[1] * grid[2] > 64.0 * n + 64)  // much empty space: coarser cells
    for (int k = 0; k < 3; k++) { grid[k] = std::max(1, grid[k] / 2); per[k] = grid[k] / (box_high[k] - box_low[k] + 1e-9); }
  auto bin = [&](double q, int k) { return int(std::min(grid[k] - 1.0, std::max(0.0, (q - box_low[k]) * per[k]))); };
  std::vector<int> start((size_t)grid[0] * grid[1] * grid[2] + 1, 0), cell_of(n);
  for (int j = 0; j < n; j++) {
    const double *q = &point[3 * (size_t)j];
    cell_of[j] = (bin(q[0], 0) * grid[1] + bin(q[1], 1)) * grid[2] + bin(q[2], 2);
    start[cell_of[j] + 1]++;
  }
  for (size_t c = 1; c < start.size(); c++) start[c] += start[c - 1];
  std::vector<int> at(start.begin(), start.end() - 1), sorted(n), kind(n);
  std::vector<double> sx(n), sy(n), sz(n);
  std::vector<int> present;  // types of this system, ascending
  for (int i = a; i < b; i++) present.push_back(types_[i]);
  std::sort(present.begin(), present.end());
  present.erase(std::unique(present.begin(), present.end()), present.end());
  for (int j = 0; j < n; j++) {
    const int o = at[cell_of[j]]++;
    sorted[o] = id[j]; kind[o] = types_[source[id[j]]];
    sx[o] = point[3 * (size_t)j]; sy[o] = point[3 * (size_t)j + 1]; sz[o] = point[3 * (size_t)j + 2];
  }
  const double limit = reach * reach;
  std::vector<int32_t> found(n), found_kind(n);
  for (int i = a; i < b; i++) {
    const double *p = &point[3 * (size_t)(i - a)], px = p[0], py = p[1], pz = p[2];
    int r0[3], r1[3];
    for (int k = 0; k < 3; k++) {
      r0[k] = bin(p[k] - reach, k);
      r1[k] = bin(p[k] + reach, k);
    }
    int c = 0, crowd = 0;
    double nearest = 1e300;
    int nearest_id = i;
    for (int u = r0[0]; u <= r1[0]; u++)
      for (int v = r0[1]; v <= r1[1]; v++) {
        const int from = start[(u * grid[1] + v) * grid[2] + r0[2]], to = start[(u * grid[1] + v) * grid[2] + r1[2] + 1];
        for (int o = from; o < to; o++) {
          const double dx = sx[o] - px, dy = sy[o] - py, dz = sz[o] - pz, d2 = dx * dx + dy * dy + dz * dz;
          const bool in = (d2 < limit) & (sorted[o] != i);
          found[c] = sorted[o]; found_kind[c] = kind[o];
          c += in;
          if (in & (d2 < CROWD_RADIUS * CROWD_RADIUS)) { crowd++; if (d2 < nearest) { nearest = d2; nearest_id = sorted[o]; } }
        }
      }
    if (nearest < MIN_DISTANCE * MIN_DISTANCE) return {Refusal::OVERLAP, i, source[nearest_id], std::sqrt(nearest)};
    if (crowd >= CROWD) return {Refusal::CROWD, i, crowd, 0};
    if (c > MAX_NEIGHBORS * 2) return {Refusal::TOO_MANY, i, c, 0};
    int runs = 0;
    if (present.size() == 1) {
      neighbor_.insert(neighbor_.end(), found.begin(), found.begin() + c);
      if (c) { run_end_.push_back(int32_t(neighbor_.size())); run_type_.push_back(present[0]); runs = 1; }
    } else {
      for (const int t : present) {
        const size_t before = neighbor_.size();
        for (int q = 0; q < c; q++) if (found_kind[q] == t) neighbor_.push_back(found[q]);
        if (neighbor_.size() > before) { run_end_.push_back(int32_t(neighbor_.size())); run_type_.push_back(t); runs++; }
      }
    }
    if (neighbor_.size() > size_t(2'000'000'000)) return {Refusal::TOO_MANY, i, c, 0};
    first_run_[i + 1] = int32_t(run_end_.size());
    longest_ = std::max(longest_, c);
    most_runs_ = std::max(most_runs_, runs);
  }
  return {};
}

}  // namespace mlipfm
