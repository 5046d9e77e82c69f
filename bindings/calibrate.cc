// Calibration statistics: activations in as numpy arrays, sums out.
#include "arrow_quant/calibration.h"

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"

namespace arrow_quant::python {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrixOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

CalibratedLayer make_layer(std::string name, std::vector<uint64_t> shape, const Floats& sample) {
  return {std::move(name), std::move(shape), {sample.data(), sample.data() + sample.size()}};
}

// Nothing here waits for the lock of statistics while it holds the GIL: the thread that adds may
// hold the one and want the other.
using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

void check_number(const CalibrationStatistics& statistics, size_t input) {
  if (input >= statistics.size()) throw nb::index_error("there is no such input");
}

void add(CalibrationStatistics& statistics, size_t input, const Floats& values,
         const Doubles& timesteps, float weight, bool held_out) {
  PythonProgress progress(std::nullopt);
  const nb::gil_scoped_release unlocked;
  check_number(statistics, input);
  statistics.add(input,
                 {.values = {values.data(), values.size()},
                  .weight = weight,
                  .held_out = held_out,
                  .timesteps = {timesteps.data(), timesteps.size()}},
                 progress);
}

/// A method that reads something of one input.
template <auto kRead, typename... Args>
auto read(const CalibrationStatistics& statistics, size_t input, Args... args) {
  check_number(statistics, input);
  return (statistics.*kRead)(input, args...);
}

/// The full symmetric matrix into `out`.
void gram(const CalibrationStatistics& statistics, size_t input, bool held_out,
          const FloatMatrixOut& out) {
  check_number(statistics, input);
  const GramMatrix matrix = statistics.gram(input, held_out);
  const uint64_t n = statistics.channels(input);
  if (out.shape(0) != n || out.shape(1) != n) throw nb::index_error("the output has another shape");
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < n; ++j) {
      out.data()[i * n + j] = matrix.channels() == 0 ? 0.0F : matrix.at(i, j);
    }
  }
}

/// A numpy array with a copy of `values`.
template <typename T>
auto array_of(const std::vector<T>& values) {
  auto* copy = new std::vector<T>(values);
  const nb::capsule owner(copy, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(copy->data(), {copy->size()}, owner);
}

void bind_facts(nb::module_& m) {
  nb::class_<CalibratedLayer>(m, "CalibratedLayer", "A weight whose input is observed.")
      .def(
          "__init__",
          [](CalibratedLayer* self, std::string name, std::vector<uint64_t> shape,
             const Floats& sample) {
            new (self) CalibratedLayer(make_layer(std::move(name), std::move(shape), sample));
          },
          nb::arg("name"), nb::arg("shape"), nb::arg("sample"))
      .def_ro("name", &CalibratedLayer::name)
      .def_ro("shape", &CalibratedLayer::shape);
  nb::class_<FoldSource>(m, "FoldSource", "Rows of a parameter that make channels of an input.")
      .def(
          "__init__",
          [](FoldSource* self, std::string name, uint64_t row, double offset) {
            new (self) FoldSource{std::move(name), row, offset};
          },
          nb::arg("name"), nb::arg("row"), nb::arg("offset"))
      .def_ro("name", &FoldSource::name)
      .def_ro("row", &FoldSource::row)
      .def_ro("offset", &FoldSource::offset);
  nb::class_<Fold>(m, "Fold", "Layers, and the parameters before them that can take up factors.")
      .def(
          "__init__",
          [](Fold* self, std::vector<std::string> layers, std::vector<FoldSource> sources) {
            new (self) Fold{std::move(layers), std::move(sources)};
          },
          nb::arg("layers"), nb::arg("sources"))
      .def_ro("layers", &Fold::layers)
      .def_ro("sources", &Fold::sources);
  nb::class_<TimeBin>(m, "TimeBin", "Range and moments of every channel in a span of time.")
      .def_ro("begin", &TimeBin::begin)
      .def_ro("end", &TimeBin::end)
      .def_ro("tokens", &TimeBin::tokens)
      .def_prop_ro(
          "low", [](const TimeBin& b) { return array_of(b.low); }, nb::rv_policy::move)
      .def_prop_ro(
          "high", [](const TimeBin& b) { return array_of(b.high); }, nb::rv_policy::move)
      .def_prop_ro(
          "sum", [](const TimeBin& b) { return array_of(b.sum); }, nb::rv_policy::move)
      .def_prop_ro(
          "squares", [](const TimeBin& b) { return array_of(b.squares); }, nb::rv_policy::move);
}

}  // namespace

