// From arrow_quant::Error to the exception classes of arrow_quant_v2.errors.
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <new>
#include <thread>

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

// Calls of daemon threads when the interpreter ends: a thread that asks for the lock of the
// interpreter after that is killed by it, in the middle of C++.
std::atomic<bool> exiting{false};
std::atomic<int> running{0};

void stop_when_exiting() {
  if (exiting) throw Error(ErrorCode::kCancelled, "the interpreter is shutting down");
}

void stop_running_calls() {
  exiting = true;
  const nb::gil_scoped_release unlocked;  // the calls need the lock to end
  for (int i = 0; i < 500 && running > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace

void bind_errors(nb::module_& m) {
  nb::register_exception_translator(translate);
  m.def("stop_running_calls", &stop_running_calls,
        "Make calls that other threads run come to their end; for the end of the interpreter.");
}

PythonProgress::PythonProgress(Callback callback) : callback_(std::move(callback)) {
  ++running;
  if (callback_ && nb::hasattr(*callback_, "poll")) poll_ = callback_->attr("poll");
}

PythonProgress::~PythonProgress() { --running; }

void PythonProgress::report(std::string_view message, double fraction) {
  stop_when_exiting();
  const nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  if (!callback_) return;
  // Rounding may take a fraction a hair back or beyond 1; callers never see that.
  if (fraction > fraction_) fraction_ = fraction < 1 ? fraction : 1;
  (*callback_)(nb::str(message.data(), message.size()), fraction_);
}

void PythonProgress::poll() {
  stop_when_exiting();
  const nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  if (poll_.is_valid()) poll_();
}

}  // namespace arrow_quant::python
