// Molecular dynamics without a step of Python: the ensembles of mlipfm_md (ensembles.py, barostat.py), step by step the same, with random numbers
// of their own (counters of Philox, so that a restarted run draws the same).
#pragma once
#include <cstdint>
#include <vector>
#include "density.h"
#include "neighbors.h"

namespace mlipfm {

enum class Kind { NVE, LANGEVIN, BUSSI, NOSE_HOOVER, NPT };

struct Ensemble {
  Kind kind = Kind::NVE;
  double dt = 0, acceleration = 0, boltzmann = 0;   // fs; (eV/Angstrom/amu) in Angstrom/fs^2; eV/K
  double friction = 0, time = 0;                    // 1/fs, fs
  int chain = 0;
  bool full = false;
  uint64_t seed = 0;
  std::vector<double> temperature, pressure;        // [systems] K, eV/Angstrom^3
  double hottest = 0, expansion = 0;                // limits: K, and the factor of volume and of shape
  std::vector<double> start;                        // [systems, 3, 3] cells of the start, Angstrom
};

// All systems at one instant; the arrays belong to the caller.
struct Motion {
  double *position, *velocity, *force;   // [atoms, 3]
  double *energy;                        // [systems]
  const double *mass;                    // [atoms]
  const bool *movable, *centre;          // [atoms, 3], [systems, 3]
  double *cell, *stress;                 // [systems, 3, 3]; stress may be null
  double *heat, *chain_position, *chain_velocity, *cell_velocity;  // of thermostats and barostat, where there are such
  int64_t step;
};

struct Stop {
  enum Why { NONE, NOT_FINITE, HOT, MET, COLLAPSED, BURST, SHEARED } why = NONE;
  int system = 0;
  double value = 0;
  Refusal refusal;
};

class Dynamics {
 public:
  Dynamics(Evaluator &evaluator, Neighbors &neighbors, Threads &threads) : evaluator_(evaluator), neighbors_(neighbors), threads_(threads) {}
  // Take steps until `until`; if the simulation is no longer physical, `motion` is the last good state.
  Stop run(const Ensemble &, Motion &, int64_t until);

 private:
  Stop forces(const Ensemble &, Motion &);
  void step(const Ensemble &, Motion &, Stop &);
  void kick(const Ensemble &, Motion &, double dt);
  void drift(Motion &, double dt);
  void bath(const Ensemble &, Motion &);
  void bussi(const Ensemble &, Motion &);
  void nose_hoover(const Ensemble &, Motion &, double dt);
  void npt_kick_cell(const Ensemble &, Motion &, double dt);
  void npt_kick(const Ensemble &, Motion &, double dt);
  void npt_drift(Motion &, double dt);
  void npt_baths(const Ensemble &, Motion &);
  double kinetic(const Ensemble &, const Motion &, int system) const;
  double drift_energy(const Ensemble &, const Motion &, int system, double *velocity) const;
  int freedom(const Motion &, int system) const;
  void scale(const Ensemble &, Motion &, int system, double factor);
  double cell_mass(const Ensemble &, int system) const;
  int systems() const { return int(neighbors_.first.size()) - 1; }
  int begin(int s) const { return neighbors_.first[s]; }
  int end(int s) const { return neighbors_.first[s + 1]; }

  Evaluator &evaluator_;
  Neighbors &neighbors_;
  Threads &threads_;
  std::vector<double> atom_energy_, force_, virial_, saved_;
};

// Standard normal numbers `n` of the stream (seed, purpose, system, step).
void normals(uint64_t seed, uint32_t purpose, uint32_t system, int64_t step, int n, double *out);

}  // namespace mlipfm
