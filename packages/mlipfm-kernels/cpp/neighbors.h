// Neighbours of many systems end to end: images of atoms are points of their own ("ghosts"), found with a list of cells, reused until an atom has
// moved by half of the skin or the cell has changed as much.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include "model.h"

namespace mlipfm {

// What is wrong with a geometry: the code around names it in words.
struct Refusal {
  enum Kind { NONE, NOT_FINITE, OVERLAP, CROWD, CROWDED_CELL, TOO_MANY } kind = NONE;
  int first = 0, second = 0;  // atoms
  double value = 0;
};

class Neighbors {
 public:
  Neighbors(std::vector<int> first, std::vector<int> types, std::vector<double> cells, std::vector<int> periodic, double cutoff, double skin);
  // Lay out positions [atoms, 3] and their images; collects the neighbours anew if those of before do not hold any longer.
  Refusal update(const double *positions);
  Refusal rebuild(const double *positions);
  // Collect the neighbours as they were at earlier positions and cells, for the bits of a run that was not interrupted.
  Refusal restore(const double *positions, const double *cells);
  void set_cells(const double *cells);
  void set_types(const std::vector<int> &types);
  List list() const;
  double skin() const { return skin_; }

  const std::vector<int> first;           // [systems + 1]
  std::vector<double> cells, reference, reference_cells;
  std::vector<int> periodic;
  std::vector<int32_t> source;            // [total + 1]
  int atoms, total = 0;
  long builds = 0;

 private:
  bool stale(const double *positions) const;
  void place(const double *positions);
  Refusal collect(int system, const double *positions);

  std::vector<int> types_;
  double cutoff_, skin_;
  std::vector<double> inverse_;           // of the cells, [systems, 3, 3]
  std::vector<int32_t> wrap_, shift_;     // [atoms, 3] and [ghosts, 3] lattice steps
  std::vector<int32_t> system_of_ghost_;
  std::vector<double> position_;          // [total + 1, 4]
  std::vector<int32_t> first_run_, run_end_, run_type_, neighbor_;
  int longest_ = 0, most_runs_ = 0;
};

}  // namespace mlipfm
