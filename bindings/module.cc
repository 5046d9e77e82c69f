// The extension module `arrow_quant_v2._core`: the C++ engine as Python sees it.
//
// A thin layer. Names and structs are those of include/arrow_quant/; checking arguments, defaults
// and documentation for users are the Python package's. Every engine call runs without the GIL.
#include "bindings.h"

NB_MODULE(_core, m) {
  m.doc() = "The compiled engine. Use the functions of arrow_quant_v2 instead.";
  // Models that live until the interpreter ends hold views of tensors: no leak.
  nanobind::set_leak_warnings(false);
  m.attr("VERSION") = ARROW_QUANT_VERSION;
  arrow_quant::python::bind_errors(m);
  arrow_quant::python::bind_tensor(m);
  arrow_quant::python::bind_read(m);
  arrow_quant::python::bind_plan(m);
  arrow_quant::python::bind_pipeline(m);
  arrow_quant::python::bind_artefact(m);
  arrow_quant::python::bind_calibrate(m);
  arrow_quant::python::bind_legacy(m);
  arrow_quant::python::bind_packed(m);
  arrow_quant::python::bind_layers(m);
}
