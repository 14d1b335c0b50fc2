#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "density.h"
#include "displacements.h"
#include "dynamics.h"
#include "neighbors.h"
#include "threaded_products.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {
using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
using Bools = nb::ndarray<const bool, nb::c_contig, nb::device::cpu>;
// What is wrong with a geometry: kind (0: nothing), two atoms, a value.
using Wrong = std::tuple<int, int, int, double>;

Wrong wrong(const mlipfm::Refusal &r) { return {int(r.kind), r.first, r.second, r.value}; }
std::vector<double> copied(const Doubles &x) { return {x.data(), x.data() + x.size()}; }

struct Model {
  std::shared_ptr<mlipfm::Evaluator> evaluator;
};
Model density(const std::map<std::string, Doubles> &arrays, const std::map<std::string, double> &numbers, bool single, const std::string &instructions) {
  mlipfm::Arrays given;
  for (const auto &[name, array] : arrays) given.values[name] = copied(array);
  given.numbers = numbers;
  return {mlipfm::make_density(given, single, instructions)};
}

class System {
 public:
  System(const Model &model, std::vector<int> first, std::vector<int> types, Doubles cells, std::vector<int> periodic, double skin, int threads)
      : evaluator_(model.evaluator), neighbors_(std::move(first), std::move(types), copied(cells), std::move(periodic), evaluator_->cutoff(), skin),
        threads_(threads), dynamics_(*evaluator_, neighbors_, threads_) {}

  Wrong compute(Doubles positions, Out energy, Out force, nb::object virial, nb::object feature) {
    check(positions.size(), 3); check(energy.size(), 1); check(force.size(), 3);
    double *v = pointer(virial, 6), *f = pointer(feature, evaluator_->channels());
    nb::gil_scoped_release release;
    auto refusal = neighbors_.update(positions.data());
    if (refusal.kind) return wrong(refusal);
    force_.resize(4 * (size_t)neighbors_.atoms);
    const double closest = evaluator_->evaluate(neighbors_.list(), threads_, {energy.data(), force_.data(), v, f});
    double *to = force.data();
    for (size_t i = 0; i < (size_t)neighbors_.atoms; i++) for (int k = 0; k < 3; k++) to[3 * i + k] = force_[4 * i + k];
    if (closest < 0.01) return wrong(neighbors_.rebuild(positions.data()));  // nearer than 0.1 Angstrom: the search names the atoms
    return {0, 0, 0, 0.0};
  }
  // (step reached, why it stopped, system, value, what is wrong with the geometry).
  std::tuple<int64_t, int, int, double, Wrong> advance(nb::dict state, nb::dict ensemble, int64_t step, int64_t until) {
    mlipfm::Ensemble e;
    const auto kind = nb::cast<std::string>(ensemble["kind"]);
    e.kind = kind == "nve" ? mlipfm::Kind::NVE : kind == "langevin" ? mlipfm::Kind::LANGEVIN : kind == "bussi" ? mlipfm::Kind::BUSSI
           : kind == "nose-hoover" ? mlipfm::Kind::NOSE_HOOVER : mlipfm::Kind::NPT;
    auto number = [&](const char *name) { return nb::cast<double>(ensemble[name]); };
    e.dt = number("dt"); e.acceleration = number("acceleration"); e.boltzmann = number("boltzmann"); e.friction = number("friction");
    e.time = number("time"); e.hottest = number("hottest"); e.expansion = number("expansion");
    e.chain = nb::cast<int>(ensemble["chain"]); e.full = nb::cast<bool>(ensemble["full"]); e.seed = nb::cast<uint64_t>(ensemble["seed"]);
    e.temperature = copied(nb::cast<Doubles>(ensemble["temperature"])); e.pressure = copied(nb::cast<Doubles>(ensemble["pressure"]));
    e.start = copied(nb::cast<Doubles>(ensemble["start_cells"]));
    const size_t S = neighbors_.first.size() - 1;
    if (e.temperature.size() != S || e.pressure.size() != S || e.start.size() != 9 * S) throw std::invalid_argument("one value for each system is needed");
    auto array = [&](const char *name, size_t size) -> double * {
      if (!state.contains(name)) return nullptr;
      const auto x = nb::cast<Out>(state[name]);
      if (x.size() != size) throw std::invalid_argument(std::string(name) + " has another size than the systems say");
      return x.data();
    };
    const size_t N = neighbors_.atoms;
    mlipfm::Motion m{};
    m.position = array("positions", 3 * N); m.velocity = array("velocities", 3 * N); m.force = array("forces", 3 * N); m.energy = array("energies", S);
    m.mass = array("masses", N);
    const auto movable = nb::cast<Bools>(state["movable"]), centre = nb::cast<Bools>(state["centre"]);
    if (movable.size() != 3 * N || centre.size() != 3 * S) throw std::invalid_argument("masks have another size than the systems say");
    m.movable = movable.data(); m.centre = centre.data();
    m.cell = array("cells", 9 * S); m.stress = array("stress", 9 * S); m.heat = array("heat", S);
    m.chain_position = array("chain_position", S * e.chain); m.chain_velocity = array("chain_velocity", S * e.chain);
    m.cell_velocity = array("cell_velocity", 9 * S);
    const bool complete = m.position && m.velocity && m.force && m.energy && m.mass && (e.kind != mlipfm::Kind::BUSSI || m.heat) &&
                          (e.kind != mlipfm::Kind::NOSE_HOOVER || (m.chain_position && m.chain_velocity)) &&
                          (e.kind != mlipfm::Kind::NPT || (m.cell && m.stress && m.heat && m.cell_velocity));
    if (!complete) throw std::invalid_argument("the state lacks an array that these dynamics change");
    m.step = step;
    nb::gil_scoped_release release;
    const auto stop = dynamics_.run(e, m, until);
    return {m.step, int(stop.why), stop.system, stop.value, wrong(stop.refusal)};
  }
  Wrong restore(Doubles positions, Doubles cells) {
    check(positions.size(), 3);
    if (cells.size() != neighbors_.cells.size()) throw std::invalid_argument("one cell for each system is needed");
    return wrong(neighbors_.restore(positions.data(), cells.data()));
  }
  void set_cells(Doubles cells) {
    if (cells.size() != neighbors_.cells.size()) throw std::invalid_argument("one cell for each system is needed");
    neighbors_.set_cells(cells.data());
  }
  void set_types(const std::vector<int> &types) { check(types.size(), 1); neighbors_.set_types(types); }
  long builds() const { return neighbors_.builds; }
  long pairs() const {
    const auto l = neighbors_.list();
    return l.atoms && l.first_run && l.first_run[l.atoms] ? l.run_end[l.first_run[l.atoms] - 1] : 0;
  }
  long points() const { return neighbors_.total; }
  std::vector<double> reference() const { return neighbors_.reference; }
  std::vector<double> reference_cells() const { return neighbors_.reference_cells; }

