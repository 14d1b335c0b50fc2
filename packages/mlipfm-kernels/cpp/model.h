// What the kernels share with the code around them: weights, neighbour lists and results, as plain pointers.
#pragma once
#include <stdint.h>

namespace mlipfm {

constexpr int MAX_LAYERS = 8;

// One density layer. Channels C, mixed channels Q (both padded to a multiple of 16 with zeros), functions R, degrees 0..L. Row-major.
// In the first layer every neighbour's weight depends on its type alone, so all maps up to the mixtures are folded into one per type.
template <class real> struct Layer {
  const real *maps;       // first layer: [types, R, 2 Q + C], from the radial expansion to both mixtures and (of l = 0) to the hidden layer
  const real *maps_t;     // first layer: [types, 2 Q + C, R padded to 16], the transpose of `maps`
  const real *species;    // other layers: [C, C] and its transpose: from scalars to the weights of neighbours
  const real *species_t;
  const real *filter;     // other layers: [R, C] and [C, R]
  const real *filter_t;
  const real *mix;        // other layers: [C, 2 Q] and [2 Q, C]
  const real *mix_t;
  const real *density;    // other layers: [C, C] and its transpose: from the density (l = 0) to the hidden layer
  const real *density_t;
  const real *own;        // other layers: [C, C] and its transpose: from the atom's scalars to the hidden layer
  const real *own_t;
  const real *spectrum;   // [(L + 1) Q, C] and its transpose: from the invariants to the hidden layer
  const real *spectrum_t;
  const real *bias;       // first layer: [types, C]; others: [C]
  const real *outer;      // [C, C] and its transpose: of the last layer, already multiplied by the inner map of the head
  const real *outer_t;
  const real *outer_bias; // first layer: [types, C] (with the scalars that go on, or in a model of one layer with all of the head's bias); others: [C]
};

template <class real> struct Model {
  int degree, channels, mixed, functions, layers, types;
  double cutoff, scale;
  Layer<real> layer[MAX_LAYERS];
  const real *head;        // several layers: [C, C] and its transpose: from the scalars before the last layer to the head
  const real *head_t;
  const real *readout;     // [types, C]
  const double *constant;  // [types] eV
  const double *charge;    // [types, 2] nuclear charge Z and Z^0.23; null without short-range repulsion
  const double *radius;    // [types] Angstrom, covalent
  const double *shortest;  // [types, types] Angstrom: nearer neighbours are given as little nearer than this; or null
  double nearest;          // fraction of `shortest` that none comes below
};

// Neighbours of N atoms among N + ghosts. Those of one atom stand in runs of one type.
struct List {
  int atoms, total;
  const double *position;   // [total + 1, 4] x y z type; the last entry is nobody's and takes what padding gives
  const int32_t *source;    // [total + 1] the atom that a ghost is an image of
  const int32_t *first_run; // [atoms + 1]
  const int32_t *run_end;   // [runs] index into `neighbor` after the last of the run
  const int32_t *run_type;  // [runs]
  const int32_t *neighbor;
  int longest, most_runs;   // of any atom
};

template <class real> struct Results {
  double *energy;   // [atoms] eV
  double *force;    // [total + 1, 4] eV/Angstrom, added to
  double *virial;   // [atoms, 6] xx yy zz yz xz xy of the sum of d (x) dE_i/dd, eV; or null
  real *feature;    // [atoms, C] the last hidden layer; or null
  double closest;   // smallest squared distance seen, Angstrom^2
};

// Scalars that pass between the layers, [atoms, C] each, and what comes back.
template <class real> struct Between {
  real *scalar[MAX_LAYERS];  // before layer l (l > 0)
  real *weight[MAX_LAYERS];  // of neighbours in layer l (l > 0)
  real *d_scalar;            // dE/d scalar before the layer in hand
  const real *d_weight_above; // dE/d weight of the layer above
  real *d_weight;            // dE/d weight of the layer in hand, added to: one per thread
};

enum Mode { FORWARD, LAST, BACKWARD };

template <class real> struct Kernel {
  const char *name;
  int lanes;
  int (*block)(const Model<real> &);
  size_t (*workspace)(const Model<real> &, const List &);
  // One layer of the atoms [begin, end): forward, the last layer with its gradient, or the gradient of an earlier layer.
  void (*run)(const Model<real> &, const List &, int layer, Mode, int begin, int end, Results<real> &, Between<real> &, void *work);
  double (*peak)(long);      // multiply-adds in registers: the arithmetic limit
};

}  // namespace mlipfm