void bind_calibrate(nb::module_& m) {
  bind_facts(m);
  m.def("weight_sample_positions", &weight_sample_positions, nb::arg("elements"));
  nb::class_<CalibrationStatistics>(m, "CalibrationStatistics",
                                    "What calibration learned about the inputs of layers.")
      .def(
          "__init__",
          [](CalibrationStatistics* self, std::string component, std::string data,
             int num_threads) {
            new (self) CalibrationStatistics(
                CalibrationOptions{std::move(component), std::move(data), num_threads});
          },
          nb::arg("component"), nb::arg("data"), nb::arg("num_threads"))
      .def("add_input", &CalibrationStatistics::add_input, nb::arg("layers"), nb::arg("channels"),
           nb::arg("block"), WithoutGil())
      .def("add", &add, nb::arg("input"), nb::arg("values"), nb::arg("timesteps"),
           nb::arg("weight"), nb::arg("held_out"))
      .def("add_note", &CalibrationStatistics::add_note, nb::arg("text"), WithoutGil())
      .def("set_folds", &CalibrationStatistics::set_folds, nb::arg("folds"), WithoutGil())
      .def_prop_ro("folds", &CalibrationStatistics::folds, WithoutGil())
      .def("set_sensitivities", &CalibrationStatistics::set_sensitivities, nb::arg("sensitivities"),
           WithoutGil())
      .def_prop_ro("sensitivities", &CalibrationStatistics::sensitivities, WithoutGil())
      .def("set_roles", &CalibrationStatistics::set_roles, nb::arg("roles"), WithoutGil())
      .def_prop_ro("roles", &CalibrationStatistics::roles, WithoutGil())
      .def("merge", &CalibrationStatistics::merge, nb::arg("other"), WithoutGil())
      .def_prop_ro("component", &CalibrationStatistics::component, WithoutGil())
      .def_prop_ro("data", &CalibrationStatistics::data, WithoutGil())
      .def_prop_ro("notes", &CalibrationStatistics::notes, WithoutGil())
      .def("__len__", &CalibrationStatistics::size, WithoutGil())
      .def("layers", &read<&CalibrationStatistics::layers>, nb::arg("input"), WithoutGil())
      .def("channels", &read<&CalibrationStatistics::channels>, nb::arg("input"), WithoutGil())
      .def("block", &read<&CalibrationStatistics::block>, nb::arg("input"), WithoutGil())
      .def("tokens", &read<&CalibrationStatistics::tokens, bool>, nb::arg("input"),
           nb::arg("held_out"), WithoutGil())
      .def("bins", &read<&CalibrationStatistics::bins>, nb::arg("input"), WithoutGil())
      .def("gram", &gram, nb::arg("input"), nb::arg("held_out"), nb::arg("out"), WithoutGil())
      .def(
          "save",
          [](const CalibrationStatistics& self, const nb::bytes& path, bool overwrite) {
            const std::string where = path_of(path);
            const nb::gil_scoped_release unlocked;
            self.save(where, overwrite);
          },
          nb::arg("path"), nb::arg("overwrite"))
      .def_static(
          "load",
          [](const nb::bytes& path, int num_threads) {
            const std::string where = path_of(path);
            const nb::gil_scoped_release unlocked;
            return CalibrationStatistics::load(where, num_threads);
          },
          nb::arg("path"), nb::arg("num_threads"));
}

}  // namespace arrow_quant::python