 private:
  void check(size_t size, size_t each) const {
    if (size != each * (size_t)neighbors_.atoms) throw std::invalid_argument("an array has another size than the systems say");
  }
  double *pointer(nb::object x, size_t each) const {
    if (x.is_none()) return nullptr;
    const auto out = nb::cast<Out>(x);
    check(out.size(), each);
    return out.data();
  }

  std::shared_ptr<mlipfm::Evaluator> evaluator_;
  mlipfm::Neighbors neighbors_;
  mlipfm::Threads threads_;
  mlipfm::Dynamics dynamics_;
  std::vector<double> force_;
};

// Arrays of `products.h`: sizes that do not fit each other are refused here. None is a gradient that is not wanted, or a factor that does not change.
template <class real> using In = nb::ndarray<const real, nb::c_contig, nb::device::cpu>;
template <class real> using To = nb::ndarray<real, nb::c_contig, nb::device::cpu>;
using Index = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Small = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
void fit(bool good) {
  if (!good) throw std::invalid_argument("arrays have sizes that do not fit each other");
}
template <class Array> auto *some(const std::optional<Array> &x, size_t size) {
  fit(!x || x->size() == size);
  return x ? x->data() : nullptr;
}
template <class real>
void cubic(Small first, Small term, In<real> weight, In<real> x, In<real> y, In<real> z, To<real> out, int threads,
           const std::string &instructions) {
  fit(x.ndim() == 2 && y.ndim() == 2 && z.ndim() == 2 && out.ndim() == 2 && first.size() == out.shape(0) + 1);
  const size_t columns = out.shape(1), terms = weight.size();
  fit(term.size() == 3 * terms && first.data()[0] == 0 && (size_t)first.data()[out.shape(0)] == terms);
  const In<real> operands[] = {x, y, z};
  mlipfm::Operand<real> of[3];
  for (int k = 0; k < 3; k++) {
    fit(operands[k].shape(1) == columns && operands[k].shape(0) < mlipfm::MAX_ROWS);
    of[k] = {operands[k].data(), int(operands[k].shape(0))};
    for (size_t t = 0; t < terms; t++) fit(term.data()[3 * t + k] >= 0 && term.data()[3 * t + k] <= of[k].count);
  }
  for (size_t o = 0; o < out.shape(0); o++) fit(first.data()[o] <= first.data()[o + 1]);
  nb::gil_scoped_release release;
  mlipfm::cubic<real>({first.data(), term.data(), weight.data(), int(out.shape(0)), columns}, of[0], of[1], of[2], out.data(), threads, instructions);
}
template <class real> struct Message {
  Message(const Index &first, const Index &neighbor, const In<real> &Y, const In<real> &R, const In<real> &W, const In<real> &s)
      : p{first.data(), neighbor.data(), neighbor.size(), first.size() - 1, int(Y.shape(0)), int(R.shape(0)), int(W.shape(1)), 0},
        f{Y.data(), R.data(), W.data(), s.data()}, scalars(s.size()) {
    fit(Y.ndim() == 2 && R.ndim() == 2 && W.ndim() == 2 && s.ndim() == 2 && first.size() > 0);
    fit(Y.shape(1) == p.pairs && R.shape(1) == p.pairs && W.shape(0) == R.shape(0) && s.shape(1) == W.shape(1) && p.channels % 16 == 0);
    fit(p.first[0] == 0 && (size_t)p.first[p.atoms] == p.pairs && p.pairs < (size_t(1) << 31) && p.atoms * p.channels < (size_t(1) << 31));
    for (size_t k = 0; k < p.pairs; k++) fit(p.neighbor[k] >= 0 && (size_t)p.neighbor[k] < s.shape(0));
  }
  size_t size() const { return p.rows * p.atoms * p.channels; }
  size_t weights() const { return (size_t)p.functions * p.channels; }
  mlipfm::Gradients<real> gradients(const std::optional<To<real>> &Y, const std::optional<To<real>> &R, const std::optional<To<real>> &W,
                                    const std::optional<To<real>> &s) const {
    return {some(Y, p.rows * p.pairs), some(R, p.functions * p.pairs), some(W, weights()), some(s, scalars)};
  }
  mlipfm::Pairs p;
  mlipfm::Factors<real> f;
  size_t scalars;
};
template <class real>
void message(Index first, Index neighbor, In<real> Y, In<real> R, In<real> W, In<real> s, To<real> out, int threads, const std::string &instructions) {
  const Message<real> m(first, neighbor, Y, R, W, s);
  fit(out.size() == m.size());
  nb::gil_scoped_release release;
  mlipfm::message<real>(m.p, m.f, out.data(), threads, instructions);
}
template <class real>
void message_gradient(Index first, Index neighbor, In<real> Y, In<real> R, In<real> W, In<real> s, In<real> g, std::optional<To<real>> by_Y,
                      std::optional<To<real>> by_R, std::optional<To<real>> by_W, std::optional<To<real>> by_s, int threads,
                      const std::string &instructions) {
  const Message<real> m(first, neighbor, Y, R, W, s);
  fit(g.size() == m.size());
  const auto by = m.gradients(by_Y, by_R, by_W, by_s);
  nb::gil_scoped_release release;
  mlipfm::message_gradient<real>(m.p, m.f, g.data(), by, m.scalars, threads, instructions);
}
template <class real>
void message_second(Index first, Index neighbor, In<real> Y, In<real> R, In<real> W, In<real> s, In<real> g, std::optional<In<real>> v_Y,
                    std::optional<In<real>> v_R, std::optional<In<real>> v_W, std::optional<In<real>> v_s, To<real> by_g, std::optional<To<real>> by_Y,
                    std::optional<To<real>> by_R, std::optional<To<real>> by_W, std::optional<To<real>> by_s, int threads,
                    const std::string &instructions) {
  const Message<real> m(first, neighbor, Y, R, W, s);
  fit(g.size() == m.size() && by_g.size() == m.size());
  const mlipfm::Factors<real> v{some(v_Y, m.p.rows * m.p.pairs), some(v_R, m.p.functions * m.p.pairs), some(v_W, m.weights()), some(v_s, m.scalars)};
  const auto by = m.gradients(by_Y, by_R, by_W, by_s);
  nb::gil_scoped_release release;
  mlipfm::message_second<real>(m.p, m.f, g.data(), v, by_g.data(), by, m.scalars, threads, instructions);
}
mlipfm::Expansion expansion_of(const Index &first, const Small &kind, int kinds, int degree, int functions, double cutoff, double factor) {
  fit(first.size() > 0 && kinds > 0 && functions > 0 && degree >= 1 && degree <= 3 && cutoff > 0);
  mlipfm::Expansion e{first.data(), kind.data(), kind.size(), first.size() - 1, degree, functions, kinds, cutoff, factor, 0};
  fit(e.first[0] == 0 && (size_t)e.first[e.atoms] == e.pairs);
  for (size_t p = 0; p < e.pairs; p++) fit(e.kind[p] < kinds);
  return e;
}
template <class real>
void expansion(Index first, Small kind, int kinds, int degree, int functions, double cutoff, double factor, In<real> d, std::optional<In<real>> along,
               To<real> out, int threads, const std::string &instructions) {
  const auto e = expansion_of(first, kind, kinds, degree, functions, cutoff, factor);
  fit(d.size() == 3 * e.pairs && out.size() == (size_t)kinds * functions * e.atoms * (degree + 1) * (degree + 1));
  nb::gil_scoped_release release;
  mlipfm::expansion<real>(e, {d.data(), some(along, d.size())}, out.data(), threads, instructions);
}
template <class real>
void expansion_gradient(Index first, Small kind, int kinds, int degree, int functions, double cutoff, double factor, In<real> d,
                        std::optional<In<real>> along, In<real> g, To<real> out, int threads, const std::string &instructions) {
  const auto e = expansion_of(first, kind, kinds, degree, functions, cutoff, factor);
  fit(d.size() == 3 * e.pairs && out.size() == d.size() && g.size() == (size_t)kinds * functions * e.atoms * (degree + 1) * (degree + 1));
  nb::gil_scoped_release release;
  mlipfm::expansion_gradient<real>(e, {d.data(), some(along, d.size())}, g.data(), out.data(), threads, instructions);
}
mlipfm::PairFunctions pair_functions_of(int degree, int functions, double cutoff, const Doubles &factors, size_t numbers) {
  mlipfm::PairFunctions f{numbers / 3, degree, functions, cutoff, factors.data()};
  fit(functions > 0 && degree >= 1 && degree <= 3 && cutoff > 0 && factors.size() == (size_t)f.rows() && numbers == 3 * f.pairs);
  return f;
}
template <class real>
void pair_functions(int degree, int functions, double cutoff, Doubles factors, In<real> d, std::optional<In<real>> along, To<real> out, int threads,
                    const std::string &instructions) {
  const auto f = pair_functions_of(degree, functions, cutoff, factors, d.size());
  fit(out.size() == f.rows() * f.pairs);
  nb::gil_scoped_release release;
  mlipfm::pair_functions<real>(f, {d.data(), some(along, d.size())}, out.data(), threads, instructions);
}
template <class real>
void pair_functions_gradient(int degree, int functions, double cutoff, Doubles factors, In<real> d, std::optional<In<real>> along, In<real> g,
                             To<real> out, int threads, const std::string &instructions) {
  const auto f = pair_functions_of(degree, functions, cutoff, factors, d.size());
  fit(out.size() == d.size() && g.size() == f.rows() * f.pairs);
  nb::gil_scoped_release release;
  mlipfm::pair_functions_gradient<real>(f, {d.data(), some(along, d.size())}, g.data(), out.data(), threads, instructions);
}
using Long = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
mlipfm::Displacements displacements_of(const Index &first, const Long &neighbor, const Long &shift, const Bools &mask, const Index &system,
                                       const Doubles &cell, double far) {
  mlipfm::Displacements d{first.data(), neighbor.data(), shift.data(), mask.data(), system.data(), cell.data(), system.size(), neighbor.size(), cell.size() / 9, far};
  fit(first.size() == d.atoms + 1 && shift.size() == 3 * d.pairs && mask.size() == d.pairs && cell.size() == 9 * d.systems);
  fit(d.first[0] == 0 && (size_t)d.first[d.atoms] == d.pairs);
  for (size_t a = 0; a < d.atoms; a++) fit(d.first[a] <= d.first[a + 1] && d.system[a] >= 0 && (size_t)d.system[a] < d.systems);
  for (size_t p = 0; p < d.pairs; p++) fit(d.neighbor[p] >= 0 && (size_t)d.neighbor[p] < d.atoms);
  return d;
}
template <class real>
void displacements(Index first, Long neighbor, Long shift, Bools mask, Index system, Doubles cell, double far, Doubles x,
                   std::optional<Doubles> strain, std::optional<Doubles> along_x, std::optional<Doubles> along_strain, To<real> out) {
  const auto d = displacements_of(first, neighbor, shift, mask, system, cell, far);
  fit(x.size() == 3 * d.atoms && out.size() == 3 * d.pairs);
  const double *e = some(strain, cell.size()), *v = some(along_x, x.size()), *w = some(along_strain, cell.size());
  nb::gil_scoped_release release;
  mlipfm::displacements<real>(d, x.data(), e, v, w, out.data());
}
template <class real>
void displacements_gradient(Index first, Long neighbor, Long shift, Bools mask, Index system, Doubles cell, double far, Doubles x,
                            std::optional<Doubles> strain, std::optional<Doubles> along_x, std::optional<Doubles> along_strain, In<real> g,
                            std::optional<Out> by_x, std::optional<Out> by_strain) {
  const auto d = displacements_of(first, neighbor, shift, mask, system, cell, far);
  fit(x.size() == 3 * d.atoms && g.size() == 3 * d.pairs);
  const double *e = some(strain, cell.size()), *v = some(along_x, x.size()), *w = some(along_strain, cell.size());
  double *to_x = some(by_x, x.size()), *to_strain = some(by_strain, cell.size());
  nb::gil_scoped_release release;
  mlipfm::displacements_gradient<real>(d, x.data(), e, v, w, g.data(), to_x, to_strain);
}
template <class real> void products(nb::module_ &m) {
  m.def("displacements", &displacements<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg());
  m.def("displacements_gradient", &displacements_gradient<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg().none());
  m.def("pair_functions", &pair_functions<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
        nb::arg());
  m.def("pair_functions_gradient", &pair_functions_gradient<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(),
        nb::arg(), nb::arg(), nb::arg());
  m.def("expansion", &expansion<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
        nb::arg(), nb::arg(), nb::arg());
  m.def("expansion_gradient", &expansion_gradient<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg());
  m.def("cubic", &cubic<real>);
  m.def("message", &message<real>);
  m.def("message_gradient", &message_gradient<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
        nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg());
  m.def("message_second", &message_second<real>, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
        nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
        nb::arg(), nb::arg());
}
}  // namespace

