// From arrow_quant::Error to the exception classes of arrow_quant_v2.errors.
#include <exception>
#include <filesystem>
#include <new>

#include "arrow_quant/error.h"
#include "bindings.h"

namespace arrow_quant::python {
namespace {

const char* class_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kConfiguration:
      return "ConfigurationError";
    case ErrorCode::kModelNotFound:
      return "ModelNotFoundError";
    case ErrorCode::kMetadata:
      return "MetadataError";
    case ErrorCode::kShapeMismatch:
      return "ShapeMismatchError";
    case ErrorCode::kQuantization:
      return "QuantizationError";
    case ErrorCode::kValidation:
      return "ValidationError";
    case ErrorCode::kOutput:
      return "OutputError";
    case ErrorCode::kMemory:
    case ErrorCode::kCancelled:
      break;
  }
  return "ArrowQuantError";
}

// Text with a path in it, which need not be UTF-8.
nb::object text(std::string_view bytes) {
  return nb::steal(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape"));
}

// The text of `error` without its hint, which the Python classes keep apart.
std::string_view message_of(const Error& error) {
  std::string_view message = error.what();
  const size_t hint = error.hint().size();
  if (hint > 0) message.remove_suffix(hint + 1);
  return message;
}

void raise(const Error& error) {
  const nb::object cls =
      nb::module_::import_("arrow_quant_v2.errors").attr(class_name(error.code()));
  const nb::object instance =
      cls(text(message_of(error)), nb::arg("path") = text(error.path()),
          nb::arg("tensor") = text(error.tensor()), nb::arg("hint") = text(error.hint()));
  PyErr_SetObject(cls.ptr(), instance.ptr());
}

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kMemory) {
      PyErr_SetObject(PyExc_MemoryError, text(error.what()).ptr());
    } else if (error.code() == ErrorCode::kCancelled) {
      PyErr_SetObject(PyExc_KeyboardInterrupt, text(error.what()).ptr());
    } else {
      raise(error);
    }
  } catch (const std::filesystem::filesystem_error& error) {
    raise(Error(ErrorCode::kOutput, error.code().message(), {.path = error.path1().string()}));
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "out of memory in the quantization engine");
  }
}

}  // namespace

void bind_errors(nb::module_& /*m*/) { nb::register_exception_translator(translate); }

PythonProgress::PythonProgress(Callback callback) : callback_(std::move(callback)) {
  if (callback_ && nb::hasattr(*callback_, "poll")) poll_ = callback_->attr("poll");
}

void PythonProgress::report(std::string_view message, double fraction) {
  const nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  if (!callback_) return;
  // Rounding may take a fraction a hair back or beyond 1; callers never see that.
  if (fraction > fraction_) fraction_ = fraction < 1 ? fraction : 1;
  (*callback_)(nb::str(message.data(), message.size()), fraction_);
}

void PythonProgress::poll() {
  const nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  if (poll_.is_valid()) poll_();
}

}  // namespace arrow_quant::python
