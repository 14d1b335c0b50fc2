// A `density` potential on one machine: its weights in the layout and precision of a kernel, and the calls of that kernel by several threads.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "model.h"
#include "threads.h"

namespace mlipfm {

// Arrays by name, row-major, as `mlipfm_kernels.weights` makes them.
struct Arrays {
  std::map<std::string, std::vector<double>> values;
  std::map<std::string, double> numbers;
};

struct Answer {
  double *energy;      // [atoms] eV
  double *force;       // [atoms, 4] eV/Angstrom, the fourth number is unused
  double *virial;      // [atoms, 6] or null
  double *feature;     // [atoms, channels] or null
};

class Evaluator {
 public:
  virtual ~Evaluator() = default;
  // Returns the smallest squared distance of two atoms.
  virtual double evaluate(const List &, Threads &, const Answer &) = 0;
  virtual double cutoff() const = 0;
  virtual int channels() const = 0;
  virtual const char *instructions() const = 0;
};

// `instructions`: the name of an instruction set this machine has, "" for the best. Throws std::invalid_argument for one that it lacks.
std::unique_ptr<Evaluator> make_density(const Arrays &, bool single, const std::string &instructions);
// Atoms on springs at fixed places, and without any force where `stiffness` is 0: closed forms that thermostats and barostats are tested on.
std::unique_ptr<Evaluator> make_springs(double stiffness, std::vector<double> places);
// Names of the instruction sets that are built in and that this machine has, best first.
std::vector<std::string> instruction_sets();
double peak(bool single, const std::string &instructions, long repeats);

}  // namespace mlipfm