NB_MODULE(_kernels, m) {
  products<float>(m);
  products<double>(m);
  m.def("instruction_sets", &mlipfm::instruction_sets);
  m.def("peak", &mlipfm::peak, "single"_a, "instructions"_a, "repeats"_a);
  m.def("density", &density, "arrays"_a, "numbers"_a, "single"_a, "instructions"_a);
  m.def("springs", [](double stiffness, Doubles places) { return Model{mlipfm::make_springs(stiffness, copied(places))}; });
  m.def("normals", [](uint64_t seed, uint32_t purpose, uint32_t system, int64_t step, Out out) {
    mlipfm::normals(seed, purpose, system, step, int(out.size()), out.data());
  });
  nb::class_<Model>(m, "Model")
      .def_prop_ro("instructions", [](const Model &x) { return std::string(x.evaluator->instructions()); })
      .def_prop_ro("channels", [](const Model &x) { return x.evaluator->channels(); })
      .def_prop_ro("cutoff", [](const Model &x) { return x.evaluator->cutoff(); });
  nb::class_<System>(m, "System")
      .def(nb::init<const Model &, std::vector<int>, std::vector<int>, Doubles, std::vector<int>, double, int>())
      .def("compute", &System::compute, "positions"_a, "energy"_a, "force"_a, "virial"_a.none(), "feature"_a.none())
      .def("advance", &System::advance)
      .def("restore", &System::restore)
      .def("set_cells", &System::set_cells)
      .def("set_types", &System::set_types)
      .def_prop_ro("builds", &System::builds)
      .def_prop_ro("pairs", &System::pairs)
      .def_prop_ro("points", &System::points)
      .def_prop_ro("reference", &System::reference)
      .def_prop_ro("reference_cells", &System::reference_cells);
}
